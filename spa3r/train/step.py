"""One optimizer step's gradient, however its samples are spread over micro-batches and workers.

Each part of the loss is a mean over the tokens that count in a micro-batch, but clips of more views
have more tokens, and a step wants the mean over all of its tokens. So each part goes back times its
number of tokens, and the summed gradient is divided by the number in the whole step. Parts that
count other tokens (the depth probe: those with known depth) train other parameters, so each
gradient has its own divisor.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spa3r.errors import ConfigError
from spa3r.loop_config import LoopConfig
from spa3r.train.log import RunLog
from spa3r.train.objective import Batch, Task
from spa3r.train.sharding import gradient_sync, local, whole
from spa3r.train.world import World


@dataclass(frozen=True, kw_only=True, slots=True)
class Gradient:
    """What a step has found. The gradients are those of the step, clipped, on all ranks alike."""

    done: tuple[tuple[tuple[Any, ...], Tensor], ...]
    """This rank's micro-batches: their samples and their loss."""
    norm: Tensor
    """Before clipping."""
    broken: bool
    """A loss or the gradient is not finite, on some rank."""
    stopping: bool
    """Some rank was asked to stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stepper:
    """Forward and backward of a task's steps."""

    task: Task
    forward: nn.Module
    """The task as `distribute` wrapped it."""
    config: LoopConfig
    world: World
    log: RunLog

    def gradient(self, step: int, fetched: Iterator[Any], stop: Callable[[], bool]) -> Gradient:
        """Forward and backward of optimizer step `step` (from 0). Every rank must call."""
        tokens: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=self.world.device))
        done: list[tuple[tuple[Any, ...], Tensor]] = []
        mine = len(range(self.world.rank, self.config.batches_per_step, self.world.size))
        for micro in range(mine):
            batch = self._next(fetched)
            with gradient_sync(self.forward, wanted=micro == mine - 1):
                with autocast(self.config, self.world.device):
                    losses: Mapping[str, Tensor] = self.forward(batch)
                numbers = self.task.tokens(batch)
                torch.stack([losses[part] * n for part, n in numbers.items()]).sum().backward()
            for part, number in numbers.items():
                tokens[part] = tokens[part] + number
            self.log.add(step + 1, batch, losses, numbers)
            done.append((batch.samples, losses["total"].detach()))
        return self._finish(done, tokens, stop())

    def _next(self, fetched: Iterator[Any]) -> Batch:
        with self.log.speed.waiting():
            ready = next(fetched)
        with self.log.speed.teaching():
            batch = self.task.finish(ready)
        return batch.to(self.world.device)

    def _finish(
        self,
        done: list[tuple[tuple[Any, ...], Tensor]],
        tokens: Mapping[str, Tensor],
        stop: bool,
    ) -> Gradient:
        """Divides and clips the gradients. One sum over the world, one wait for the device."""
        bad = torch.stack([~total.isfinite() for _, total in done]).any()
        asked = torch.full((), stop, device=self.world.device)
        sums = self.world.sum(torch.stack([bad, asked, *tokens.values()]).double())
        counts = dict(zip(tokens, sums[2:], strict=True))
        self._divide(counts)
        parameters = list(self.task.model.parameters())
        norm = whole(nn.utils.clip_grad_norm_(parameters, self.config.clip_norm))
        flags = torch.stack([sums[0] > 0, sums[1] > 0, ~norm.isfinite()]).tolist()
        return Gradient(done=tuple(done), norm=norm, broken=flags[0] or flags[2], stopping=flags[1])

    @torch.no_grad()
    def _divide(self, counts: Mapping[str, Tensor]) -> None:
        """Makes sums over tokens, averaged over the workers, into means over tokens."""
        shares = {part: self.world.size / n.clamp_min(1) for part, n in counts.items()}
        for name, parameter in self.task.model.named_parameters():
            if parameter.grad is not None:
                local(parameter.grad).mul_(shares[self.task.part_of(name)])


def autocast(config: LoopConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Around a forward, as the precision says. Raises ConfigError where there is no bfloat16."""
    if config.precision == "float32":
        return nullcontext()
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f"{device} has no bfloat16: set train.precision to float32")
    return torch.autocast(device.type, dtype=torch.bfloat16)
