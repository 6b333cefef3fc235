"""Frames of the manifest as the tensors a teacher looks at.

Legend: B clips, F frames, V views, N patches per view, H W pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from spa3r.data.clips import Clip
from spa3r.data.shards import FrameSample, FrameTable
from spa3r.errors import SceneError
from spa3r.teachers.base import ClipViews

T = TypeVar("T")


def load_frames(
    table: FrameTable, scene: str, frames: Sequence[int], mirror: bool
) -> list[ClipViews]:
    """Frames of a scene, each as a clip of one view (B = V = 1), counted as context.

    Raises:
        DamageError, ShardError: as FrameTable.load_frames.
    """
    return [_view(sample) for sample in table.load_frames(scene, frames, mirror=mirror)]


def load_views(table: FrameTable, clip: Clip) -> ClipViews:
    """The views of one clip (B = 1), mirrored if it is.

    Raises:
        DamageError, ShardError: as FrameTable.load_frames. SceneError: frames of different sizes.
    """
    return join_views(load_frames(table, clip.scene, clip.frames, clip.mirror), clip)


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
    joined = concatenate(_equally_masked(views), dim=1)
    return replace(joined, is_target_BV=torch.tensor([clip.is_target]))


def stack_views(clips: Sequence[ClipViews]) -> ClipViews:
    """Clips of equal view count and size as one batch."""
    return concatenate(_equally_masked(clips), dim=0)


def to_device(x: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on the device; from the host to a GPU through page-locked memory."""
    if torch.device(device).type != "cuda" or x.is_cuda:
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def all_to_device(parts: T, device: torch.device | str) -> T:
    """Copy of a dataclass of tensors with each on the device."""
    return _each(parts, lambda x: to_device(x, device))


def pinned(views: ClipViews) -> ClipViews:
    """Copy in page-locked memory, from which a GPU takes it while it computes."""
    return _each(views, lambda x: x.pin_memory())


def pick_frames(views: ClipViews, chosen: Sequence[int]) -> ClipViews:
    """Some views of one clip (B = 1), each as a clip of its own: B = F, V = 1."""
    return _each(views, lambda x: x[0, list(chosen)][:, None])


def cut_frames(views: ClipViews, start: int, stop: int) -> ClipViews:
    """Clips start .. stop - 1 of a batch."""
    return _each(views, lambda x: x[start:stop])


def used_patches(views: ClipViews, patch_size: int) -> Tensor | None:
    """(B, V, N) bool: patches of which at least half of the pixels are used; None: all are."""
    if views.mask_BVHW is None:
        return None
    mask_FHW = views.mask_BVHW.flatten(0, 1)[:, None].float() / 255
    share_FN = avg_pool2d(mask_FHW, patch_size).flatten(1)
    return (share_FN >= 0.5).unflatten(0, views.mask_BVHW.shape[:2])


def concatenate(parts: Sequence[T], dim: int) -> T:
    """Joins dataclasses of tensors field by field; what one part lacks, the whole lacks."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Tensor | None] = {}
    for field in fields(cast(Any, parts[0])):
        tensors = [getattr(part, field.name) for part in parts]
        joined[field.name] = None if any(t is None for t in tensors) else torch.cat(tensors, dim)
    return type(parts[0])(**joined)


def _view(sample: FrameSample) -> ClipViews:
    image_3HW = torch.from_numpy(sample.color).permute(2, 0, 1).float() / 255
    depth_HW = None
    if sample.depth_mm is not None:
        depth_HW = torch.from_numpy(sample.depth_mm.astype(np.float32)) / 1000
    return ClipViews(
        images_BV3HW=image_3HW.contiguous()[None, None],
        is_target_BV=torch.zeros(1, 1, dtype=torch.bool),
        depth_BVHW=None if depth_HW is None else depth_HW[None, None],
        labels_BVHW=_tensor(sample.labels),
        mask_BVHW=_tensor(sample.mask),
        world_from_camera_BV44=_tensor(sample.world_from_camera_44),
        K_BV33=_tensor(sample.K_33),
    )


def _equally_masked(parts: Sequence[ClipViews]) -> list[ClipViews]:
    """A frame without a mask is used all over where another of its company has one."""
    if all(part.mask_BVHW is None for part in parts):
        return list(parts)
    return [
        part if part.mask_BVHW is not None else replace(part, mask_BVHW=_all_used(part))
        for part in parts
    ]


def _all_used(views: ClipViews) -> Tensor:
    batch, count, _, height, width = views.images_BV3HW.shape
    size = (batch, count, height, width)
    return torch.full(size, 255, dtype=torch.uint8, device=views.images_BV3HW.device)


def _each(parts: T, work: Callable[[Tensor], Tensor]) -> T:
    """Copy of a dataclass of tensors with `work` done on each that is there."""
    present = {f.name: getattr(parts, f.name) for f in fields(cast(Any, parts))}
    done = {name: work(x) for name, x in present.items() if x is not None}
    return replace(cast(Any, parts), **done)


def _tensor(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array)[None, None]
