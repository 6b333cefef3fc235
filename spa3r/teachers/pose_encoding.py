"""VGGT's nine-number camera, `absT_quaR_FoV`, to and from matrices.

Encoding: translation (3) and quaternion (4, scalar last, any length) of camera_from_world, then the
vertical and the horizontal field of view in radians. Legend: B scenes, V views, leading
dimensions are free where a shape starts with dots.
"""

import torch
from torch import Tensor


def quaternion_to_matrix(quaternion_4: Tensor) -> Tensor:
    """Rotation (..., 3, 3) of quaternions (..., 4), scalar last; they need not be normalised."""
    x, y, z, w = quaternion_4.unbind(-1)
    s = 2.0 / (quaternion_4 * quaternion_4).sum(-1)
    rows = (
        *(1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
        *(s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)),
        *(s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)),
    )
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quaternion(rotation_33: Tensor) -> Tensor:
    """Unit quaternions (..., 4), scalar last and >= 0, of rotations (..., 3, 3)."""
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in rotation_33.unbind(-2))
    # Row k is the quaternion times four times its k-th component; the row of the largest component
    # loses no digits.
    rows = (
        *(1 + a - e - i, b + d, c + g, h - f),
        *(b + d, 1 - a + e - i, f + h, c - g),
        *(c + g, f + h, 1 - a - e + i, d - b),
        *(h - f, c - g, d - b, 1 + a + e + i),
    )
    candidates_44 = torch.stack(rows, dim=-1).unflatten(-1, (4, 4))
    best = candidates_44.diagonal(dim1=-2, dim2=-1).argmax(-1)
    chosen_4 = candidates_44.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    unit_4 = chosen_4 / chosen_4.norm(dim=-1, keepdim=True)
    return torch.where(unit_4[..., 3:] < 0, -unit_4, unit_4)


def decode_cameras(encoding_BV9: Tensor, image_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """camera_from_world (B, V, 4, 4) and K (B, V, 3, 3), float32, principal point at the centre.

    A field of view of exactly 0, which the head's ReLU can produce, gives an infinite focal length.
    """
    encoding_BV9 = encoding_BV9.float()
    camera_from_world = encoding_BV9.new_zeros(*encoding_BV9.shape[:-1], 4, 4)
    camera_from_world[..., :3, :3] = quaternion_to_matrix(encoding_BV9[..., 3:7])
    camera_from_world[..., :3, 3] = encoding_BV9[..., :3]
    camera_from_world[..., 3, 3] = 1
    height, width = image_hw
    K = encoding_BV9.new_zeros(*encoding_BV9.shape[:-1], 3, 3)
    K[..., 0, 0] = (width / 2) / torch.tan(encoding_BV9[..., 8] / 2)
    K[..., 1, 1] = (height / 2) / torch.tan(encoding_BV9[..., 7] / 2)
    K[..., 0, 2] = width / 2
    K[..., 1, 2] = height / 2
    K[..., 2, 2] = 1
    return camera_from_world, K


def encode_cameras(
    camera_from_world_BV44: Tensor, K_BV33: Tensor, image_hw: tuple[int, int]
) -> Tensor:
    """Inverse of `decode_cameras`, (B, V, 9); the principal point is not encoded."""
    height, width = image_hw
    fov_h = 2 * torch.atan((height / 2) / K_BV33[..., 1, 1])
    fov_w = 2 * torch.atan((width / 2) / K_BV33[..., 0, 0])
    quaternion = matrix_to_quaternion(camera_from_world_BV44[..., :3, :3])
    fov = torch.stack([fov_h, fov_w], dim=-1)
    return torch.cat([camera_from_world_BV44[..., :3, 3], quaternion, fov], dim=-1).float()
