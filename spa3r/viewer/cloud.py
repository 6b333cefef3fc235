"""The points of a scene in the page, with their controls.

Legend: N points, C context views, h w raster of the surface.
"""

from dataclasses import replace
from typing import Final

import cv2
import numpy as np
import viser

from spa3r.camera import context_cameras
from spa3r.geometry import transform_points
from spa3r.latent import SceneLatent
from spa3r.point_cloud import PointCloud, coloured, field_points, surface_points
from spa3r.viewer.worker import Worker

RGB: Final = "RGB"
DEPTH: Final = "depth"
CONFIDENCE: Final = 40.0
"""Per cent of the points left out at first, the least sure ones, as `spa3r export` leaves them out;
of equally sure points none is."""
_NO_POINTS: Final = (
    "This scene has no surface points: encode it with spa3r encode --points, or give its encoder to"
    " see those that the field predicts."
)
_TAILS: Final = (2.0, 98.0)  # percentiles of the depths that span the colour range


class CloudPanel:
    """The teacher's surface points; where a scene has none, the points that the field predicts.

    Call inside the container of the page that its controls belong to.

    Args:
        kinds: of features that the scene's encoder predicts; empty without one.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        scene: SceneLatent,
        worker: Worker,
        kinds: tuple[str, ...],
    ) -> None:
        self._server, self._scene, self._worker = server, scene, worker
        self._done: dict[str, PointCloud] = {}
        self.handle: viser.PointCloudHandle | None = None
        gui = server.gui
        if scene.surface is None and not kinds:
            gui.add_html(_note(_NO_POINTS))
            return
        rgb = () if scene.surface is None else (RGB,)
        labels = (*rgb, *(f"{kind} features" for kind in kinds), DEPTH)
        most = _raster_cells(scene)
        self.colour = gui.add_dropdown("Colour", labels)
        self.size = gui.add_slider("Point size", min=0.2, max=4.0, step=0.1, initial_value=1.5,
                                   hint="in cells of the depth map")  # fmt: skip
        self.confidence = gui.add_slider("Drop unsure %", min=0.0, max=99.0, step=1.0,
                                         initial_value=CONFIDENCE)  # fmt: skip
        self.most = gui.add_slider("Most points", min=min(1000, most), max=most,
                                   step=max(1, most // 100), initial_value=most)  # fmt: skip
        self._count = gui.add_html("")
        for control in (self.colour, self.confidence, self.most):
            control.on_update(lambda _: self._ask())
        self.size.on_update(lambda _: worker.ask("point size", self._resize))
        self._ask()

    def _ask(self) -> None:
        self._worker.ask("points", self._draw)

    def _draw(self) -> None:
        whole = self._in_colours(self.colour.value)
        cloud = whole.keep(self.confidence.value, max_points=int(self.most.value))
        if self.handle is None:
            self.handle = self._server.scene.add_point_cloud(
                "/points",
                cloud.points_N3,
                cloud.colours_N3,
                point_size=self._cell() * self.size.value,
                point_shape="circle",
                point_shading="flat",
                precision="float32",
            )
        else:
            with self._server.atomic():  # as many colours as points at any time
                self.handle.points = cloud.points_N3
                self.handle.colors = cloud.colours_N3
        self._count.content = _note(f"{len(cloud):,} of {len(whole):,} points")

    def _resize(self) -> None:
        if self.handle is not None:
            self.handle.point_size = self._cell() * self.size.value

    def _in_colours(self, label: str) -> PointCloud:
        """All points in the asked colours; each colouring is made once."""
        if label not in self._done:
            plain = self._plain()
            kind, _, features = label.partition(" ")
            if features:
                self._done[label] = coloured(self._scene, plain, kind)
            elif label == DEPTH:
                colours_N3 = depth_colours(depth_in_view(self._scene, plain))
                self._done[label] = replace(plain, colours_N3=colours_N3)
            else:
                self._done[label] = plain
        return self._done[label]

    def _plain(self) -> PointCloud:
        if "" not in self._done:
            points = field_points if self._scene.surface is None else surface_points
            self._done[""] = points(self._scene)
            depth_N = depth_in_view(self._scene, self._done[""])
            self._depth = float(np.median(depth_N)) if len(depth_N) else 1.0
        return self._done[""]

    def _cell(self) -> float:
        """Width of what one cell of the depth map sees at the median depth."""
        _, columns = _raster(self._scene)
        focal = float(self._scene.K_C33[0, 0, 0]) * columns / self._scene.image_size[0]
        return self._depth / focal


def depth_in_view(scene: SceneLatent, cloud: PointCloud) -> np.ndarray:
    """z-depth (N,) of every point in the context view that saw it, in the scene's unit."""
    depth_N = np.zeros(len(cloud))
    for view, camera in enumerate(context_cameras(scene)):
        seen_N = cloud.view_N == view
        points_M3 = cloud.points_N3[seen_N].astype(np.float64)
        depth_N[seen_N] = transform_points(camera.camera_from_world_44, points_M3)[:, 2]
    return depth_N


def depth_colours(depth_N: np.ndarray) -> np.ndarray:
    """Viridis from near (dark) to far (bright), (N, 3) uint8; colours span most of the depths."""
    if len(depth_N) == 0:
        return np.zeros((0, 3), np.uint8)
    near, far = np.percentile(depth_N, _TAILS)
    share_N = np.clip((depth_N - near) / max(far - near, 1e-9), 0, 1)
    levels_N1 = np.rint(255 * share_N).astype(np.uint8)[:, None]
    return cv2.applyColorMap(levels_N1, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]


def _raster(scene: SceneLatent) -> tuple[int, int]:
    """Rows and columns of the depth maps that the points come from."""
    if scene.surface is None:
        return scene.grid_hw
    _, rows, columns = scene.surface.depth_Chw.shape
    return rows, columns


def _raster_cells(scene: SceneLatent) -> int:
    rows, columns = _raster(scene)
    return scene.num_views * rows * columns


def _note(text: str) -> str:
    return f'<div style="padding: 0 0.8em 0.4em; font-size: 0.8em; opacity: 0.7">{text}</div>'
