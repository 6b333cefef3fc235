"""What the field predicts along a trajectory, in the page.

Legend: V cameras, H W pixels of the working image.
"""

import threading
from collections import OrderedDict
from typing import Final

import cv2
import numpy as np
import viser

from spa3r.camera import Camera
from spa3r.latent import SceneLatent
from spa3r.trajectories import TRAJECTORIES
from spa3r.viewer.cameras import PATH_COLOUR, Stage, move
from spa3r.viewer.worker import Worker
from spa3r.viz.maps import depth_limits, depth_maps, feature_basis, pca_maps
from spa3r.viz.pca import PcaBasis

FRAMES: Final = 60
"""Cameras of a trajectory."""
_PERIOD: Final = 0.12
"""Seconds between frames while it plays, if the model keeps up."""
_CACHED: Final = 2 * FRAMES
"""Predictions kept as images: 1.2 MB each at a working size of 518 x 392."""
_WIDTH: Final = 480
"""Pixels that images have at least: the page does not enlarge them to its panel."""


class FieldPanel:
    """A camera on a trajectory, with the features and the depth that are predicted for it.

    Colours of features are those of the point cloud: one basis, fitted to the context views. Call
    inside the container of the page that its controls belong to.

    Args:
        kinds: of features that the scene's encoder predicts, at least one.
        trajectory: name in TRAJECTORIES to start with.
    """

    def __init__(
        self,
        stage: Stage,
        scene: SceneLatent,
        worker: Worker,
        kinds: tuple[str, ...],
        trajectory: str,
    ) -> None:
        self._stage, self._scene, self._worker = stage, scene, worker
        self._paths: dict[str, list[Camera]] = {}
        self._images: OrderedDict[tuple[str, int, str], _Images] = OrderedDict()
        self._bases: dict[str, PcaBasis] = {}
        self._limits = (0.0, 1.0)
        self._lock = threading.Lock()
        self._pause: threading.Event | None = None  # set: playing ends
        gui = stage.server.gui
        self.trajectory = gui.add_dropdown(
            "Trajectory", tuple(TRAJECTORIES), initial_value=trajectory
        )
        self.frame = gui.add_slider("Frame", min=1, max=FRAMES, step=1, initial_value=1)
        self.play = gui.add_button("Play", icon=viser.Icon.PLAYER_PLAY)
        self.kind = gui.add_dropdown("Features", kinds)
        blank = np.zeros((_WIDTH * scene.grid_hw[0] // scene.grid_hw[1], _WIDTH, 3), np.uint8)
        self.features = gui.add_image(blank, label="Predicted features", format="png")
        self.depth = gui.add_image(blank, label="Predicted depth", format="png")
        self._frustum = stage.add_frustum("/trajectory/camera", self.camera, PATH_COLOUR)
        self._draw_path()
        self.trajectory.on_update(lambda _: self._change_path())
        self.frame.on_update(lambda _: self._move())
        self.kind.on_update(lambda _: self._ask())
        self.play.on_click(lambda _: self._toggle())
        self._ask()

    @property
    def camera(self) -> Camera:
        """Where the slider stands."""
        return self._path(self.trajectory.value)[self.frame.value - 1]

    def close(self) -> None:
        """Stops playing."""
        with self._lock:
            if self._pause is not None:
                self._pause.set()

    # --- the trajectory ---------------------------------------------------------------------------

    def _path(self, name: str) -> list[Camera]:
        if name not in self._paths:
            self._paths[name] = TRAJECTORIES[name](self._scene, num_views=FRAMES)
        return self._paths[name]

    def _draw_path(self) -> None:
        cameras = self._path(self.trajectory.value)
        centres_V3 = np.stack([camera.world_from_camera_44[:3, 3] for camera in cameras])
        steps = np.linalg.norm(np.diff(centres_V3, axis=0), axis=1)
        if np.linalg.norm(centres_V3[-1] - centres_V3[0]) < 1.01 * steps.max():
            centres_V3 = np.concatenate([centres_V3, centres_V3[:1]])  # a full turn
        self._stage.server.scene.add_line_segments(
            "/trajectory/path",
            np.stack([centres_V3[:-1], centres_V3[1:]], axis=1).astype(np.float32),
            PATH_COLOUR,
            thickness=0.003 * self._stage.distance,
        )

    def _change_path(self) -> None:
        self._draw_path()
        self._move()

    def _move(self) -> None:
        # Callbacks run on several threads; each shows what holds now, so the last one is right.
        with self._lock:
            move(self._frustum, self.camera)
        self._ask()

    def _toggle(self) -> None:
        with self._lock:
            if self._pause is not None:
                self._pause.set()
                self._pause = None
                self.play.label, self.play.icon = "Play", viser.Icon.PLAYER_PLAY
                return
            self._pause = pause = threading.Event()
            self.play.label, self.play.icon = "Pause", viser.Icon.PLAYER_PAUSE
        threading.Thread(target=self._advance, args=(pause,), daemon=True).start()

    def _advance(self, pause: threading.Event) -> None:
        while not pause.wait(_PERIOD):
            self._worker.wait()  # each frame is seen before the next one
            self.frame.value = self.frame.value % FRAMES + 1

    # --- predictions ------------------------------------------------------------------------------

    def _ask(self) -> None:
        self._worker.ask("prediction", self._show)

    def _show(self) -> None:
        name, number, kind = self.trajectory.value, self.frame.value, self.kind.value
        key = (name, number, kind)
        if key not in self._images:
            self._images[key] = self._predict(self._path(name)[number - 1], kind)
        self._images.move_to_end(key)
        if len(self._images) > _CACHED:
            self._images.popitem(last=False)
        features_HW3, depth_HW3 = self._images[key]
        with self._stage.server.atomic():
            self.features.image = features_HW3
            self.features.label = f"Predicted {kind} features, {name} {number} of {FRAMES}"
            self.depth.image = depth_HW3
            self.depth.label = f"Predicted depth, {self._range()}"

    def _predict(self, camera: Camera, kind: str) -> "_Images":
        if not self._bases:
            self._prepare()
        answer = self._scene.query([camera])
        return (
            _wide_enough(pca_maps(answer, kind, self._bases[kind])[0]),
            _wide_enough(depth_maps(answer, self._limits)[0]),
        )

    def _prepare(self) -> None:
        """Colours that hold for the whole scene, from what is predicted for its context views."""
        context = self._scene.query(self._stage.cameras)
        self._limits = depth_limits(context)
        self._bases = {kind: feature_basis(context, kind) for kind in context.kinds}

    def _range(self) -> str:
        """What the colours of the depth maps span, for people."""
        (near, far), scale, unit = self._limits, self._scene.metres_per_unit, "m"
        if not scale > 0:
            scale, unit = 1.0, "units"
        return f"dark {near * scale:.2f} to bright {far * scale:.2f} {unit}"


_Images = tuple[np.ndarray, np.ndarray]
"""Features and depth, (H, W, 3) uint8."""


def _wide_enough(image_HW3: np.ndarray) -> np.ndarray:
    height, width = image_HW3.shape[:2]
    if width >= _WIDTH:
        return image_HW3
    size = (_WIDTH, round(height * _WIDTH / width))
    return cv2.resize(image_HW3, size, interpolation=cv2.INTER_LINEAR)
