"""dropped.jsonl: every poisoned clip that a run left out, with the step and the reason."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from spa3r.train.metrics import StepLines
from spa3r.train.world import World

logger = logging.getLogger(__name__)

DROPPED = "dropped.jsonl"


class DroppedClips:
    """Counts them from the beginning of the run, restarts included."""

    def __init__(self, run: Path, world: World, *, first_step: int) -> None:
        self._file, self._world = run / DROPPED, world
        self._lines = StepLines(self._file, world, first_step=first_step)
        self._count = int(world.first(len(self._lines.kept)))
        self._new: list[str] = []

    def add(self, step: int, dropped: Sequence[str]) -> None:
        """Takes one batch's `ClipBatch.dropped`, in optimizer step `step` (from 1)."""
        self._new += [json.dumps({"step": step, "clip": text}) for text in dropped]

    def flush(self) -> int:
        """Writes what is new; clips that all ranks dropped so far. Every rank must call."""
        new = [json.loads(text) for text in self._world.texts(self._new)]
        new.sort(key=lambda line: line["step"])
        for line in new:
            self._lines.append(line)
        if new and not self._count and self._world.rank == 0:
            logger.warning("left out: %s; all are listed in %s", new[0]["clip"], self._file)
        self._count += len(new)
        self._new = []
        return self._count
