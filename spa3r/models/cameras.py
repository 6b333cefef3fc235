"""Camera algebra of the student: once per view and step, without host syncs.

Precision: float32, or float64 where the cameras come so.

Legend: B scenes, V views, N rays per view (row-major patch grid).
Frames: OpenCV axes; world = view 0's camera; lengths in the clip's own unit. `<-` reads "from".
"""

import torch
from torch import Tensor

from spa3r.models.precision import at_least_float32


def patch_rays(K_BV33: Tensor, grid_hw: tuple[int, int], patch_size: int) -> Tensor:
    """Unit rays through patch centres, in the camera's own frame (paper eq. 8).

    Args:
        K_BV33: pixels of the image that the grid tiles; skew is ignored.
        patch_size: pixels per patch.

    Returns:
        (B, V, N, 3).
    """
    K_BV33 = at_least_float32(K_BV33) / patch_size
    rows, columns = grid_hw
    x_N = (torch.arange(columns, device=K_BV33.device) + 0.5).repeat(rows)
    y_N = (torch.arange(rows, device=K_BV33.device) + 0.5).repeat_interleave(columns)
    x_BVN = (x_N - K_BV33[..., 0, 2, None]) / K_BV33[..., 0, 0, None]
    y_BVN = (y_N - K_BV33[..., 1, 2, None]) / K_BV33[..., 1, 1, None]
    rays_BVN3 = torch.stack((x_BVN, y_BVN, torch.ones_like(x_BVN)), dim=-1)
    return rays_BVN3 / rays_BVN3.norm(dim=-1, keepdim=True)


def plucker_rays(rays_BVN3: Tensor, camera_from_world_BV44: Tensor) -> Tensor:
    """World rays as (direction, moment): what the decoder reads when camera="plucker".

    The moment is centre x direction, in units of the clip; it does not depend on the point chosen
    along the ray.

    Args:
        rays_BVN3: unit rays in camera frames.

    Returns:
        (B, V, N, 6).
    """
    rotation_BV33, translation_BV3 = _rigid_parts(camera_from_world_BV44)
    rays_BVN3 = rays_BVN3.to(rotation_BV33.dtype)
    direction_BVN3 = rays_BVN3 @ rotation_BV33  # row vectors: (R^T d)^T = d^T R
    centre_BV13 = -(translation_BV3[..., None, :] @ rotation_BV33)
    moment_BVN3 = torch.linalg.cross(centre_BV13.expand_as(direction_BVN3), direction_BVN3)
    return torch.cat((direction_BVN3, moment_BVN3), dim=-1)


def projections(
    camera_from_world_BV44: Tensor,
    K_BV33: Tensor | None,
    grid_hw: tuple[int, int],
    patch_size: int,
) -> tuple[Tensor, Tensor]:
    """PRoPE's image<-world matrices P = lift(K) @ camera_from_world, and their inverses.

    K is normalised to the image: [fx/W, fy/H, cx/W - 1/2, cy/H - 1/2]; skew is ignored. Without K
    (the GTA variant) P is the rigid transform alone. Both inverses are closed forms.

    Returns:
        (P_BV44, P_inverse_BV44).
    """
    rotation_BV33, translation_BV3 = _rigid_parts(camera_from_world_BV44)
    to_camera_BV44 = at_least_float32(camera_from_world_BV44)
    inverse_rotation_BV33 = rotation_BV33.mT
    centre_BV3 = -(inverse_rotation_BV33 @ translation_BV3[..., None])[..., 0]
    to_world_BV44 = torch.zeros_like(to_camera_BV44)
    to_world_BV44[..., :3, :3] = inverse_rotation_BV33
    to_world_BV44[..., :3, 3] = centre_BV3
    to_world_BV44[..., 3, 3] = 1
    if K_BV33 is None:
        return to_camera_BV44, to_world_BV44
    K_BV33 = K_BV33.to(to_camera_BV44.dtype)
    width, height = grid_hw[1] * patch_size, grid_hw[0] * patch_size
    focal_BV2 = torch.stack((K_BV33[..., 0, 0] / width, K_BV33[..., 1, 1] / height), dim=-1)
    centre_BV2 = torch.stack((K_BV33[..., 0, 2] / width, K_BV33[..., 1, 2] / height), dim=-1) - 0.5
    lifted_BV44 = _lift(focal_BV2, centre_BV2)
    inverse_BV44 = _lift(1 / focal_BV2, -centre_BV2 / focal_BV2)
    return lifted_BV44 @ to_camera_BV44, to_world_BV44 @ inverse_BV44


def _lift(focal_BV2: Tensor, centre_BV2: Tensor) -> Tensor:
    """The 4x4 matrix of a 3x3 calibration: its last row and column are the identity's."""
    K_BV44 = focal_BV2.new_zeros(*focal_BV2.shape[:-1], 4, 4)
    K_BV44[..., 0, 0], K_BV44[..., 1, 1] = focal_BV2[..., 0], focal_BV2[..., 1]
    K_BV44[..., :2, 2] = centre_BV2
    K_BV44[..., 2, 2] = K_BV44[..., 3, 3] = 1
    return K_BV44


def _rigid_parts(camera_from_world_BV44: Tensor) -> tuple[Tensor, Tensor]:
    matrix_BV44 = at_least_float32(camera_from_world_BV44)
    return matrix_BV44[..., :3, :3], matrix_BV44[..., :3, 3]
