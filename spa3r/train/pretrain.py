"""PSFM pre-training: what one process of a run does, and a whole run."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from spa3r import storage
from spa3r.config import Recipe
from spa3r.data.batch import TargetSource
from spa3r.errors import ConfigError, TrainingError
from spa3r.hub import EncoderCard, Spa3REncoder
from spa3r.plain import to_dict
from spa3r.progress import meter
from spa3r.train.follow import OnLine, follow
from spa3r.train.loop import TrainResult, train
from spa3r.train.metrics import read_lines
from spa3r.train.sources import TrainingData, open_data
from spa3r.train.state import differences, latest, read_state
from spa3r.train.task import PretrainTask
from spa3r.train.world import World

logger = logging.getLogger(__name__)

DONE_FILE: Final = "done.json"
ENCODER: Final = "encoder"
METRICS: Final = "metrics.jsonl"


# --- one process of a run -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a process needs to take part in a run; it can be sent to another machine."""

    recipe: Recipe
    targets: str | TargetSource
    run: Path
    loaders: int = 0
    init_from: str | None = None


def identity_of(job: Job, data: TrainingData) -> dict[str, Any]:
    """What decides a run's result, for the check at restart and re-use."""
    recipe = to_dict(job.recipe)
    del recipe["eval_clips"]
    return {"recipe": recipe, "target_hash": data.target_hash, "init_from": job.init_from}


def batches_of(job: Job, world: World) -> int:
    """Batches of the whole training: those behind the run, and those that this world will do.

    A run that continues with another number of workers has another total: the borders between the
    stages of its curriculum move, its end stays the end of the last stage.
    """
    per_step = job.recipe.train.batches_per_step
    own = latest(job.run)
    if own is None:
        return job.recipe.train.steps * per_step
    state = read_state(own)
    return state["position"] + (job.recipe.train.steps - state["step"]) * per_step


def run_job(job: Job, world: World, stop: Callable[[], bool] = lambda: False) -> TrainResult:
    """Trains, and on rank 0 writes <run>/encoder when the last step is done."""
    data = open_data(job.targets, job.recipe)
    task = PretrainTask(job.recipe, data, batches=batches_of(job, world))
    result = train(
        task,
        job.recipe.train,
        job.run,
        identity=identity_of(job, data),
        world=world,
        loaders=job.loaders,
        init_from=job.init_from,
        stop=stop,
    )
    if result.finished and world.rank == 0:
        card = EncoderCard(
            model=job.recipe.model,
            teacher=job.recipe.teacher,
            references=data.references,
            image_width=job.recipe.ingest.width,
            image_multiple=job.recipe.ingest.multiple,
            provenance={
                "recipe": job.recipe.name,
                "settings": to_dict(job.recipe),
                "steps": result.step,
                "data_hash": data.data_hash,
                "target_hash": data.target_hash,
                "datasets": sorted({clip.dataset for clip in data.source.clips}),
            },
        )
        Spa3REncoder(task.model, card).save_pretrained(job.run / ENCODER)
    return result


# --- a whole run ----------------------------------------------------------------------------------


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
    """Trains here and now. SIGTERM ends the run after the step in progress, its state saved."""

    def launch(job: Job) -> TrainResult:
        with _terminated() as stop:
            return run_job(job, World(device=torch.device(device)), stop)

    return launch


def pretrain(
    recipe: Recipe,
    targets: str | TargetSource,
    run_folder: str | Path,
    *,
    launch: Launch | None = None,
    on_line: OnLine | None = None,
    loaders: int = 0,
    init_from: str | None = None,
) -> Pretrained:
    """Pre-trains an encoder; continues a killed run and re-uses a finished one.

    Args:
        targets: folder that `write_targets` wrote, or any TargetSource.
        run_folder: local, or a mounted folder that all workers share.
        launch: where the processes run: `in_this_process()` (the default) or
            `spa3r.train.cluster.on_ray(...)`.
        on_line: called with every line of metrics.jsonl as it appears.
        loaders: threads per process that load batches ahead.
        init_from: weights to begin with: an encoder folder, file or Hugging Face id.

    Raises:
        TrainingError: a non-finite loss, a stop by SIGTERM, or a run folder of another identity.
        ConfigError: a run folder that is not local.
    """
    if not storage.is_local(run_folder):
        raise ConfigError(f"run folder {run_folder}: mount it; checkpoints need a local path")
    run = Path(run_folder).absolute()
    job = Job(recipe=recipe, targets=targets, run=run, loaders=loaders, init_from=init_from)
    identity = identity_of(job, open_data(targets, recipe))
    if _is_finished(run, identity):
        logger.info("pretrain: %s is finished, re-used", run)
        return Pretrained(encoder=run / ENCODER, reused=True, metrics=_last(run))
    begun = max((line["step"] for line in read_lines(run / METRICS)), default=0)
    with meter("pretrain", recipe.train.steps, "steps", done=begun) as bar:

        def show(line: Mapping[str, Any]) -> None:
            if line["step"] > bar.done:
                bar.advance(line["step"] - bar.done, note=f"loss {line['total']:.3f}")
            if on_line is not None:
                on_line(line)

        with follow(run / METRICS, show):
            result = (launch or in_this_process())(job)
    if not result.finished:
        raise TrainingError(
            f"{run}: stopped at step {result.step} of {recipe.train.steps}; its state is saved,"
            " start it again to continue"
        )
    files = {path.name: storage.sha256(path) for path in sorted((run / ENCODER).iterdir())}
    storage.write_json(run / DONE_FILE, {"identity": identity, "files": files})
    return Pretrained(encoder=run / ENCODER, reused=False, metrics=_last(run))


def _is_finished(run: Path, identity: Mapping[str, Any]) -> bool:
    if not (run / DONE_FILE).exists():
        return False
    done = storage.read_json(run / DONE_FILE)
    whole = all(
        (run / ENCODER / name).exists() and storage.sha256(run / ENCODER / name) == digest
        for name, digest in done["files"].items()
    )
    return whole and not differences(done["identity"], identity)


def _last(run: Path) -> dict[str, float]:
    lines = read_lines(run / METRICS)
    return lines[-1] if lines else {}


@contextmanager
def _terminated() -> Iterator[Callable[[], bool]]:
    """A question that SIGTERM answers with True. Signals reach the main thread only."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
