"""Five answers that need no spatial prediction. A field is worth something if it beats them all.

* training_mean: the mean training token everywhere. R2 is 0 by definition.
* shuffled_latents: the right cameras asked of another scene's latents. What is left is what the
  student knows about rooms in general.
* nearest_context: the tokens of the context view nearest in pose, patch by patch.
* context_mean: per patch position, the mean over the clip's own context views. (One mean vector
  for the whole view would be weaker: floors lie below and ceilings above.)
* wrong_camera: the right latents asked through another view's camera.

A student that has learnt a room's average colour beats the first two, and nearest_context too where
neighbouring views overlap little; only context_mean and wrong_camera tell prediction in space from
recall.

Legend: V views, C context views, T target views, N tokens per view.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

CONTROLS = (
    "training_mean",
    "shuffled_latents",
    "nearest_context",
    "context_mean",
    "wrong_camera",
)


def scene_cycle(scenes: Sequence[str], seed: int) -> list[str]:
    """The scenes in a seeded random order; each borrows the latents of the one before it.

    The first borrows from the last, so no scene ever meets its own latents, and one walk through
    the data is enough.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    return [scenes[int(i)] for i in rng.permutation(len(scenes))]


def pose_distance(camera_from_world_V44: Tensor) -> Tensor:
    """(V, V) distance of camera centres in clip units plus the angle between them in radians.

    One clip unit (about the mean distance of what the context views see) counts as one radian:
    either moves a point in the middle of the view by about as much of the image.
    """
    pose = camera_from_world_V44.double()
    rotation, translation = pose[:, :3, :3], pose[:, :3, 3]
    centre_V3 = -(rotation.transpose(1, 2) @ translation[:, :, None])[..., 0]
    relative = rotation[:, None] @ rotation[None].transpose(-1, -2)
    trace = relative.diagonal(dim1=-2, dim2=-1).sum(-1)
    angle = torch.acos(((trace - 1) / 2).clamp(-1, 1))
    return (centre_V3[:, None] - centre_V3[None]).norm(dim=-1) + angle


def nearest_context(camera_from_world_V44: Tensor, is_target_V: Tensor) -> Tensor:
    """(T,) for each target view, the rank of the nearest view among the context views."""
    distance = pose_distance(camera_from_world_V44)
    return distance[is_target_V][:, ~is_target_V].argmin(dim=1)


def wrong_view(is_target_V: Tensor) -> Tensor:
    """(T,) for each target view, another view whose camera is used in its place.

    The next target view (the last takes the first); a lone target takes view 0, which is context.
    """
    views_T = is_target_V.nonzero()[:, 0]
    return views_T.roll(-1) if len(views_T) > 1 else torch.zeros_like(views_T)


def context_mean(x_CN: Tensor, valid_CN: Tensor) -> Tensor:
    """Mean over context views at each patch position: (C, N, ...) -> (N, ...).

    A position that no context view measured takes the mean of all that were measured; zero if
    nothing was.
    """
    valid = valid_CN.reshape(*valid_CN.shape, *[1] * (x_CN.ndim - 2))
    # An unmeasured token may be NaN: chosen away, not multiplied by zero.
    total_N, count_N = torch.where(valid, x_CN, 0).sum(0), valid.sum(0)
    overall = total_N.sum(0) / count_N.sum(0).clamp(min=1)
    return torch.where(count_N > 0, total_N / count_N.clamp(min=1), overall)


def fill_unmeasured(x_CN: Tensor, valid_CN: Tensor, mean_N: Tensor) -> Tensor:
    """Context tokens with unmeasured patches replaced by the context mean at their position."""
    valid = valid_CN.reshape(*valid_CN.shape, *[1] * (x_CN.ndim - 2))
    return torch.where(valid, x_CN, mean_N)
