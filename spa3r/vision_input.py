"""From what a user holds (arrays or image files) to the views a teacher looks at.

Legend: V views, H W pixels as given, h w pixels at working size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spa3r.errors import ImageError
from spa3r.images import (
    EncodedImage,
    decode_color,
    fit_size,
    resize_color,
    resize_nearest,
    scale_K,
)
from spa3r.storage import read_bytes
from spa3r.teachers.base import ClipViews


def load_images(paths: Sequence[str | Path]) -> np.ndarray:
    """(V, H, W, 3) uint8 RGB of image files or URLs, EXIF orientation honoured.

    Raises:
        ImageError: a file that does not decode, or images of several sizes.
    """
    images = []
    for path in paths:
        try:
            encoded = EncodedImage(data=read_bytes(path), codec="file", oriented=True)
            images.append(decode_color(encoded))
        except (ImageError, OSError) as error:
            raise ImageError(f"{path}: {error}; leave it out") from error
    sizes = sorted({image.shape[:2][::-1] for image in images})
    if len(sizes) != 1:
        raise ImageError(f"{len(images)} images of sizes {sizes}: views of a scene share one size")
    return np.stack(images)


def prepare_views(
    images_VHW3: np.ndarray,
    *,
    width: int,
    multiple: int,
    depth_VHW: np.ndarray | None = None,
    K_V33: np.ndarray | None = None,
    world_from_camera_V44: np.ndarray | None = None,
    device: torch.device | str = "cpu",
) -> ClipViews:
    """One clip of context views at the working size; images, depth and K change together.

    Args:
        images_VHW3: uint8 RGB.
        width: working width in pixels; `multiple` crops both sides to a multiple.
        depth_VHW: z-depth, uint16 millimetres or floating-point metres, 0 = no measurement; it may
            have its own resolution but covers the same field of view.
        K_V33: pixels of the images as given.
        world_from_camera_V44: metres, OpenCV axes, any world frame.

    Raises:
        ImageError: arrays of the wrong shape or type.
    """
    images_VHW3 = np.asarray(images_VHW3)
    _require(images_VHW3, "images", "V,H,W,3", np.uint8)
    count, height, source_width = images_VHW3.shape[:3]
    size = fit_size((source_width, height), width, multiple)
    rgb_Vhw3 = np.stack([resize_color(image, size) for image in images_VHW3])
    depth_Vhw = None
    if depth_VHW is not None:
        depth_VHW = np.asarray(depth_VHW)
        _require(depth_VHW, "depth", f"{count},H,W", np.uint16, np.floating)
        scale = 1e-3 if depth_VHW.dtype == np.uint16 else 1.0
        maps = [resize_nearest(depth_HW, size) * np.float32(scale) for depth_HW in depth_VHW]
        depth_Vhw = np.stack(maps).astype(np.float32)
    if K_V33 is not None:
        K_V33 = np.asarray(K_V33, np.float64)
        _require(K_V33, "K", f"{count},3,3", np.floating)
        K_V33 = np.stack([scale_K(K_33, size) for K_33 in K_V33])
    if world_from_camera_V44 is not None:
        world_from_camera_V44 = np.asarray(world_from_camera_V44, np.float64)
        _require(world_from_camera_V44, "world_from_camera", f"{count},4,4", np.floating)

    def batched(array: np.ndarray | None) -> Tensor | None:
        return None if array is None else torch.from_numpy(array)[None].to(device)

    images_V3HW = torch.from_numpy(rgb_Vhw3).to(device).permute(0, 3, 1, 2)
    return ClipViews(
        images_BV3HW=images_V3HW[None].float() / 255,
        is_target_BV=torch.zeros(1, count, dtype=torch.bool, device=device),
        depth_BVHW=batched(depth_Vhw),
        world_from_camera_BV44=batched(world_from_camera_V44),
        K_BV33=batched(K_V33),
    )


def _require(array: np.ndarray, name: str, shape: str, *kinds: Any) -> None:
    """Checks a shape such as "V,H,W,3" (letters: any positive length) and the scalar type."""
    wanted = shape.split(",")
    fits = array.ndim == len(wanted) and all(
        have == int(want) if want.isdecimal() else have > 0
        for want, have in zip(wanted, array.shape, strict=True)
    )
    if not fits or not any(np.issubdtype(array.dtype, kind) for kind in kinds):
        types = " or ".join(kind.__name__ for kind in kinds)
        raise ImageError(f"{name} must be ({shape}) of {types}, got {array.shape} of {array.dtype}")
