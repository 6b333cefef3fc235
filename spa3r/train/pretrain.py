"""PSFM pre-training: a whole run, started, continued or re-used."""

from dataclasses import dataclass
from pathlib import Path

from spa3r.config import Recipe
from spa3r.data.batch import TargetSource
from spa3r.train.follow import OnLine
from spa3r.train.job import Job
from spa3r.train.pretrain_work import ENCODER, PretrainWork
from spa3r.train.run import Launch as Launch  # by these names too, where runs are launched
from spa3r.train.run import absolute, carry, last_line, require_local
from spa3r.train.run import in_this_process as in_this_process
from spa3r.train.sources import DataPlaces


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """A finished run."""

    encoder: Path
    """Folder for Spa3REncoder.from_pretrained."""
    reused: bool
    """The run was already finished; nothing was trained."""
    metrics: dict[str, float]
    """Last line of metrics.jsonl; {} if the run logged nothing."""


def pretrain(
    recipe: Recipe,
    targets: DataPlaces | str | TargetSource,
    run_folder: str | Path,
    *,
    checkpoints: str = "",
    launch: Launch | None = None,
    on_line: OnLine | None = None,
    loaders: int = 0,
    init_from: str | None = None,
) -> Pretrained:
    """Pre-trains an encoder; continues a run that was stopped or killed, re-uses a finished one.

    Args:
        targets: where they are; a folder of stored ones, or any TargetSource.
        run_folder: local, or a mounted folder that all workers share.
        checkpoints: a folder, as path or fsspec URL; empty: <run_folder>/checkpoints.
        launch: where the processes run: `in_this_process()` (the default) or
            `spa3r.train.cluster.on_ray(...)`.
        on_line: called with every line of metrics.jsonl as it appears.
        loaders: threads per process that load batches ahead.
        init_from: weights to begin with: an encoder folder, file or Hugging Face id.

    Raises:
        TrainingError, StoppedError: as `carry`.
        ConfigError: a run folder that is not local.
    """
    run = require_local(run_folder)
    work = PretrainWork(recipe=recipe, targets=absolute(targets), init_from=init_from)
    job = Job(
        work=work,
        run=run,
        checkpoints=absolute(checkpoints),
        loaders=loaders,
        init_from=init_from,
    )
    identity = work.identity(work.data())
    reused = carry(job, identity, "pretrain", launch=launch, on_line=on_line)
    return Pretrained(encoder=run / ENCODER, reused=reused, metrics=last_line(run))
