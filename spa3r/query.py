"""Asking the field: features and depth at any camera.

Legend: S cameras decoded together (each alone with its scene's latents), L latents, N tokens per
camera, D width, h w patch rows and columns.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from spa3r.camera import Camera, Cameras, context_camera
from spa3r.errors import ConfigError
from spa3r.field_view import FieldView
from spa3r.images import fit_size, scale_K

if TYPE_CHECKING:
    from spa3r.hub import Spa3REncoder
    from spa3r.latent import SceneLatent

CHUNK: Final = 8
"""Cameras decoded at once. At full size (1259 tokens of width 768, 999 of them to features of width
2048 and 1024) decoding takes about 75 MB a camera in float32, measured on a CPU: a trajectory of
any length stays within 0.7 GB beside its answer of 12 MB a camera, and eight keep a GPU busy."""
_NAMES: Final = {"geo": "geometric", "sem": "semantic", "lang": "linguistic"}


def query(
    encoder: "Spa3REncoder", scene: "SceneLatent", camera: int | Camera | Cameras
) -> FieldView:
    """Features and depth at a camera.

    Cameras are decoded independently of each other; one answers the same alone and in a
    trajectory up to rounding (1e-5 of the features' scale in float32).

    Args:
        camera: index of a context view; or a Camera in the scene's world and unit of length (a
            pose in metres: `camera.from_metres(scene.metres_per_unit)`); or a sequence of Cameras.
            K of a camera with a `size` is brought to the working image by the same resize and
            centre crop as the images were; without one it belongs to the working image.

    Raises:
        ConfigError: no such view, not a camera, a size that does not lead to the scene's
            working image, or no size and K of another image.
        WeightsError: the scene was made by another encoder.
    """
    return query_many(encoder, [scene], [camera])[0]


def query_many(
    encoder: "Spa3REncoder",
    scenes: Sequence["SceneLatent"],
    cameras: Sequence[int | Camera | Cameras],
) -> list[FieldView]:
    """One camera or trajectory for each scene; cameras of scenes of one grid are decoded together.

    Raises:
        ConfigError: unequal numbers of scenes and cameras, or as `query`.
        WeightsError: as `query`.
    """
    if len(scenes) != len(cameras):
        raise ConfigError(f"{len(scenes)} scenes but {len(cameras)} cameras: give one for each")
    for scene in scenes:
        if scene.encoder is not encoder:
            scene.attach(encoder)  # refuses latents of another encoder
    asked = [_cameras(encoder, s, c) for s, c in zip(scenes, cameras, strict=True)]
    views: dict[int, FieldView] = {}
    for grid_hw in dict.fromkeys(scene.grid_hw for scene in scenes):
        members = [i for i, scene in enumerate(scenes) if scene.grid_hw == grid_hw]
        found = _decode(encoder, [(scenes[i], camera) for i in members for camera in asked[i]])
        start = 0
        for i in members:
            stop = start + len(asked[i])
            part = {name: x[start:stop] for name, x in found.items()}
            if isinstance(cameras[i], Camera | int | np.integer):
                part = {name: x[0] for name, x in part.items()}
            views[i] = FieldView(
                cameras=tuple(asked[i]),
                patch_size=scenes[i].patch_size,
                depth_offset=encoder.depth_offset,
                metres_per_unit=scenes[i].metres_per_unit,
                **part,
            )
            start = stop
    return [views[i] for i in range(len(scenes))]


# No inference_mode: its tensors cannot be used where a probe is trained on the features.
@torch.no_grad()
def _decode(
    encoder: "Spa3REncoder", asked: Sequence[tuple["SceneLatent", Camera]]
) -> dict[str, Tensor]:
    """Fields of a FieldView with a leading axis S over the pairs, whose scenes have one grid."""
    model, device = encoder.model, encoder.device
    rows, columns = grid_hw = asked[0][0].grid_hw
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(asked), CHUNK):
        chunk = asked[start : start + CHUNK]
        latents_SLD = torch.stack([scene.latents_LD for scene, _ in chunk]).float()
        poses_S144 = np.stack([camera.camera_from_world_44[None] for _, camera in chunk])
        K_S133 = np.stack([camera.K_33[None] for _, camera in chunk])
        with torch.autocast(device.type, torch.bfloat16, enabled=encoder.precision == "bfloat16"):
            hidden_S1ND = model.decode(
                latents_SLD.to(device),
                torch.from_numpy(poses_S144).float().to(device),
                torch.from_numpy(K_S133).float().to(device),
                grid_hw,
            )
        # The heads in float32: the 8 bits of bfloat16 would cut a depth map into steps.
        prediction = model.destandardise(model.predict(hidden_S1ND.float()))
        answer = {_NAMES[kind]: x for kind, x in prediction.features().items()}
        for name, x_S1ND in answer.items():
            found.setdefault(name, []).append(x_S1ND[:, 0].unflatten(1, (rows, columns)).cpu())
        depth_Shw = prediction.depth_BVN[:, 0].unflatten(1, (rows, columns))
        found.setdefault("depth", []).append(depth_Shw.cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


# --- cameras --------------------------------------------------------------------------------------


def _cameras(
    encoder: "Spa3REncoder", scene: "SceneLatent", camera: int | Camera | Cameras
) -> list[Camera]:
    """The asked cameras with K and size of the scene's working image."""
    asked: Any = camera
    if isinstance(camera, int | np.integer) and not isinstance(camera, bool):
        asked = [context_camera(scene, int(camera))]
    elif isinstance(camera, Camera):
        asked = [camera]
    if not isinstance(asked, Sequence) or not all(isinstance(one, Camera) for one in asked):
        raise ConfigError(
            f"ask with the index of a context view, a Camera (Camera.from_pose) or a sequence of"
            f" Cameras, not {type(camera).__name__}"
        )
    if not asked:
        raise ConfigError("a trajectory without cameras: give at least one")
    return [_to_working_image(encoder, scene, one) for one in asked]


def _to_working_image(encoder: "Spa3REncoder", scene: "SceneLatent", camera: Camera) -> Camera:
    if camera.size is None or camera.size == scene.image_size:
        # Refuses K of another image: a photo's, whose principal point lies outside this one.
        return replace(camera, size=scene.image_size)
    size = fit_size(camera.size, encoder.card.image_width, encoder.card.image_multiple)
    if (size.width, size.height) != scene.image_size:
        raise ConfigError(
            f"a camera of {camera.size[0]} x {camera.size[1]} pixels comes to"
            f" {size.width} x {size.height}, but this scene has working images of"
            f" {scene.image_size[0]} x {scene.image_size[1]}: give K and size of an image of that"
            " aspect ratio"
        )
    return Camera(camera.world_from_camera_44, scale_K(camera.K_33, size), scene.image_size)
