"""Stopping a run whose loss runs away, before it has burnt a night."""

from collections.abc import Iterable, Mapping
from typing import Any

from spa3r.errors import TrainingError
from spa3r.loop_config import LoopConfig
from spa3r.train.world import World


class DivergenceStop:
    """Compares each log window's mean loss with the lowest one before it.

    A window that something cut short, as a stop does, is the mean of few batches: it is passed
    over, on both sides.

    Args:
        config: max_loss_ratio (0: never stops), and what makes windows.
        lines: those of metrics.jsonl so far; rank 0's count.
        first_step: where this process begins.
    """

    def __init__(
        self,
        config: LoopConfig,
        lines: Iterable[Mapping[str, Any]],
        world: World,
        *,
        first_step: int,
    ) -> None:
        self._ratio = config.max_loss_ratio
        every = (config.log_every, config.checkpoint_every, config.validate_every)
        self._full = min(steps for steps in every if steps)
        self._end = 0
        found = [self._loss(line) for line in lines]
        self._lowest = world.first(min((x for x in found if x is not None), default=float("inf")))
        self._end = first_step

    def _loss(self, line: Mapping[str, Any]) -> float | None:
        """Of the next window; None: it is short, or no token counted in it."""
        steps, self._end = line["step"] - self._end, line["step"]
        return line.get("total") if steps >= self._full else None

    def check(self, line: Mapping[str, float], kept: str) -> None:
        """Takes the next window's line, the same on every rank.

        Args:
            kept: says what the newest checkpoint is.

        Raises:
            TrainingError: the loss is too many times the lowest one.
        """
        loss = self._loss(line)
        if loss is None:
            return
        if self._ratio and loss > self._ratio * self._lowest:
            raise TrainingError(
                f"diverged: mean loss {loss:.4g} up to step {line['step']:.0f}, more than"
                f" {self._ratio:g} times the lowest before, {self._lowest:.4g}; {kept}: start a run"
                " with a lower train.lr or a longer warm-up, or raise train.max_loss_ratio and"
                " go on"
            )
        self._lowest = min(self._lowest, loss)
