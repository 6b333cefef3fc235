"""Two-dimensional rotary position encoding, from tables computed once per patch grid.

Legend: S sequences, T tokens, R rows, H heads, C head channels, A the two image axes,
F frequencies (head channels of one axis / 2), N tokens per view.
The encoder spends a whole head on it (y on the first half, x on the second; reference.md 2.1.5);
PRoPE spends the second half of a head (x on its first half, y on its second; reference.md 2.1.6).
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeTable:
    """Cosines and signed sines, laid out so that one multiply-add rotates a head."""

    cos_T1C: Tensor
    sin_T1C: Tensor  # signs included: -sin for the first of a pair, +sin for the second

    def rows(self, rows: slice) -> "RopeTable":
        """The table of some of the tokens."""
        return RopeTable(cos_T1C=self.cos_T1C[rows], sin_T1C=self.sin_T1C[rows])

    def rotate(self, x_STHC: Tensor) -> Tensor:
        """Turns channel pairs (k, k + F) of each axis by +angle."""
        return torch.addcmul(x_STHC * self.cos_T1C, _swap_pairs(x_STHC), self.sin_T1C)

    def unrotate(self, x_STHC: Tensor) -> Tensor:
        """Turns the pairs by -angle: the inverse of `rotate`."""
        return torch.addcmul(x_STHC * self.cos_T1C, _swap_pairs(x_STHC), self.sin_T1C, value=-1)


def _swap_pairs(x_STHC: Tensor) -> Tensor:
    """Exchanges the two members of every pair; channels are (axis, member, frequency)."""
    first, second = x_STHC.unflatten(-1, (2, 2, -1)).unbind(-2)
    return torch.stack((second, first), dim=-2).flatten(-3)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderPosition:
    """Rotary queries and keys, plain values and outputs; a `Position` of attention."""

    rope: RopeTable

    def query(self, q_SRHC: Tensor, rows: slice) -> Tensor:
        return self.rope.rows(rows).rotate(q_SRHC)

    def key(self, k_STHC: Tensor) -> Tensor:
        return self.rope.rotate(k_STHC)

    def value(self, v_STHC: Tensor) -> Tensor:
        return v_STHC

    def output(self, o_SRHC: Tensor, rows: slice) -> Tensor:
        return o_SRHC


def rope_table(
    positions_TA: Tensor, channels: int, base: float, dtype: torch.dtype = torch.float32
) -> RopeTable:
    """Table for tokens at the given positions.

    Args:
        positions_TA: (T, 2) position on the axis of the first and of the second half.
        channels: head channels spent, a multiple of 4.
        base: frequencies are base ** (-k / F), F = channels / 4.
        dtype: of the table; the angles are computed in float64.
    """
    num = channels // 4
    frequencies_F = base ** (-torch.arange(num, dtype=torch.float64) / num)
    angles_TAF = positions_TA.double()[..., None] * frequencies_F
    cos_TAF, sin_TAF = angles_TAF.cos(), angles_TAF.sin()
    cos_TC = torch.stack((cos_TAF, cos_TAF), dim=2).flatten(1)
    sin_TC = torch.stack((-sin_TAF, sin_TAF), dim=2).flatten(1)
    return RopeTable(cos_T1C=cos_TC[:, None].to(dtype), sin_T1C=sin_TC[:, None].to(dtype))


def grid_positions(grid_hw: tuple[int, int]) -> Tensor:
    """(N, 2) integer (y, x) of a patch grid, row-major, from 0."""
    return torch.cartesian_prod(torch.arange(grid_hw[0]), torch.arange(grid_hw[1]))


@functools.lru_cache(maxsize=64)
def encoder_table(
    num_prefix: int,
    num_views: int,
    grid_hw: tuple[int, int],
    channels: int,
    base: float,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> RopeTable:
    """Registers and queries at (0, 0), patches at (y + 1, x + 1), the same in every view."""
    with torch.inference_mode(False), torch.device("cpu"):
        patches_TA = (grid_positions(grid_hw) + 1).repeat(num_views, 1)
        positions_TA = torch.cat((torch.zeros(num_prefix, 2, dtype=torch.long), patches_TA))
        return _to(rope_table(positions_TA, channels, base, dtype), device)


@functools.lru_cache(maxsize=64)
def ray_table(
    grid_hw: tuple[int, int],
    channels: int,
    base: float,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> RopeTable:
    """Ray tokens of one view at (x, y), from 0 (PRoPE's order)."""
    with torch.inference_mode(False), torch.device("cpu"):
        positions_NA = grid_positions(grid_hw).flip(1)
        return _to(rope_table(positions_NA, channels, base, dtype), device)


def _to(table: RopeTable, device: torch.device) -> RopeTable:
    return RopeTable(cos_T1C=table.cos_T1C.to(device), sin_T1C=table.sin_T1C.to(device))
