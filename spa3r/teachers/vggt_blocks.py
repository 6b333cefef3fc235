"""The transformer block shared by VGGT's aggregator, its DINOv2 patch embedding and camera head.

Module names follow the published checkpoint. Legend: B scenes (or frames), T tokens, V views,
P tokens of a view, F = B V frames, H heads, D width (head width in BTHD and BHTD).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from spa3r.teachers.asymmetric import asymmetric_attention
from spa3r.teachers.chunks import by_chunks
from spa3r.teachers.rope import Rope, rotate

QkNorm = Literal["none", "layernorm", "rms"]


def make_qk_norm(kind: QkNorm, head_width: int) -> nn.Module:
    """Norm of queries or keys over the head width.

    "layernorm" (eps 1e-5, with bias) is VGGT's; "rms" (machine eps, no bias) is what the authors of
    Spa3R put in its place (reference.md 2.2, no. 8).
    """
    if kind == "layernorm":
        return nn.LayerNorm(head_width)
    if kind == "rms":
        return nn.RMSNorm(head_width)
    return nn.Identity()


class Attention(nn.Module):
    """Multi-head self-attention with optional QK norm and RoPE; asymmetric when asked."""

    def __init__(self, width: int, num_heads: int, qk_norm: QkNorm) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = make_qk_norm(qk_norm, width // num_heads)
        self.k_norm = make_qk_norm(qk_norm, width // num_heads)
        self.proj = nn.Linear(width, width)

    def project(self, x_BTD: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, T, H, D); normed, rotated, ready to be compared."""
        qkv = self.qkv(x_BTD).unflatten(-1, (3, self.num_heads, -1))
        q_BTHD, k_BTHD, v_BTHD = qkv.unbind(2)
        q_BTHD, k_BTHD = self.q_norm(q_BTHD), self.k_norm(k_BTHD)
        if rope is not None:
            q_BTHD, k_BTHD = rotate(q_BTHD, rope), rotate(k_BTHD, rope)
        # Under autocast the norms return float32 while the values stay in bfloat16.
        return q_BTHD.to(v_BTHD.dtype), k_BTHD.to(v_BTHD.dtype), v_BTHD

    def compare(self, q_BTHD: Tensor, k_BTHD: Tensor, v_BTHD: Tensor, context: int) -> Tensor:
        """The heads' answers side by side, (B, T, D), still to be projected.

        Args:
            context: how many leading tokens attend only to themselves; 0 for full attention.
        """
        q_BHTD, k_BHTD, v_BHTD = (t.transpose(1, 2) for t in (q_BTHD, k_BTHD, v_BTHD))
        out_BHTD = asymmetric_attention(q_BHTD, k_BHTD, v_BHTD, context)
        return out_BHTD.transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(x_BTD)))


class LayerScale(nn.Module):
    """Adds a residual branch with a learnt factor per channel."""

    def __init__(self, width: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), init))

    def forward(self, x_BTD: Tensor, branch_BTD: Tensor) -> Tensor:
        return torch.addcmul(x_BTD, branch_BTD, self.gamma)


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        init_values: float = 0.01,
        qk_norm: QkNorm = "none",
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, num_heads, qk_norm)
        self.ls1 = LayerScale(width, init_values)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, int(width * mlp_ratio), width)
        self.ls2 = LayerScale(width, init_values)

    def forward(self, x_BTD: Tensor, rope: Rope | None = None) -> Tensor:
        """Every token attends to every token of its row."""
        attended_BTD = self.attn.compare(*self._project(x_BTD, rope), context=0)
        return self._add(x_BTD, attended_BTD)

    def compile_parts(self) -> None:
        """Compiles all but the attention kernel, for any number of tokens; the same numbers but
        for rounding. Blocks of one kind share what is compiled."""
        project = torch.compile(self._project, dynamic=True)
        add = torch.compile(self._add, dynamic=True)

        def project_detached(x_BTD: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
            return project(x_BTD.detach(), rope and (rope[0].detach(), rope[1].detach()))

        def add_detached(x_BTD: Tensor, attended_BTD: Tensor) -> Tensor:
            return add(x_BTD.detach(), attended_BTD.detach())

        # Detached, a view is no view: what is compiled would be bound to its base's shape too.
        self._project, self._add = project_detached, add_detached

    def across_views(
        self, x_BVPD: Tensor, rope: Rope, *, context: int, views_per_chunk: int
    ) -> Tensor:
        """`forward` over the tokens of all views of a scene, chunk by chunk but for the attention.

        The attention needs queries, keys and values of all tokens at once; the wider intermediates
        around it live for one chunk of views.

        Args:
            rope: tables of one view's tokens.
            context: how many leading views attend only to one another; the others see everything.
        """
        shape, frames_FPD = x_BVPD.shape[:2], x_BVPD.flatten(0, 1)
        count = len(frames_FPD)
        qkv = by_chunks(
            lambda chunk: self._project(frames_FPD[chunk], rope),
            count, views_per_chunk,
        )  # fmt: skip
        q_BTHD, k_BTHD, v_BTHD = (t.unflatten(0, shape).flatten(1, 2) for t in qkv)
        del qkv
        attended = self.attn.compare(q_BTHD, k_BTHD, v_BTHD, context * x_BVPD.shape[2])
        del q_BTHD, k_BTHD, v_BTHD
        attended_FPD = attended.reshape(frames_FPD.shape)
        (out_FPD,) = by_chunks(
            lambda chunk: [self._add(frames_FPD[chunk], attended_FPD[chunk])],
            count, views_per_chunk,
        )  # fmt: skip
        return out_FPD.unflatten(0, shape)

    def _project(self, x_BTD: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of tokens; see `Attention.project`."""
        return self.attn.project(self.norm1(x_BTD), rope)

    def _add(self, x_BTD: Tensor, attended_BTD: Tensor) -> Tensor:
        """Both residual branches, the first from what the heads answered."""
        x_BTD = self.ls1(x_BTD, self.attn.proj(attended_BTD))
        return self.ls2(x_BTD, self.mlp(self.norm2(x_BTD)))
