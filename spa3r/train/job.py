"""What one process of a training run does, wherever it was started and whatever it trains."""

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from spa3r.errors import TrainingError
from spa3r.loop_config import LoopConfig
from spa3r.train.checkpoints import Checkpoints
from spa3r.train.loop import TrainResult, train
from spa3r.train.objective import Task
from spa3r.train.run_lock import check_holder, check_ours
from spa3r.train.world import World

STOP: Final = "stop"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_LOOK_SECONDS: Final = 1.0


class Opened(Protocol):
    """Work whose data and model are at hand."""

    @property
    def task(self) -> Task: ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the run's result, for the check at restart and re-use; plain JSON."""
        ...

    def validate(self, world: World) -> Callable[[], Mapping[str, float]] | None:
        """Scores of task.model as it is when called; None: there is nothing to look at. Every rank
        must call both."""
        ...

    def export(self, folder: Path, world: World) -> None:
        """Writes what the run is for, on rank 0. Every rank must call: weights may be cut up."""
        ...


class Work(Protocol):
    """What is trained, from what; it can be sent to another machine."""

    @property
    def config(self) -> LoopConfig: ...

    @property
    def result(self) -> str:
        """Name of the folder below the run that `Opened.export` writes."""
        ...

    def open(self, device: torch.device | str = "cpu") -> Opened:
        """Finds the data and makes the model, as it is before its first step.

        Raises:
            Spa3RError: something is missing or does not fit.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a process needs to take part in a run; it can be sent to another machine."""

    work: Work
    run: Path
    checkpoints: str = ""
    """A folder, as path or fsspec URL; empty: <run>/checkpoints."""
    loaders: int = 0
    init_from: str | None = None
    holder: str = ""
    """The line of the run's lock that names who may carry it on; empty: nobody else is there."""

    @property
    def checkpoints_url(self) -> str:
        return self.checkpoints or str(self.run / "checkpoints")


def run_job(job: Job, world: World, stop: Callable[[], bool] = lambda: False) -> TrainResult:
    """Trains, and on rank 0 writes the result into the run when the last step is done.

    Besides `stop`, a file <run>/stop that anyone makes ends the run, its state saved.

    Raises:
        TrainingError: as `train`; a full disk; or another process carries the run on.
    """
    opened = job.work.open(world.device)
    allowed = partial(check_ours, job.run, job.checkpoints_url, job.holder)
    url, config = job.checkpoints_url, job.work.config
    try:
        job.run.mkdir(parents=True, exist_ok=True)
        with Checkpoints(url, world, config, opened.identity, allowed=allowed) as checkpoints:
            result = train(
                opened.task,
                config,
                job.run,
                checkpoints=checkpoints,
                world=world,
                loaders=job.loaders,
                init_from=job.init_from,
                stop=_Stop(job, world, stop),
                validate=opened.validate(world),
            )
        if result.finished:
            opened.export(job.run / job.work.result, world)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise TrainingError(
            f"{error.filename or job.run}: {error.strerror}; free space, then start again: the run"
            " continues from its last checkpoint"
        ) from error
    return result


class _Stop:
    """Whether to end after this step; looks at the run folder on rank 0, not in every step."""

    def __init__(self, job: Job, world: World, stop: Callable[[], bool]) -> None:
        self._job, self._world, self._stop = job, world, stop
        self._looked = float("-inf")

    def __call__(self) -> bool:
        if self._stop():
            return True
        if self._world.rank != 0 or time.monotonic() - self._looked < _LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        check_holder(self._job.run, self._job.holder)
        return (self._job.run / STOP).exists()
