"""The training loop: one, from top to bottom, for every task, with one process or many.

Nothing here knows Ray or MLflow. What a run leaves behind: checkpoints; <run>/metrics.jsonl, one
line per log window, whose numbers spa3r/train/units.py lists; <run>/dropped.jsonl.

A step is `batches_per_step` micro-batches (G) of the data order over all workers: step s (from 0)
takes the batches s * G .. s * G + G - 1, and rank r of W computes s * G + r, s * G + r + W, ...
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from spa3r.errors import ConfigError, TrainingError
from spa3r.loop_config import LoopConfig
from spa3r.train.ahead import load_ahead, pinned
from spa3r.train.checkpoints import Checkpoints
from spa3r.train.divergence import DivergenceStop
from spa3r.train.ema import begin_ema, ema_weights, load_ema, update_ema
from spa3r.train.log import RunLog
from spa3r.train.metrics import score_of
from spa3r.train.objective import Task
from spa3r.train.optim import build_optimizer, lr_at, set_lr
from spa3r.train.sharding import distribute, gather_for_good
from spa3r.train.state import TrainState
from spa3r.train.step import Gradient, Stepper
from spa3r.train.world import World

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """Where the loop ended. `finished` is False after a stop that was asked for."""

    step: int
    finished: bool


def train(
    task: Task,
    config: LoopConfig,
    run: Path,
    *,
    checkpoints: Checkpoints,
    world: World,
    loaders: int = 0,
    init_from: str | None = None,
    stop: Callable[[], bool] = lambda: False,
    validate: Callable[[], Mapping[str, float]] | None = None,
) -> TrainResult:
    """Trains from wherever the run stands to config.steps, and leaves a checkpoint at the end.

    When it returns after the last step, task.model has the weights to be used: the average where
    config.ema is on (sharded ones stay sharded: spa3r/train/sharding.py, full_tensors).

    Args:
        run: local folder that all ranks share.
        loaders: threads that fetch batches ahead, in the same order; 0 fetches in line.
        init_from: weights to begin with where the run has no checkpoint.
        stop: asked in every step; True on any rank saves and ends the run on all of them.
        validate: scores of task.model by name (spa3r/train/validation.py); every rank calls it.

    Raises:
        ConfigError: more workers than micro-batches in a step, or unequal shares under fsdp2.
        TrainingError: a non-finite loss or gradient, before it reaches the weights; a loss that
            runs away; or as Checkpoints.
    """
    _check_shares(config, world)
    state, forward = _begin(task, config, checkpoints, world, init_from)
    log = RunLog(run, world, task, first_step=state.step)
    guard = DivergenceStop(config, log.kept, world, first_step=state.step)
    stepper = Stepper(task=task, forward=forward, config=config, world=world, log=log)
    fetch = pinned(task.fetch) if world.device.type == "cuda" else task.fetch
    saved, stopping = state.step, False
    with load_ahead(fetch, _own_share(state.step, config, world), loaders) as fetched:
        while state.step < config.steps and not stopping:
            found = stepper.gradient(state.step, fetched, stop)
            kept = _kept(saved, checkpoints)
            if found.broken:
                raise TrainingError(_explain(task, found, state.step, kept, world))
            lr, stopping = _update(state, config), found.stopping
            due = _due(state.step, config, stopping)
            if due.line:
                line = log.close(state.step, lr=lr, grad_norm=found.norm)
                if due.validation and validate is not None:
                    line |= _validate(state, validate, log)
                log.write(line)
                guard.check(line, kept)
                score = score_of(line)
                if due.save or checkpoints.among_best(score):
                    checkpoints.save(state, score=score)
                    saved = state.step
    checkpoints.wait()
    world.barrier()
    finished = state.step == config.steps
    if finished and state.ema is not None:
        load_ema(state.model, state.ema)
    return TrainResult(step=state.step, finished=finished)


# --- parts of a run -------------------------------------------------------------------------------


def _begin(
    task: Task,
    config: LoopConfig,
    checkpoints: Checkpoints,
    world: World,
    init_from: str | None,
) -> tuple[TrainState, nn.Module]:
    """The state where the run stands, and the task as the workers call it."""
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    model = task.model.to(world.device).train()
    torch.manual_seed(config.seed + world.rank)
    forward = distribute(task, config, world)
    state = TrainState(model=model, optimizer=build_optimizer(model, config))
    state.ema = begin_ema(model) if config.ema else None
    checkpoints.start(state, init_from)
    if state.ema is not None and state.step == 0:
        state.ema = begin_ema(model)  # of the weights of `init_from`
    return state, forward


def _update(state: TrainState, config: LoopConfig) -> float:
    """The optimizer's step; gives its learning rate."""
    lr = lr_at(state.step, config)
    set_lr(state.optimizer, lr)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.step += 1
    if state.ema is not None:
        update_ema(state.ema, state.model, config.ema, state.step)
    return lr


def _validate(
    state: TrainState, validate: Callable[[], Mapping[str, float]], log: RunLog
) -> dict[str, float]:
    with log.speed.paused(), ema_weights(state.model, state.ema):
        return dict(validate())


@dataclass(frozen=True, slots=True)
class _Due:
    """What happens after a step. A checkpoint and a validation close the log window, so a run that
    goes on from a checkpoint begins a window with it, as the undisturbed run did."""

    validation: bool
    save: bool
    line: bool


def _due(step: int, config: LoopConfig, stopping: bool) -> _Due:
    ends = step == config.steps
    every = config.validate_every
    validation = every > 0 and (ends or step % every == 0)
    save = ends or stopping or step % config.checkpoint_every == 0
    return _Due(validation, save, save or validation or step % config.log_every == 0)


def _check_shares(config: LoopConfig, world: World) -> None:
    total, workers = config.batches_per_step, world.size
    if workers > total:
        raise ConfigError(
            f"{workers} workers for {total} micro-batches a step: start at most {total}, or raise"
            " train.batches_per_step"
        )
    if config.sharding == "fsdp2" and total % workers:
        raise ConfigError(
            f"train.sharding='fsdp2' needs equal shares: {workers} workers do not divide"
            f" train.batches_per_step {total}"
        )


def _own_share(step: int, config: LoopConfig, world: World) -> Iterator[int]:
    """This rank's numbers in the data order, from optimizer step `step` to the end."""
    per_step = config.batches_per_step
    for first in range(step * per_step, config.steps * per_step, per_step):
        yield from range(first + world.rank, first + per_step, world.size)


def _kept(saved: int, checkpoints: Checkpoints) -> str:
    if saved == 0:
        return "there is no checkpoint yet"
    return f"the last checkpoint is of step {saved} in {checkpoints.url}"


def _explain(task: Task, found: Gradient, step: int, kept: str, world: World) -> str:
    """Names step and samples of a step that must not reach the weights.

    All ranks say the same: one rank's bad loss has spoilt the averaged gradient of every other.
    """
    assert isinstance(task, nn.Module)
    gather_for_good(task)  # ranks ask about unequal numbers of samples
    bad = world.texts([task.blame(samples) for samples, total in found.done if not _finite(total)])
    what = "loss" if bad else f"gradient (norm {float(found.norm)})"
    named = "; ".join(bad or world.texts([task.blame(samples) for samples, _ in found.done]))
    return (
        f"non-finite {what} at step {step} in {named}; the weights are untouched and {kept}: look"
        f" at these {task.sample}s, or lower train.lr, then start again"
    )


def _finite(x: Tensor) -> bool:
    return bool(x.isfinite())
