"""Stopping a run whose loss runs away, before it has burnt a night."""

from collections.abc import Iterable, Mapping
from typing import Any

from spa3r.errors import TrainingError
from spa3r.train.world import World


class DivergenceStop:
    """Compares each log window's mean loss with the lowest one before it.

    Args:
        ratio: TrainConfig.max_loss_ratio; 0: never stops.
        lines: those of metrics.jsonl so far; rank 0's count.
    """

    def __init__(self, ratio: float, lines: Iterable[Mapping[str, Any]], world: World) -> None:
        self._ratio = ratio
        before = min((line["total"] for line in lines if "total" in line), default=float("inf"))
        self._lowest = world.first(before)

    def check(self, line: Mapping[str, float], kept: str) -> None:
        """Takes the next window's line, the same on every rank.

        Args:
            kept: says what the newest checkpoint is.

        Raises:
            TrainingError: the loss is too many times the lowest one.
        """
        if "total" not in line:
            return
        loss = line["total"]
        if self._ratio and loss > self._ratio * self._lowest:
            raise TrainingError(
                f"diverged: mean loss {loss:.4g} up to step {line['step']:.0f}, more than"
                f" {self._ratio:g} times the lowest before, {self._lowest:.4g}; {kept}: start a run"
                " with a lower train.lr or a longer warm-up, or raise train.max_loss_ratio and"
                " go on"
            )
        self._lowest = min(self._lowest, loss)
