"""Frames of the manifest as the tensors a teacher looks at.

Legend: B clips, V views, H W pixels.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from spa3r.data.clips import Clip
from spa3r.data.shards import FrameTable
from spa3r.errors import SceneError
from spa3r.teachers.base import ClipViews

T = TypeVar("T")


def load_view(table: FrameTable, scene: str, frame: int, mirror: bool) -> ClipViews:
    """One frame as a clip of one view (B = V = 1), counted as context.

    Raises:
        ShardError: as FrameTable.load_frame.
    """
    sample = table.load_frame(scene, frame, mirror=mirror)
    image_3HW = torch.from_numpy(sample.color).permute(2, 0, 1).float() / 255
    depth_HW = None
    if sample.depth_mm is not None:
        depth_HW = torch.from_numpy(sample.depth_mm.astype(np.float32)) / 1000
    return ClipViews(
        images_BV3HW=image_3HW.contiguous()[None, None],
        is_target_BV=torch.zeros(1, 1, dtype=torch.bool),
        depth_BVHW=None if depth_HW is None else depth_HW[None, None],
        labels_BVHW=_tensor(sample.labels),
        world_from_camera_BV44=_tensor(sample.world_from_camera_44),
        K_BV33=_tensor(sample.K_33),
    )


def load_views(table: FrameTable, clip: Clip) -> ClipViews:
    """The views of one clip (B = 1), mirrored if it is.

    Raises:
        ShardError: as FrameTable.load_frame. SceneError: frames of different sizes.
    """
    views = [load_view(table, clip.scene, frame, clip.mirror) for frame in clip.frames]
    return join_views(views, clip)


def join_views(views: Sequence[ClipViews], clip: Clip) -> ClipViews:
    """Single views, in the clip's order, as that clip (B = 1) with its partition.

    Raises:
        SceneError: views of different sizes.
    """
    sizes = sorted({tuple(v.images_BV3HW.shape[-2:]) for v in views})
    if len(sizes) > 1:
        raise SceneError(
            f"scene {clip.scene}: frames of different sizes {sizes} in one clip; photos must share"
            " one size and orientation"
        )
    return replace(concatenate(views, dim=1), is_target_BV=torch.tensor([clip.is_target]))


def stack_views(clips: Sequence[ClipViews]) -> ClipViews:
    """Clips of equal view count and size as one batch."""
    return concatenate(clips, dim=0)


def to_device(views: ClipViews, device: torch.device | str) -> ClipViews:
    """Copy with every tensor on the device."""
    present = {f.name: getattr(views, f.name) for f in fields(views)}
    return replace(views, **{n: t.to(device) for n, t in present.items() if t is not None})


def concatenate(parts: Sequence[T], dim: int) -> T:
    """Joins dataclasses of tensors field by field; what one part lacks, the whole lacks."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Tensor | None] = {}
    for field in fields(cast(Any, parts[0])):
        tensors = [getattr(part, field.name) for part in parts]
        joined[field.name] = None if any(t is None for t in tensors) else torch.cat(tensors, dim)
    return type(parts[0])(**joined)


def _tensor(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array)[None, None]
