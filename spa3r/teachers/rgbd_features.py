"""What an RGB-D sensor saw of each patch, and the feature vector made of it (design.md).

Two steps, because a frame takes part in many clips: `describe_patches` looks at the pixels of a
frame alone, in its own camera's axes; `patch_features` only moves, scales and encodes that for one
clip. Both are pure functions; the same frame gives the same numbers in every clip.

Legend: B clips, V views, N patches per view (row-major grid), P pixels of a patch, H W pixels.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from spa3r.errors import TeacherError
from spa3r.teachers.base import ClipViews

FREQUENCIES: Final = (0.5, 1.0, 2.0, 4.0)
"""Of the Fourier features, times pi; the argument is a length in clip units."""
MIN_MEASURED_SHARE: Final = 1 / 8
"""A patch with a smaller share of measured pixels is invalid: its moments would be noise."""

# group -> (number of features, factor). Left as they are, 24 sines of the position would drown one
# mean gradient: the factors make the groups' variances comparable, with shares of 4 (position),
# 2 (normal, colour) and 1 (the others) out of 12 and a total of 1. They were measured on 24
# generated rooms (patches of 28 at 224 x 168, clips of 4, 6 and 8 views) and are part of the
# teacher's definition. Where a patch lies weighs most: that is what a spatial field predicts.
GROUPS: Final = {
    "position": (24, 0.19),
    "spread": (24, 0.31),
    "normal": (3, 0.54),
    "log_depth": (1, 0.92),
    "colour": (3, 1.7),
    "colour_spread": (3, 3.0),
    "texture": (1, 13.0),
}
NUM_FEATURES: Final = sum(count for count, _ in GROUPS.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchStats:
    """Per patch, in the axes of its own camera and in metres; float32. Zero where invalid."""

    mean_BVN3: Tensor  # of the back-projected pixels
    covariance_BVN33: Tensor
    normal_BVN3: Tensor  # mean of the pixels' unit normals, towards the camera; shorter than 1
    colour_BVN3: Tensor  # RGB in [0, 1]; colours are known where depth is not
    colour_spread_BVN3: Tensor  # standard deviation
    texture_BVN1: Tensor  # mean length of the grey image's gradient, per pixel
    valid_BVN: Tensor  # bool


def describe_patches(views: ClipViews, patch: int) -> PatchStats:
    """Statistics of every patch; each view is looked at alone.

    Raises:
        TeacherError: no depth or intrinsics, or images that the patches do not tile.
    """
    depth_BVHW, K_BV33 = views.depth_BVHW, views.K_BV33
    if depth_BVHW is None or K_BV33 is None:
        raise TeacherError(
            "the rgbd teacher needs depth, poses and intrinsics: photos without depth need a"
            " VGGT-taught encoder"
        )
    height, width = depth_BVHW.shape[-2:]
    if height % patch or width % patch:
        raise TeacherError(
            f"images of {width} x {height} are not tiled by patches of {patch}; ingest with"
            f" multiple={patch}"
        )
    points_BV3HW = _backproject(depth_BVHW, K_BV33)
    measured_BV1HW = (depth_BVHW > 0).unsqueeze(2)
    weight_BVN1P = _fold(measured_BV1HW.float(), patch)
    count_BVN1 = weight_BVN1P.sum(-1)
    valid_BVN = count_BVN1[..., 0] >= MIN_MEASURED_SHARE * patch * patch
    points_BVN3P = _fold(points_BV3HW, patch)
    mean_BVN3 = (points_BVN3P * weight_BVN1P).sum(-1) / count_BVN1.clamp_min(1)
    # Centred before squaring: in float32 a patch of 1 cm at 5 m would drown in E[x^2] - E[x]^2.
    centred_BVN3P = (points_BVN3P - mean_BVN3[..., None]) * weight_BVN1P
    covariance_BVN33 = centred_BVN3P @ centred_BVN3P.mT / count_BVN1.clamp_min(1)[..., None]
    colour_BVN3P = _fold(views.images_BV3HW, patch)
    colour_BVN3 = colour_BVN3P.mean(-1)
    colour_variance_BVN3 = (colour_BVN3P - colour_BVN3[..., None]).square().mean(-1)
    known_BVN1 = valid_BVN[..., None].float()
    return PatchStats(
        mean_BVN3=mean_BVN3 * known_BVN1,
        covariance_BVN33=covariance_BVN33 * known_BVN1[..., None],
        normal_BVN3=_mean_normals(points_BV3HW, measured_BV1HW, patch) * known_BVN1,
        colour_BVN3=colour_BVN3,
        colour_spread_BVN3=colour_variance_BVN3.sqrt(),
        texture_BVN1=_fold(_gradient_length(views.images_BV3HW), patch).mean(-1),
        valid_BVN=valid_BVN,
    )


def patch_features(
    stats: PatchStats, camera_from_world_BV44: Tensor, metres_per_unit_B: Tensor
) -> Tensor:
    """Feature vectors (B, V, N, NUM_FEATURES) in view 0's axes and clip units; 0 where invalid.

    Args:
        camera_from_world_BV44: world = view 0's camera, in clip units.
    """
    unit_B111 = metres_per_unit_B[:, None, None, None]
    camera_from_world_BV33 = camera_from_world_BV44[..., :3, :3]
    world_from_camera_BV33 = camera_from_world_BV33.mT
    origin_BV3 = -(world_from_camera_BV33 @ camera_from_world_BV44[..., :3, 3:])[..., 0]
    # Row vectors: p @ R^T is R p, and R^T is the inverse rotation.
    position_BVN3 = stats.mean_BVN3 / unit_B111 @ camera_from_world_BV33 + origin_BV3[:, :, None]
    axes_BV133 = world_from_camera_BV33[:, :, None]
    variance_BVN3 = ((axes_BV133 @ stats.covariance_BVN33) * axes_BV133).sum(-1)
    depth_BVN1 = stats.mean_BVN3[..., 2:] / unit_B111
    groups = {
        "position": _fourier(position_BVN3),
        "spread": _fourier(variance_BVN3.clamp_min(0).sqrt() / unit_B111),
        "normal": stats.normal_BVN3 @ camera_from_world_BV33,
        "log_depth": depth_BVN1.clamp_min(1e-3).log(),
        "colour": stats.colour_BVN3,
        "colour_spread": stats.colour_spread_BVN3,
        "texture": stats.texture_BVN1,
    }
    features = torch.cat([groups[name] * factor for name, (_, factor) in GROUPS.items()], dim=-1)
    return features * stats.valid_BVN[..., None]


def _fourier(x_BVN3: Tensor) -> Tensor:
    """Sines and cosines, (B, V, N, 3 * 2 * len(FREQUENCIES))."""
    angles = x_BVN3[..., None] * (math.pi * x_BVN3.new_tensor(FREQUENCIES))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def _fold(x_BVCHW: Tensor, patch: int) -> Tensor:
    """Pixels by patch: (B, V, N, C, P)."""
    grid = x_BVCHW.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))  # B V C h p w p
    return grid.permute(0, 1, 3, 5, 2, 4, 6).flatten(-2).flatten(2, 3)


def _backproject(depth_BVHW: Tensor, K_BV33: Tensor) -> Tensor:
    """Points (B, V, 3, H, W) float32 in the camera's axes; the origin where nothing is measured."""
    height, width = depth_BVHW.shape[-2:]
    device = depth_BVHW.device
    fx, skew, cx, _, fy, cy = K_BV33.double()[..., :2, :].flatten(-2).unbind(-1)
    # float64 along the two axes only: nothing per pixel is worth it.
    row_H = torch.arange(height, device=device).double() + 0.5
    column_W = torch.arange(width, device=device).double() + 0.5
    y_BVH = (row_H - cy[..., None]) / fy[..., None]
    x_BVW = (column_W - cx[..., None]) / fx[..., None]
    shear_BVH = y_BVH * (skew / fx)[..., None]
    x_BVHW = x_BVW.float()[..., None, :] - shear_BVH.float()[..., None]
    y_BVHW = y_BVH.float()[..., None].expand_as(x_BVHW)
    rays_BV3HW = torch.stack([x_BVHW, y_BVHW, torch.ones_like(x_BVHW)], dim=2)
    return rays_BV3HW * depth_BVHW.unsqueeze(2)


def _mean_normals(points_BV3HW: Tensor, measured_BV1HW: Tensor, patch: int) -> Tensor:
    """Mean unit normal of each patch, (B, V, N, 3), towards the camera; 0 where unknown.

    Differences span a seventh of a patch: between neighbouring pixels the millimetre steps of a
    sensor's depth would outweigh the surface.
    """
    step = max(1, patch // 7)
    corner = points_BV3HW[..., :-step, :-step]
    right = points_BV3HW[..., :-step, step:] - corner
    down = points_BV3HW[..., step:, :-step] - corner
    known = measured_BV1HW[..., :-step, :-step] & measured_BV1HW[..., :-step, step:]
    known = (known & measured_BV1HW[..., step:, :-step]).float()
    # Right x down points away from the camera. Spelt out: torch's cross and norm along this axis
    # take twice as long as everything else here.
    (ax, ay, az), (bx, by, bz) = down.unbind(2), right.unbind(2)
    cross = torch.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], dim=2)
    length = (cross * cross).sum(2, keepdim=True).sqrt()
    normals = cross / length.clamp_min(1e-12) * known
    folded = _fold(F.pad(torch.cat([normals, known], dim=2), (0, step, 0, step)), patch).sum(-1)
    return folded[..., :3] / folded[..., 3:].clamp_min(1)


def _gradient_length(images_BV3HW: Tensor) -> Tensor:
    """Length of the grey image's forward difference, (B, V, 1, H, W); 0 on the last line."""
    grey_BVHW = images_BV3HW.mean(2)
    dx = F.pad(grey_BVHW.diff(dim=-1), (0, 1))
    dy = F.pad(grey_BVHW.diff(dim=-2), (0, 0, 0, 1))
    return torch.hypot(dx, dy).unsqueeze(2)
