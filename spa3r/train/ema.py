"""An exponential moving average of the trained weights, by parameter name, in float32.

With sharded weights each rank averages its own rows.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spa3r.train.sharding import local
from spa3r.train.state import trained


def begin_ema(model: nn.Module) -> dict[str, Tensor]:
    """The weights as they are."""
    return {name: p.detach().float().clone() for name, p in trained(model).items()}


@torch.no_grad()
def update_ema(ema: Mapping[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    """Moves the average towards the weights after optimizer step `step` (from 1).

    In the first steps it moves faster, by 9 / (10 + step): otherwise a short run's average would
    mostly be the weights at its beginning.
    """
    share = max(1 - decay, 9 / (10 + step))
    for name, parameter in trained(model).items():
        local(ema[name]).lerp_(local(parameter), share)


@torch.no_grad()
def load_ema(model: nn.Module, ema: Mapping[str, Tensor]) -> None:
    """Gives the model the averaged weights."""
    for name, parameter in trained(model).items():
        local(parameter).copy_(local(ema[name]))


@contextmanager
def ema_weights(model: nn.Module, ema: Mapping[str, Tensor] | None) -> Iterator[None]:
    """The model has the averaged weights inside the block, and its own again after it."""
    if ema is None:
        yield
        return
    own = begin_ema(model)
    load_ema(model, ema)
    try:
        yield
    finally:
        load_ema(model, own)
