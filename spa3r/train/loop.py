"""The training loop: one, from top to bottom, for every task, with one process or many.

Nothing here knows Ray or MLflow. The loop's only outputs are <run>/checkpoints (spa3r/train/state)
and <run>/metrics.jsonl, one line per `log_every` steps: step, lr, grad_norm (before clipping),
views_per_second (all ranks), data_wait_share (of the wall clock, 0..1), total and the loss parts.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from spa3r.config import TrainConfig
from spa3r.data.batch import ClipBatch
from spa3r.errors import ConfigError, TrainingError
from spa3r.train.metrics import MetricsLog
from spa3r.train.optim import build_optimizer, lr_at, set_lr
from spa3r.train.state import TrainState, save, start
from spa3r.train.world import World

logger = logging.getLogger(__name__)


class Task(Protocol):
    """An objective. It is an nn.Module: called with a batch, it answers with losses, of which
    "total" is trained."""

    @property
    def model(self) -> nn.Module:
        """What is trained and saved."""
        ...

    def load(self, index: int) -> ClipBatch:
        """Batch `index` of the data order, on the CPU; may be called from loader threads."""
        ...

    def blame(self, batch: ClipBatch) -> str:
        """Scenes and clip ids to name when this batch gave a non-finite loss or gradient."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """Where the loop ended. `finished` is False after a stop that was asked for."""

    step: int
    finished: bool


def train(
    task: Task,
    config: TrainConfig,
    run: Path,
    *,
    identity: Mapping[str, Any],
    world: World,
    loaders: int = 0,
    init_from: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Trains from wherever the run stands to config.steps, and leaves a checkpoint at the end.

    Args:
        run: local folder that all ranks share.
        identity: what the run is; a checkpoint of another identity is refused.
        loaders: threads that load batches ahead; 0 loads in line.
        init_from: weights to begin with where the run has no checkpoint.
        stop: asked in every step; True on any rank saves and ends the run on all of them.

    Raises:
        TrainingError: a non-finite loss or gradient, before it reaches the weights; or a run
            folder of another identity.
    """
    device = world.device
    model = task.model.to(device).train()
    torch.manual_seed(config.seed + world.rank)
    state = TrainState(model=model, optimizer=build_optimizer(model, config))
    start(state, run, identity, world, init_from)
    forward = world.wrap(task)
    log = MetricsLog(run / "metrics.jsonl", world, first_step=state.step)
    # This rank's share of the data order, from where the run stands.
    per_step = config.batches_per_step
    end = state.position + (config.steps - state.step) * per_step
    mine = range(state.position + world.rank, end, world.size)
    stopping = False
    with _load_ahead(task.load, mine, loaders) as batches:
        while state.step < config.steps and not stopping:
            done = list(_micro_batches(forward, batches, config, device, log, world.size))
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            finite = torch.stack([norm, *(total for _, total in done)]).isfinite().all()
            flags = world.any(torch.stack([~finite, torch.tensor(stop(), device=device)]))
            broken, stopping = flags.tolist()  # the step's only wait for the device
            if broken:
                raise TrainingError(_explain(task, done, float(norm), state.step, run, world))
            lr = lr_at(state.step, config)
            set_lr(state.optimizer, lr)
            state.optimizer.step()
            state.optimizer.zero_grad()
            state.step += 1
            state.position += per_step
            last = stopping or state.step == config.steps
            if last or state.step % config.log_every == 0:
                log.write(state.step, lr=lr, grad_norm=norm)
            if last or state.step % config.checkpoint_every == 0:
                save(state, run, identity, world, config.keep_checkpoints)
    world.barrier()
    return TrainResult(step=state.step, finished=state.step == config.steps)


# --- parts of a step ------------------------------------------------------------------------------


def _micro_batches(
    forward: nn.Module,
    batches: Iterator[ClipBatch],
    config: TrainConfig,
    device: torch.device,
    log: MetricsLog,
    world_size: int,
) -> Iterator[tuple[ClipBatch, Tensor]]:
    """Forward and backward of one step's batches; yields each with its detached total loss.

    Every micro-batch counts alike, as in the released configuration, whatever its clips' length.
    """
    count = config.batches_per_step // world_size
    for micro in range(count):
        with log.waiting():
            batch = next(batches)
        with _gradients_stay_local(forward, until=micro == count - 1):
            with _autocast(config, device):
                losses = forward(batch.to(device))
            (losses["total"] / count).backward()
        log.add(losses, views=batch.is_target_BV.numel())
        yield batch, losses["total"].detach()


def _gradients_stay_local(forward: nn.Module, *, until: bool) -> AbstractContextManager[None]:
    """Gradients are averaged over the world once a step, in its last backward."""
    if until or not isinstance(forward, DistributedDataParallel):
        return nullcontext()
    return forward.no_sync()


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    if config.precision == "float32":
        return nullcontext()
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f"{device} has no bfloat16: set train.precision to float32")
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _explain(
    task: Task,
    done: Sequence[tuple[ClipBatch, Tensor]],
    norm: float,
    step: int,
    run: Path,
    world: World,
) -> str:
    """Names step, scenes and clips of a step that must not reach the weights.

    All ranks say the same: one rank's bad loss has spoilt the averaged gradient of every other.
    """
    bad = world.texts([task.blame(batch) for batch, total in done if not bool(total.isfinite())])
    what = "loss" if bad else f"gradient (norm {norm})"
    named = "; ".join(bad or world.texts([task.blame(batch) for batch, _ in done]))
    return (
        f"non-finite {what} at step {step} in {named}; the weights are untouched and {run} holds"
        " the last checkpoint: look at these clips, or lower train.lr, then start again"
    )


@contextmanager
def _load_ahead(
    load: Callable[[int], ClipBatch], indices: Sequence[int], threads: int
) -> Iterator[Iterator[ClipBatch]]:
    """The batches in order, loaded by `threads` threads two batches each ahead of their use."""
    if threads == 0:
        yield map(load, indices)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="load")

    def in_order() -> Iterator[ClipBatch]:
        waiting: deque[Future[ClipBatch]] = deque()
        for index in indices:
            waiting.append(pool.submit(load, index))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    try:
        yield in_order()
    finally:
        pool.shutdown(cancel_futures=True)
