"""A whole training run: started, continued or re-used, whatever it trains."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from spa3r import storage
from spa3r.errors import ConfigError, StoppedError
from spa3r.progress import meter
from spa3r.train.checkpoint_files import newest_step
from spa3r.train.follow import OnLine, follow
from spa3r.train.identity import differences
from spa3r.train.job import STOP, Job, run_job
from spa3r.train.lives import note_life
from spa3r.train.loop import TrainResult
from spa3r.train.metrics import METRICS, read_lines
from spa3r.train.run_lock import carrying_on
from spa3r.train.signals import asked_to_stop
from spa3r.train.sources import DataPlaces
from spa3r.train.world import World

logger = logging.getLogger(__name__)

P = TypeVar("P")
DONE_FILE: Final = "done.json"

Launch = Callable[[Job], TrainResult]


def in_this_process(device: torch.device | str = "cpu") -> Launch:
    """Trains here and now. SIGTERM or Ctrl-C ends the run after the step in progress, saved."""

    def launch(job: Job) -> TrainResult:
        with asked_to_stop() as asked:
            return run_job(job, World(device=torch.device(device)), asked.is_set)

    return launch


def carry(
    job: Job,
    identity: Mapping[str, Any],
    name: str,
    *,
    launch: Launch | None = None,
    on_line: OnLine | None = None,
) -> bool:
    """Trains to the end and leaves <run>/<result> and done.json; or finds the run finished.

    Args:
        identity: as `Opened.identity`.
        name: what the run does, for its progress bar.
        launch: where the processes run; None: `in_this_process()`.
        on_line: called with every line of metrics.jsonl as it appears.

    Returns:
        Whether it was finished already and nothing was done.

    Raises:
        TrainingError: as `run_job`; a run folder of another identity; or another process is at
            work on it.
        StoppedError: SIGTERM, Ctrl-C or the file <run>/stop; the state is saved.
    """
    if not _is_finished(job, identity):
        with carrying_on(job.run, job.checkpoints_url) as me:
            if not _is_finished(job, identity):  # by the process that held it until now
                _carry_on(replace(job, holder=me), name, launch or in_this_process(), on_line)
                _mark_finished(job, identity)
                return False
    logger.info("%s: %s is finished, re-used", name, job.run)
    return True


def require_local(run: str | Path) -> Path:
    """The run folder, as a path that holds in every working directory. Raises ConfigError."""
    if not storage.is_local(run):
        raise ConfigError(
            f"run folder {run}: name a local or mounted folder; only its checkpoints may be a URL"
        )
    return Path(run).absolute()


def absolute(places: P) -> P:
    """Paths that mean the same in every working directory: workers have others."""
    if isinstance(places, DataPlaces):
        return replace(places, **{name: absolute(x) for name, x in vars(places).items()})
    if not isinstance(places, str) or not places or "://" in places:
        return places
    return type(places)(Path(places).absolute())


def last_line(run: Path) -> dict[str, float]:
    """Of metrics.jsonl; {} if the run logged nothing."""
    lines = read_lines(run / METRICS)
    return lines[-1] if lines else {}


def _carry_on(job: Job, name: str, launch: Launch, on_line: OnLine | None) -> None:
    """Trains to the end, and shows how far it is."""
    run, steps = job.run, job.work.config.steps
    (run / STOP).unlink(missing_ok=True)  # asked of a run that has ended since
    after = newest_step(job.checkpoints_url)
    if after < steps:
        note_life(run, after)
    begun = max((line["step"] for line in read_lines(run / METRICS)), default=0)
    with meter(name, steps, "steps", done=begun) as bar:

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


def _mark_finished(job: Job, identity: Mapping[str, Any]) -> None:
    result = job.run / job.work.result
    paths = sorted(path for path in result.rglob("*") if path.is_file())
    files = {path.relative_to(result).as_posix(): storage.sha256(path) for path in paths}
    storage.write_json(job.run / DONE_FILE, {"identity": identity, "files": files})


def _is_finished(job: Job, identity: Mapping[str, Any]) -> bool:
    done_file, result = job.run / DONE_FILE, job.run / job.work.result
    if not done_file.exists():
        return False
    done = storage.read_json(done_file)
    whole = all(
        (result / name).exists() and storage.sha256(result / name) == digest
        for name, digest in done["files"].items()
    )
    return whole and not differences(done["identity"], identity)
