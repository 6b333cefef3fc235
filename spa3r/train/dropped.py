"""dropped.jsonl: every poisoned sample that a run left out, with the step and the reason."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from spa3r.train.metrics import StepLines
from spa3r.train.world import World

logger = logging.getLogger(__name__)

DROPPED = "dropped.jsonl"


class DroppedSamples:
    """Counts them from the beginning of the run, restarts included."""

    def __init__(self, run: Path, world: World, sample: str, *, first_step: int) -> None:
        """`sample`: what one is called, which is also its key in the file."""
        self._file, self._world, self._sample = run / DROPPED, world, sample
        self._lines = StepLines(self._file, world, first_step=first_step)
        self._count = int(world.first(len(self._lines.kept)))
        self._new: list[str] = []

    def add(self, step: int, dropped: Sequence[str]) -> None:
        """Takes one batch's `dropped`, in optimizer step `step` (from 1)."""
        self._new += [json.dumps({"step": step, self._sample: text}) for text in dropped]

    def flush(self) -> int:
        """Writes what is new; samples that all ranks dropped so far. Every rank must call."""
        new = [json.loads(text) for text in self._world.texts(self._new)]
        new.sort(key=lambda line: line["step"])
        for line in new:
            self._lines.append(line)
        if new and not self._count and self._world.rank == 0:
            logger.warning("left out: %s; all are listed in %s", new[0][self._sample], self._file)
        self._count += len(new)
        self._new = []
        return self._count
