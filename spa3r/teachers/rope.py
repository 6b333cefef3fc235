"""Two-dimensional rotary position embedding as VGGT uses it.

Legend: B scenes, T tokens, H heads, D head width, P tokens of one view, F = D / 4 frequencies.
"""

from functools import lru_cache

import torch
from torch import Tensor

Rope = tuple[Tensor, Tensor]
"""Cosines and signed sines, each (T, 1, D): token, head, channel as `rotate` finds them."""


def patch_positions(grid_hw: tuple[int, int], num_special: int) -> Tensor:
    """(P, 2) int64 of (y, x): (0, 0) for special tokens, patch index + 1 for patches."""
    y, x = torch.meshgrid(torch.arange(grid_hw[0]), torch.arange(grid_hw[1]), indexing="ij")
    patches = torch.stack([y, x], dim=-1).reshape(-1, 2) + 1
    return torch.cat([patches.new_zeros(num_special, 2), patches])


@lru_cache(maxsize=16)
def view_rope(
    grid_hw: tuple[int, int], num_special: int, head_width: int, base: float, device: torch.device
) -> Rope:
    """Tables of one view's tokens, special tokens first; cached, so treat them as read-only."""
    with torch.inference_mode(False):  # a cached table must serve training as well
        half = head_width // 2
        frequencies_F = 1.0 / base ** (torch.arange(0, half, 2).float() / half)
        angles_P2F = patch_positions(grid_hw, num_special)[..., None] * frequencies_F
        cos_P2F, sin_P2F = angles_P2F.cos(), angles_P2F.sin()
        cos_P22F = torch.stack([cos_P2F, cos_P2F], dim=2)
        sin_P22F = torch.stack([-sin_P2F, sin_P2F], dim=2)
        cos_P1D, sin_P1D = (x.flatten(1)[:, None].to(device) for x in (cos_P22F, sin_P22F))
        return cos_P1D, sin_P1D


def rotate(x_BTHD: Tensor, rope: Rope) -> Tensor:
    """Rotates the first half of every head by y and the second by x.

    Within a half, component i pairs with component i + F (the "rotate half" convention).
    """
    cos_T1D, sin_T1D = rope
    first, second = x_BTHD.unflatten(-1, (2, 2, -1)).unbind(-2)
    swapped_BTHD = torch.stack([second, first], dim=-2).flatten(-3)
    return torch.addcmul(x_BTHD * cos_T1D, swapped_BTHD, sin_T1D)
