"""VGGT's nine-number camera, `absT_quaR_FoV`, to matrices.

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
