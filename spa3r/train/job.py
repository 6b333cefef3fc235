"""What one process of a pre-training run does, wherever it was started."""

import errno
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from spa3r.config import Recipe
from spa3r.data.batch import TargetSource
from spa3r.errors import SceneError, TrainingError
from spa3r.hub import EncoderCard, Spa3REncoder
from spa3r.models.spa3r import Spa3RModel
from spa3r.plain import to_dict
from spa3r.teachers.checkpoints import load_strict
from spa3r.train.checkpoints import Checkpoints
from spa3r.train.identity import binding
from spa3r.train.loop import TrainResult, train
from spa3r.train.run_lock import check_holder, check_ours
from spa3r.train.sharding import full_tensors
from spa3r.train.sources import DataPlaces, TrainingData, open_data
from spa3r.train.task import PretrainTask
from spa3r.train.validation import validator
from spa3r.train.world import World

logger = logging.getLogger(__name__)

ENCODER: Final = "encoder"
STOP: Final = "stop"
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a process needs to take part in a run; it can be sent to another machine."""

    recipe: Recipe
    targets: DataPlaces | str | TargetSource
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


def identity_of(job: Job, data: TrainingData) -> dict[str, Any]:
    """What decides a run's result, for the check at restart and re-use."""
    return {
        "recipe": binding(job.recipe),
        "target_hash": data.target_hash,
        "order_hash": data.order_hash,
        "init_from": job.init_from,
    }


def run_job(job: Job, world: World, stop: Callable[[], bool] = lambda: False) -> TrainResult:
    """Trains, and on rank 0 writes <run>/encoder when the last step is done.

    Besides `stop`, a file <run>/stop that anyone makes ends the run, its state saved.

    Raises:
        TrainingError: as `train`; a full disk; or another process carries the run on.
    """
    data = open_data(job.targets, job.recipe, device=world.device)
    task = PretrainTask(job.recipe, data)
    allowed = partial(check_ours, job.run, job.checkpoints_url, job.holder)
    identity = identity_of(job, data)
    url, config = job.checkpoints_url, job.recipe.train
    try:
        job.run.mkdir(parents=True, exist_ok=True)
        with Checkpoints(url, world, config, identity, allowed=allowed) as checkpoints:
            result = train(
                task,
                config,
                job.run,
                checkpoints=checkpoints,
                world=world,
                loaders=job.loaders,
                init_from=job.init_from,
                stop=_Stop(job, world, stop),
                validate=_validation(job, data, task, world),
            )
        if result.finished:
            _export(job, data, task, world)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise TrainingError(
            f"{error.filename or job.run}: {error.strerror}; free space, then start again: the run"
            " continues from its last checkpoint"
        ) from error
    return result


def _validation(
    job: Job, data: TrainingData, task: PretrainTask, world: World
) -> Callable[[], Mapping[str, float]] | None:
    config = job.recipe.train
    if data.held_out is None or not config.validate_every:
        return None
    try:
        return validator(task.model, data.held_out, config, world, stats=data.stats)
    except SceneError as error:  # too few of them: a run is worth having all the same
        if world.rank == 0:
            logger.warning("training goes on without validation: %s", error)
        return None


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


def _export(job: Job, data: TrainingData, task: PretrainTask, world: World) -> None:
    """Writes the encoder on rank 0. Every rank must call it: weights may be cut up."""
    weights = full_tensors(task.model.state_dict())
    if world.rank != 0:
        return
    model = Spa3RModel(job.recipe.model)
    load_strict(model, weights, where=str(job.run))
    card = EncoderCard(
        model=job.recipe.model,
        teacher=job.recipe.teacher,
        references=data.references,
        image_width=job.recipe.ingest.width,
        image_multiple=job.recipe.ingest.multiple,
        provenance={
            "recipe": job.recipe.name,
            "settings": to_dict(job.recipe),
            "steps": job.recipe.train.steps,
            "data_hash": data.data_hash,
            "target_hash": data.target_hash,
            "datasets": sorted({clip.dataset for clip in data.source.clips}),
        },
    )
    Spa3REncoder(model, card).save_pretrained(job.run / ENCODER)
