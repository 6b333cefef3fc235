"""The pre-norm ViT that encoder and decoder share (reference.md 2.1.5-6).

Choices: LayerNorm eps 1e-6, qkv bias, RMSNorm on queries and keys, exact GELU, no LayerScale, no
dropout, register tokens in front. The last block computes only the tokens that are read: its
attention still sees all of them, the others' queries and MLP would be thrown away.

Legend: S sequences, T tokens, R rows read, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spa3r.models.attention import ALL_ROWS, Attention, Position

LAYER_NORM_EPS = 1e-6


class Mlp(nn.Module):
    """Linear, exact GELU, linear."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x_STD: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x_STD)))


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and added to its input."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(width, mlp_ratio * width, width)

    def forward(self, x_STD: Tensor, position: Position | None, rows: slice = ALL_ROWS) -> Tensor:
        """(S, R, D): the tokens of `rows`, having seen all."""
        x_SRD = x_STD[:, rows] + self.attn(self.norm1(x_STD), position, rows)
        return x_SRD + self.mlp(self.norm2(x_SRD))


class Transformer(nn.Module):
    """Registers, blocks, final norm."""

    def __init__(
        self, width: int, num_layers: int, num_heads: int, mlp_ratio: int, num_registers: int
    ) -> None:
        super().__init__()
        self.num_registers = num_registers
        self.register_tokens = nn.Parameter(torch.zeros(1, num_registers, width))
        self.blocks = nn.ModuleList(Block(width, num_heads, mlp_ratio) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, x_STD: Tensor, position: Position | None, read: slice) -> Tensor:
        """Runs [registers, x].

        Args:
            x_STD: tokens without registers.
            position: code of the whole sequence, registers included.
            read: tokens of x to return.

        Returns:
            (S, R, D), after the final norm.
        """
        registers_SRD = self.register_tokens.expand(len(x_STD), -1, -1)
        x_STD = torch.cat((registers_SRD.to(x_STD.dtype), x_STD), dim=1)
        first = self.num_registers + read.start
        last = None if read.stop is None else self.num_registers + read.stop
        for block in self.blocks[:-1]:
            x_STD = block(x_STD, position)
        return self.norm(self.blocks[-1](x_STD, position, slice(first, last)))
