"""What a run says about itself: losses, speed and dropped samples, one line per log window."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from spa3r.errors import TrainingError
from spa3r.train.dropped import DROPPED, DroppedSamples
from spa3r.train.flops import peak_flops
from spa3r.train.metrics import METRICS, MeanLosses, StepLines
from spa3r.train.objective import Batch, Task
from spa3r.train.throughput import Throughput
from spa3r.train.world import World

EMPTY_STEPS: Final = 10
"""So many steps in a row without a token in the loss end a run: every sample is being dropped."""


class RunLog:
    """<run>/metrics.jsonl and <run>/dropped.jsonl, both cut back to `first_step`."""

    def __init__(self, run: Path, world: World, task: Task, *, first_step: int) -> None:
        self._task, self._run = task, run
        self._useful = first_step  # end of the last window with a token in the loss
        self._lines = StepLines(run / METRICS, world, first_step=first_step)
        self._losses = MeanLosses(world)
        self._dropped = DroppedSamples(run, world, task.sample, first_step=first_step)
        self.speed = Throughput(world, teachers=task.has_teachers, peak=peak_flops(world.device))

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The lines up to `first_step`; [] on all ranks but 0."""
        return self._lines.kept

    def add(
        self,
        step: int,
        batch: Batch,
        losses: Mapping[str, Tensor],
        tokens: Mapping[str, Tensor],
    ) -> None:
        """Counts one micro-batch of optimizer step `step` (from 1)."""
        self._losses.add(losses, tokens)
        self._dropped.add(step, batch.dropped)
        self.speed.add(self._task.counts(batch), self._task.flops(batch))

    def close(self, step: int, *, lr: float, grad_norm: Tensor) -> dict[str, float]:
        """The window's line, over all ranks; a new window begins. Every rank must call.

        A window in which no token entered the loss has no losses in its line.

        Raises:
            TrainingError: no token entered the loss for EMPTY_STEPS steps.
        """
        dropped = self._dropped.flush()
        losses = self._losses.read()
        self._useful = step if losses else self._useful
        if step - self._useful >= EMPTY_STEPS:
            raise TrainingError(
                f"no token entered the loss in the steps {self._useful + 1} to {step}:"
                f" {self._task.starved} (left out: {self._run / DROPPED})"
            )
        return {
            "step": step,
            "lr": lr,
            "grad_norm": float(grad_norm),
            **losses,
            **self.speed.read(),
            f"dropped_{self._task.sample}s": dropped,
        }

    def write(self, line: Mapping[str, float]) -> None:
        """Adds a line to metrics.jsonl."""
        self._lines.append(line)
