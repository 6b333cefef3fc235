"""The precision of what must not be rounded: float32 at least, float64 where that is given."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 if it is; an integer tensor becomes float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
