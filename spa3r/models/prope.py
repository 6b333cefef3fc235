"""PRoPE: projective relative position encoding (paper eq. 9-10; reference.md 2.1.6).

Every spatial token i carries D_i = blockdiag(P_i on groups of 4 channels of the first half of a
head, RoPE of its column on the next quarter, of its row on the last), P_i = image<-world of its
view. Registers and latents carry the identity. With

    q~ = D^T q,  k~ = D^-1 k,  v~ = D^-1 v,  o = D softmax(q~ . k~ / sqrt(C)) v~

`prope_matrices` and `prope_attention` say just that, token by token, for any number of views: the
oracle. `DecoderPosition` is what the decoder runs. Its sequences have one camera each, so between
rays P P^-1 cancels, and multiplying every projective half by P (queries by P^-T, outputs by P^-1)
moves the whole burden from the rays to the latents and registers: a quarter of the work.

Legend: S sequences, V views, T tokens, N rays, R rows, H heads, C head channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from spa3r.models.precision import at_least_float32
from spa3r.models.rope import RopeTable, grid_positions


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderPosition:
    """PRoPE of sequences [registers and latents, rays of one view]; a `Position` of attention."""

    image_from_world_S44: Tensor  # float32 or float64
    world_from_image_S44: Tensor  # its inverse
    num_prefix: int  # registers and latents in front of the rays
    rope: RopeTable  # of the rays, over half a head

    def query(self, q_SRHC: Tensor, rows: slice) -> Tensor:
        return self._apply(q_SRHC, self.world_from_image_S44, rows, inverse=False)

    def key(self, k_STHC: Tensor) -> Tensor:
        return self._apply(k_STHC, self.image_from_world_S44.mT, slice(0, None), inverse=False)

    def value(self, v_STHC: Tensor) -> Tensor:
        return self._apply(v_STHC, self.image_from_world_S44.mT, slice(0, None), inverse=False)

    def output(self, o_SRHC: Tensor, rows: slice) -> Tensor:
        return self._apply(o_SRHC, self.world_from_image_S44.mT, rows, inverse=True)

    def _apply(self, x_SRHC: Tensor, right_S44: Tensor, rows: slice, *, inverse: bool) -> Tensor:
        """Projective half of the prefix times `right` (row vectors), RoPE half of the rays."""
        num_rows = x_SRHC.shape[1]
        num_prefix = min(max(0, self.num_prefix - rows.start), num_rows)
        # split and chunk, not slices: their gradients are one concatenation each.
        x_SRHC = at_least_float32(x_SRHC)
        prefix_SLHC, rays_SNHC = x_SRHC.split((num_prefix, num_rows - num_prefix), dim=1)
        first = max(0, rows.start - self.num_prefix)
        rope = self.rope.rows(slice(first, first + num_rows - num_prefix))
        projective_SNHC, rotary_SNHC = rays_SNHC.chunk(2, dim=-1)
        # PRoPE turns queries, keys and values by minus the position, outputs back by plus.
        rotary_SNHC = (rope.rotate if inverse else rope.unrotate)(rotary_SNHC)
        rays_SNHC = torch.cat((projective_SNHC, rotary_SNHC), dim=-1)
        if num_prefix == 0:
            return rays_SNHC
        projective_SLHC, rotary_SLHC = prefix_SLHC.chunk(2, dim=-1)
        groups_SG4 = projective_SLHC.unflatten(-1, (-1, 4)).flatten(1, 3)
        projective_SLHC = (groups_SG4 @ right_S44).reshape(projective_SLHC.shape)
        prefix_SLHC = torch.cat((projective_SLHC, rotary_SLHC), dim=-1)
        return torch.cat((prefix_SLHC, rays_SNHC), dim=1)


def prope_matrices(
    image_from_world_SV44: Tensor,
    grid_hw: tuple[int, int],
    channels: int,
    base: float,
    is_spatial_T: Tensor | None = None,
) -> Tensor:
    """D of every token, as an explicit matrix.

    Args:
        image_from_world_SV44: P of each view (`cameras.projections`).
        channels: head channels, a multiple of 8.
        is_spatial_T: (T,) bool, True for the V * N ray tokens in order (view, row, column); None:
            all tokens are rays.

    Returns:
        (S, T, C, C) float64.
    """
    P_SV44 = image_from_world_SV44.double()
    num_sequences, num_views = P_SV44.shape[:2]
    half, quarter = channels // 2, channels // 4
    positions_NA = grid_positions(grid_hw)
    rays = [
        torch.stack(
            [
                torch.block_diag(
                    *[P_SV44[s, v]] * (half // 4),
                    _rotation(float(column), quarter, base),
                    _rotation(float(row), quarter, base),
                )
                for v in range(num_views)
                for row, column in positions_NA
            ]
        )
        for s in range(num_sequences)
    ]
    D_SNCC = torch.stack(rays)
    if is_spatial_T is None:
        return D_SNCC
    identity_CC = torch.eye(channels, dtype=torch.float64)
    D_STCC = identity_CC.repeat(num_sequences, len(is_spatial_T), 1, 1)
    D_STCC[:, is_spatial_T] = D_SNCC
    return D_STCC


def prope_attention(q_SHTC: Tensor, k_SHTC: Tensor, v_SHTC: Tensor, D_STCC: Tensor) -> Tensor:
    """Attention of the module's formula in float64, differentiable; (S, H, T, C) float64."""
    D_S1TCC = D_STCC[:, None]
    inverse_S1TCC = torch.linalg.inv(D_S1TCC)
    q, k, v = (x.double()[..., None] for x in (q_SHTC, k_SHTC, v_SHTC))
    q, k, v = (D_S1TCC.mT @ q)[..., 0], (inverse_S1TCC @ k)[..., 0], (inverse_S1TCC @ v)[..., 0]
    weights_SHTT = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
    return (D_S1TCC @ (weights_SHTT @ v)[..., None])[..., 0]


def _rotation(angle: float, channels: int, base: float) -> Tensor:
    """RoPE block turning the pairs (k, k + F) of `channels` = 2 F by +angle * base ** (-k / F)."""
    num = channels // 2
    angles_F = angle * base ** (-torch.arange(num, dtype=torch.float64) / num)
    cos_FF, sin_FF = angles_F.cos().diag(), angles_F.sin().diag()
    return torch.cat((torch.cat((cos_FF, -sin_FF), dim=1), torch.cat((sin_FF, cos_FF), dim=1)))
