"""PSFM pre-training: a whole run, started, continued or re-used."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from spa3r import storage
from spa3r.config import Recipe
from spa3r.data.batch import TargetSource
from spa3r.errors import ConfigError, StoppedError
from spa3r.progress import meter
from spa3r.train.checkpoint_files import newest_step
from spa3r.train.follow import OnLine, follow
from spa3r.train.identity import differences
from spa3r.train.job import ENCODER, STOP, Job, identity_of, run_job
from spa3r.train.lives import note_life
from spa3r.train.loop import TrainResult
from spa3r.train.metrics import METRICS, read_lines
from spa3r.train.run_lock import carrying_on
from spa3r.train.signals import asked_to_stop
from spa3r.train.sources import DataPlaces, open_data
from spa3r.train.world import World

logger = logging.getLogger(__name__)

P = TypeVar("P")
DONE_FILE: Final = "done.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """A finished run."""

    encoder: Path
    """Folder for Spa3REncoder.from_pretrained."""
    reused: bool
    """The run was already finished; nothing was trained."""
    metrics: dict[str, float]
    """Last line of metrics.jsonl; {} if the run logged nothing."""


Launch = Callable[[Job], TrainResult]


def in_this_process(device: torch.device | str = "cpu") -> Launch:
    """Trains here and now. SIGTERM or Ctrl-C ends the run after the step in progress, saved."""

    def launch(job: Job) -> TrainResult:
        with asked_to_stop() as asked:
            return run_job(job, World(device=torch.device(device)), asked.is_set)

    return launch


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
        TrainingError: as `run_job`; a run folder of another identity; or another process is at
            work on it.
        StoppedError: SIGTERM, Ctrl-C or the file <run>/stop; the state is saved.
        ConfigError: a run folder that is not local.
    """
    if not storage.is_local(run_folder):
        raise ConfigError(
            f"run folder {run_folder}: name a local or mounted folder; only its checkpoints may be"
            " a URL"
        )
    job = Job(
        recipe=recipe,
        targets=absolute(targets),
        run=Path(run_folder).absolute(),
        checkpoints=absolute(checkpoints),
        loaders=loaders,
        init_from=init_from,
    )
    identity = identity_of(job, open_data(targets, recipe))
    if not _is_finished(job.run, identity):
        with carrying_on(job.run, job.checkpoints_url) as me:
            if not _is_finished(job.run, identity):  # by the process that held it until now
                _carry_on(replace(job, holder=me), launch or in_this_process(), on_line)
                _mark_finished(job.run, identity)
                return _result(job.run, reused=False)
    logger.info("pretrain: %s is finished, re-used", job.run)
    return _result(job.run, reused=True)


def absolute(places: P) -> P:
    """Paths that mean the same in every working directory: workers have others."""
    if isinstance(places, DataPlaces):
        return replace(places, **{name: absolute(x) for name, x in vars(places).items()})
    if not isinstance(places, str) or not places or "://" in places:
        return places
    return type(places)(Path(places).absolute())


def _carry_on(job: Job, launch: Launch, on_line: OnLine | None) -> None:
    """Trains to the end, and shows how far it is."""
    run, steps = job.run, job.recipe.train.steps
    (run / STOP).unlink(missing_ok=True)  # asked of a run that has ended since
    after = newest_step(job.checkpoints_url)
    if after < steps:
        note_life(run, after)
    begun = max((line["step"] for line in read_lines(run / METRICS)), default=0)
    with meter("pretrain", steps, "steps", done=begun) as bar:

        def show(line: Mapping[str, Any]) -> None:
            if line["step"] > bar.done:
                bar.advance(
                    line["step"] - bar.done, note=f"loss {line.get('total', float('nan')):.3f}"
                )
            if on_line is not None:
                on_line(line)

        with follow(run / METRICS, show):
            result = launch(job)
    if not result.finished:
        (run / STOP).unlink(missing_ok=True)
        raise StoppedError(
            f"{run}: stopped at step {result.step} of {steps}; its state is saved, start it again"
            " to continue"
        )


def _mark_finished(run: Path, identity: Mapping[str, Any]) -> None:
    files = {path.name: storage.sha256(path) for path in sorted((run / ENCODER).iterdir())}
    storage.write_json(run / DONE_FILE, {"identity": identity, "files": files})


def _is_finished(run: Path, identity: Mapping[str, Any]) -> bool:
    if not (run / DONE_FILE).exists():
        return False
    done = storage.read_json(run / DONE_FILE)
    whole = all(
        (run / ENCODER / name).exists() and storage.sha256(run / ENCODER / name) == digest
        for name, digest in done["files"].items()
    )
    return whole and not differences(done["identity"], identity)


def _result(run: Path, *, reused: bool) -> Pretrained:
    lines = read_lines(run / METRICS)
    metrics = lines[-1] if lines else {}
    return Pretrained(encoder=run / ENCODER, reused=reused, metrics=metrics)
