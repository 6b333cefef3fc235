"""How tokens are stored: as float16 or bfloat16, or as int8 with a scale per token and per channel.

int8 stands for q * token * channel. A channel's scale is its root mean square over the tensor, so
that a few channels fifty times as large as the rest cost the others no precision; a token's scale
lets the largest of its values so divided be 127. A channel that is thousands of times as large in a
few tokens alone does cost: itself in the other tokens, and those tokens' other channels. What is
read back differs from what was stored by at most half of a step, token * channel / 2 (one step just
below the end of float16's range), and by the rounding to float16. benchmarks/target_dtypes.py
measures it.

Legend: V views, N tokens per view, M tokens in all, D width; "..." is V, N or N alone.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

_FLOATS: Final = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_LEVELS: Final = 127
_END_OF_FLOAT16: Final = 65519.0  # from 65520 on a number is rounded to infinity
_TINY: Final = torch.finfo(torch.float32).tiny
_BLOCK: Final = 128  # tokens that are unpacked at once: their float32 stays in the CPU's cache
_TOKEN, _CHANNEL = ".token", ".channel"

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Tensor name -> shape and dtype."""


def loop_dtype(dtype: str) -> torch.dtype:
    """The dtype of tokens where they are used, of TeacherSpec.dtype: float16 for int8."""
    return torch.float16 if dtype == "int8" else _FLOATS[dtype]


def stored_layout(name: str, shape: Sequence[int], dtype: str) -> Layout:
    """The tensors that `pack_tokens` makes of tokens (..., D) of this shape."""
    whole = tuple(shape)
    if dtype != "int8":
        return {name: (whole, _FLOATS[dtype])}
    return {
        name: (whole, torch.int8),
        name + _TOKEN: (whole[:-1], torch.float32),
        name + _CHANNEL: (whole[-1:], torch.float32),
    }


def pack_tokens(name: str, tokens: Tensor, dtype: str) -> dict[str, Tensor]:
    """Tensors to store for tokens (..., D), which must be finite in `loop_dtype`."""
    if dtype != "int8":
        return {name: tokens.to(_FLOATS[dtype])}
    tokens = tokens.float()
    rms_D = tokens.flatten(0, -2).double().square().mean(0).sqrt()
    channel_D = rms_D.float()
    token = (tokens / channel_D.clamp_min(_TINY)).abs().amax(-1) / _LEVELS
    step = (token[..., None] * channel_D).clamp_min_(_TINY)
    levels = (_END_OF_FLOAT16 / step).floor_().clamp_max_(_LEVELS)
    packed = (tokens / step).round_().clamp_(-levels, levels).to(torch.int8)
    return {name: packed, name + _TOKEN: token, name + _CHANNEL: channel_D}


def unpack_tokens(name: str, tensors: Mapping[str, Tensor], dtype: str) -> Tensor:
    """Tokens (..., D) in `loop_dtype`, of tensors that `pack_tokens` made."""
    if dtype != "int8":
        return tensors[name]
    packed_MD, token_M1 = tensors[name].flatten(0, -2), tensors[name + _TOKEN].flatten()[:, None]
    tokens_MD = torch.empty(packed_MD.shape, dtype=torch.float16, device=packed_MD.device)
    for begin in range(0, len(packed_MD), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        values_MD = packed_MD[block].float().mul_(token_M1[block])
        tokens_MD[block] = values_MD.mul_(tensors[name + _CHANNEL])
    return tokens_MD.view(tensors[name].shape)
