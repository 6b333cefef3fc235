"""Self-attention of the student: qkv bias, RMSNorm on queries and keys, a pluggable position code.

Legend: S sequences, T tokens, R rows (the tokens whose output is wanted), H heads, C head channels,
D width. Tensors stay (S, T, H, C) until the attention kernel, so no head is ever copied.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spa3r.models.precision import at_least_float32

ALL_ROWS = slice(0, None)


class Position(Protocol):
    """A relative position code as four linear maps; float32 (or float64) in and out.

    Queries and outputs come for `rows` of the sequence only, keys and values for all tokens.
    """

    def query(self, q_SRHC: Tensor, rows: slice) -> Tensor: ...

    def key(self, k_STHC: Tensor) -> Tensor: ...

    def value(self, v_STHC: Tensor) -> Tensor: ...

    def output(self, o_SRHC: Tensor, rows: slice) -> Tensor: ...


class Attention(nn.Module):
    """Multi-head self-attention whose queries may be a part of the sequence."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(width // num_heads)
        self.k_norm = nn.RMSNorm(width // num_heads)
        self.proj = nn.Linear(width, width)

    def forward(self, x_STD: Tensor, position: Position | None, rows: slice = ALL_ROWS) -> Tensor:
        """Attends from `rows` to all tokens; (S, R, D).

        The norm and the position code run in float32 under autocast too (in float64 if the model
        does): a projection matrix can be large, and what it does to a key must be undone exactly on
        another.
        """
        width = x_STD.shape[-1]
        q_weight, kv_weight = self.qkv.weight.split((width, 2 * width))
        q_bias, kv_bias = self.qkv.bias.split((width, 2 * width))
        q_SRHC = F.linear(x_STD[:, rows], q_weight, q_bias).unflatten(-1, (self.num_heads, -1))
        kv_STD = F.linear(x_STD, kv_weight, kv_bias)
        k_STHC, v_STHC = kv_STD.unflatten(-1, (2, self.num_heads, -1)).unbind(2)
        # PyTorch's CPU kernel is slower in bfloat16 than in float32 (its backward, 3.5 times).
        dtype = v_STHC.dtype
        kernel_dtype = torch.promote_types(dtype, torch.float32) if v_STHC.is_cpu else dtype
        with torch.autocast(x_STD.device.type, enabled=False):
            q_SRHC = self.q_norm(at_least_float32(q_SRHC))
            k_STHC = self.k_norm(at_least_float32(k_STHC))
            if position is not None:
                q_SRHC, k_STHC = position.query(q_SRHC, rows), position.key(k_STHC)
                v_STHC = position.value(v_STHC)
            o_SHRC = F.scaled_dot_product_attention(
                q_SRHC.transpose(1, 2).to(kernel_dtype),
                k_STHC.transpose(1, 2).to(kernel_dtype),
                v_STHC.transpose(1, 2).to(kernel_dtype),
            )
            o_SRHC = o_SHRC.transpose(1, 2)
            if position is not None:
                o_SRHC = position.output(o_SRHC, rows)
        return self.proj(o_SRHC.flatten(2))
