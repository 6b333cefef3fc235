"""The same run on Ray Train's workers: processes on this machine, or GPUs of a cluster.

Ray places the workers, opens their torch.distributed group and starts them again when one dies;
what they run is `run_job`, and what they start again from is the run's own newest checkpoint, which
all of them must see. Ray's own checkpoints are not used: the run's are atomic, do not depend on the
number of workers and serve runs without Ray as well.
"""

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Final

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.backend import Backend
from ray.train.torch import TorchConfig
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from spa3r.errors import ConfigError, Spa3RError, TrainingError
from spa3r.train.checkpoint_files import newest_step
from spa3r.train.job import STOP, Job, run_job
from spa3r.train.loop import TrainResult
from spa3r.train.run import Launch
from spa3r.train.signals import asked_to_stop, listen
from spa3r.train.world import World

logger = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.2
# One thread per worker: with more, any other load on the machine nearly stalls a worker.
_ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
# Without GPUs DDP is told to look for unused parameters, and each worker would warn of it.
_ENVIRONMENT_CPU: Final = _ENVIRONMENT | {"TORCH_CPP_LOG_LEVEL": "ERROR"}
_ASKED: Final = threading.Event()  # of a worker's process: it has got SIGTERM


def on_ray(
    *, workers: int, least: int | None = None, gpu: bool = False, max_failures: int = 3
) -> Launch:
    """A launcher of runs: Ray at RAY_ADDRESS if that is set, else one started here.

    SIGTERM or Ctrl-C ends the run after the step in progress, its state saved. A worker that gets
    SIGTERM makes the group save and start again without it.

    Args:
        workers: training processes, at most one for each micro-batch of a step; each takes one CPU
            core, or one GPU.
        least: with so few of them training begins, and goes on when nodes are lost; when they come
            back the group starts again with more. None: with all or not at all.
        max_failures: how many times in a row, without a checkpoint in between, the group is started
            again after a worker was lost.
    """

    def launch(job: Job) -> TrainResult:
        scaling = _scaling(job, workers, least or workers, gpu)
        started_here = not ray.is_initialized()
        if started_here:
            _start_ray(workers, gpu)
        try:
            return _fit_to_the_end(job, scaling, max_failures)
        finally:
            if started_here:
                ray.shutdown()

    return launch


def _scaling(job: Job, most: int, least: int, gpu: bool) -> ScalingConfig:
    config = job.work.config
    if most > config.batches_per_step:
        logger.info("%d workers: one for each micro-batch of a step", config.batches_per_step)
    most = min(most, config.batches_per_step)
    least = min(least, most)
    uneven = [n for n in range(least, most + 1) if config.batches_per_step % n]
    if config.sharding == "fsdp2" and uneven:
        raise ConfigError(
            f"train.sharding='fsdp2' needs equal shares: {uneven[0]} workers do not divide"
            f" train.batches_per_step {config.batches_per_step}; choose another number of workers"
        )
    return ScalingConfig(num_workers=most if least == most else (least, most), use_gpu=gpu)


def _start_ray(workers: int, gpu: bool) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read once, when Ray starts
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.WARNING,
        "runtime_env": {"env_vars": _ENVIRONMENT if gpu else _ENVIRONMENT_CPU},
    }
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**options)
        return
    ray.init(
        **options,
        # Workers are processes that mostly wait or compute alone: more of them than cores is slow,
        # not wrong. Ray's own controller needs a slot beside them.
        num_cpus=max(workers + 1, os.cpu_count() or 1),
        num_gpus=None if gpu else 0,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
    )


# --- the driver -----------------------------------------------------------------------------------


def _fit_to_the_end(job: Job, scaling: ScalingConfig, max_failures: int) -> TrainResult:
    """Failures are counted anew after each checkpoint: a long run may lose many nodes."""
    while True:
        begun = newest_step(job.checkpoints_url)
        try:
            step, finished = _fit(job, scaling, max_failures)
            return TrainResult(step=step, finished=finished)
        except TrainingFailedError as error:
            _raise_ours(error)
            if newest_step(job.checkpoints_url) > begun:
                continue
            cause = (str(error).strip().splitlines() or ["unknown"])[-1]
            raise TrainingError(
                f"{job.run}: workers failed {max_failures + 1} times, the last one with: {cause};"
                " the latest checkpoint is kept, start again to continue"
            ) from error


def _fit(job: Job, scaling: ScalingConfig, max_failures: int) -> tuple[int, bool]:
    """Step reached, and whether it is the last one."""
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job},
        torch_config=_Listening(),
        scaling_config=scaling,
        run_config=RunConfig(
            name="ray",
            storage_path=str(job.run),
            failure_config=FailureConfig(max_failures=max_failures),
            callbacks=[_NoRetry()],
        ),
    )
    # In a thread of its own, so that signals are ours here: Ray would end the group at once.
    pool = ThreadPoolExecutor(1, thread_name_prefix="ray")
    try:
        with asked_to_stop() as asked:
            running = pool.submit(trainer.fit)
            while wait([running], _POLL_SECONDS).not_done:
                if asked.is_set():
                    (job.run / STOP).touch()
            result = running.result()
    finally:
        pool.shutdown(wait=False)  # a second Ctrl-C does not wait for it
    assert result.return_value is not None, "a worker that ends without an error reports"
    return result.return_value


class _NoRetry(UserCallback):
    """An error of ours would only happen again, so it ends the run: Ray starts a group again after
    errors of its workers, not after one of its own controller, where this is called."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if isinstance(error, Spa3RError):
                raise error


def _raise_ours(error: TrainingFailedError) -> None:
    """Raises here the error of ours that ended a worker, if one did."""
    if isinstance(error, ControllerError) and isinstance(error.controller_failure, Spa3RError):
        raise error.controller_failure from error


# --- a worker -------------------------------------------------------------------------------------


def _work(config: dict[str, Any]) -> tuple[int, bool]:
    """One worker. The others may wait for it in a collective call: if it raises, Ray ends them."""
    job: Job = config["job"]
    torch.set_num_threads(1)
    world = World.of_group(ray.train.torch.get_device())
    result = run_job(job, world, _ASKED.is_set)
    # Rank 0 alone has looked: a network file system may show a new file to others later.
    for_good = bool(world.first(float(result.finished or (job.run / STOP).exists())))
    if not for_good:
        raise RuntimeError(f"a worker was told to go at step {result.step}; all is saved")
    return result.step, result.finished


class _ListeningBackend(TorchConfig().backend_cls):
    """Torch's group, whose processes notice SIGTERM: only their main threads can."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(_listen)


@dataclass
class _Listening(TorchConfig):
    timeout_s: int = 2 * 3600
    """Of a collective call: in one the others wait while rank 0 validates."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _ListeningBackend


def _listen() -> None:
    _ASKED.clear()
    listen(_ASKED)
