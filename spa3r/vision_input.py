"""From what a user holds (images, depth, cameras) to the views a teacher looks at.

Legend: B scenes, V views, H W pixels, h w pixels of a depth map as given.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spa3r.camera import check_intrinsics
from spa3r.errors import ConfigError, ImageError
from spa3r.geometry import is_rigid
from spa3r.given_images import GivenImages, is_one, to_working_size
from spa3r.images import WorkingSize, resize_nearest, scale_K
from spa3r.teachers.base import ClipViews


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneViews:
    """The context views of one scene at working size, checked."""

    rgb_VHW3: np.ndarray  # uint8
    depth_VHW: np.ndarray | None = None  # float32 metres, 0 = no measurement
    K_V33: np.ndarray | None = None  # float64, pixels of the working image
    world_from_camera_V44: np.ndarray | None = None  # float64, metres, OpenCV axes
    names: tuple[str, ...] = ()
    source_sizes: tuple[tuple[int, int], ...]

    def arrays(self) -> dict[str, np.ndarray]:
        """All that decides a scene's latents, by name; only what is there."""
        named = {
            "images": self.rgb_VHW3,
            "depth": self.depth_VHW,
            "K": self.K_V33,
            "world_from_camera": self.world_from_camera_V44,
        }
        return {name: array for name, array in named.items() if array is not None}


def prepare_scene(
    images: GivenImages,
    *,
    depth: np.ndarray | None = None,
    K: np.ndarray | None = None,
    world_from_camera: np.ndarray | None = None,
    width: int,
    multiple: int,
) -> SceneViews:
    """The views at working size; images, depth and K change together.

    Args:
        images: in any form of GivenImages; with a single image the other arguments may lack their
            leading axis too.
        depth: (V, h, w) z-depth, uint16 millimetres or floating-point metres, 0 = no measurement;
            it may have its own resolution but covers the same field of view.
        K: (V, 3, 3), pixels of the images as given, upright.
        world_from_camera: (V, 4, 4) or (V, 3, 4) poses, metres, OpenCV axes, any world frame.
        width: working width in pixels; both sides are cropped to a multiple of `multiple`.

    Raises:
        ImageError: as `to_working_size`, or arrays of the wrong shape or type.
        ConfigError: a K that is no calibration, or a pose that is not rigid.
    """
    if is_one(images):
        depth, K, world_from_camera = (
            array if array is None or np.ndim(array) != 2 else np.asarray(array)[None]
            for array in (depth, K, world_from_camera)
        )
    found = to_working_size(images, width=width, multiple=multiple)
    sizes = found.sizes
    return SceneViews(
        rgb_VHW3=found.rgb_VHW3,
        depth_VHW=None if depth is None else _depth(depth, sizes),
        K_V33=None if K is None else _intrinsics(K, sizes),
        world_from_camera_V44=None
        if world_from_camera is None
        else _poses(world_from_camera, sizes),
        names=found.names,
        source_sizes=tuple((size.source_width, size.source_height) for size in sizes),
    )


def to_clip_views(scenes: Sequence[SceneViews], device: torch.device | str = "cpu") -> ClipViews:
    """A batch of scenes of one number of views, one size and the same kinds of arrays."""
    parts = [scene.arrays() for scene in scenes]

    def batched(name: str) -> Tensor | None:
        if name not in parts[0]:
            return None
        return torch.from_numpy(np.stack([part[name] for part in parts])).to(device)

    images_BVHW3 = torch.from_numpy(np.stack([scene.rgb_VHW3 for scene in scenes])).to(device)
    return ClipViews(
        images_BV3HW=images_BVHW3.permute(0, 1, 4, 2, 3).float() / 255,
        is_target_BV=torch.zeros(images_BVHW3.shape[:2], dtype=torch.bool, device=device),
        depth_BVHW=batched("depth"),
        world_from_camera_BV44=batched("world_from_camera"),
        K_BV33=batched("K"),
    )


# --- checks ---------------------------------------------------------------------------------------


def _depth(depth: Any, sizes: Sequence[WorkingSize]) -> np.ndarray:
    """(V, H, W) float32 metres."""
    depth_Vhw = _array(depth, "depth", (len(sizes), None, None), np.uint16, np.floating)
    if not bool((np.isfinite(depth_Vhw) & (depth_Vhw >= 0)).all()):
        raise ImageError(
            "depth must be finite and not negative: write 0 where nothing was measured"
        )
    scale = np.float32(1e-3 if depth_Vhw.dtype == np.uint16 else 1.0)
    maps = [resize_nearest(map_hw, size) for map_hw, size in zip(depth_Vhw, sizes, strict=True)]
    return np.stack(maps).astype(np.float32) * scale


def _intrinsics(K: Any, sizes: Sequence[WorkingSize]) -> np.ndarray:
    """(V, 3, 3) float64 of the working images."""
    K_V33 = _array(K, "K", (len(sizes), 3, 3), np.floating, np.integer)
    given = [(size.source_width, size.source_height) for size in sizes]
    checked = [
        _of_view(v, "K", lambda v=v: check_intrinsics(K_V33[v], given[v]))
        for v in range(len(K_V33))
    ]
    return np.stack([scale_K(K_33, size) for K_33, size in zip(checked, sizes, strict=True)])


def _poses(world_from_camera: Any, sizes: Sequence[WorkingSize]) -> np.ndarray:
    """(V, 4, 4) float64."""
    name, shape = "world_from_camera", (len(sizes), None, 4)
    given = _array(world_from_camera, name, shape, np.floating, np.integer)
    rows = given.shape[1]
    if rows not in (3, 4):
        raise ImageError(f"{name} must be poses of 4 x 4 or 3 x 4, got {given.shape}")
    pose_V44 = np.tile(np.eye(4), (len(sizes), 1, 1))
    pose_V44[:, :rows] = given
    for view, pose_44 in enumerate(pose_V44):
        if not is_rigid(pose_44):
            raise ConfigError(
                f"world_from_camera of view {view} is no rigid pose (a rotation and a translation);"
                " poses are camera-to-world, in metres, OpenCV axes (x right, y down, z forward):"
                " leave the view out or correct its pose"
            )
    return pose_V44


def _of_view(view: int, name: str, check: Callable[[], np.ndarray]) -> np.ndarray:
    try:
        return check()
    except ConfigError as error:
        raise ConfigError(f"{name} of view {view}: {error}") from error


def _array(value: Any, name: str, shape: tuple[int | None, ...], *kinds: type) -> np.ndarray:
    """The value as an array, its shape (None: any length) and scalar type checked."""
    wanted = ", ".join("*" if length is None else str(length) for length in shape)
    types = " or ".join(kind.__name__ for kind in kinds)
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of unequal length
        raise ImageError(f"{name} must be ({wanted}) of {types}: {error}") from error
    fits = array.ndim == len(shape) and array.size > 0
    fits &= all(want in (None, have) for want, have in zip(shape, array.shape, strict=False))
    if not fits or not any(np.issubdtype(array.dtype, kind) for kind in kinds):
        raise ImageError(
            f"{name} must be ({wanted}) of {types}, got {array.shape} of {array.dtype}"
        )
    return array
