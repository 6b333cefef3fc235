"""The same run on Ray Train's workers: processes on this machine, or GPUs of a cluster.

Ray places the workers, opens their torch.distributed group and starts them again when one dies;
what they run is `run_job`, and what they start again from is the run folder's own latest
checkpoint, which all of them must see (a local disk, or a mount). Ray's own checkpoints are not
used: the run folder's are atomic, carry the data position and serve runs without Ray as well.
"""

import logging
import os
from pathlib import Path
from typing import Any, Final

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.train.v2.torch.torch_trainer import TorchTrainer

from spa3r import errors, storage
from spa3r.errors import Spa3RError, TrainingError
from spa3r.train.loop import TrainResult
from spa3r.train.pretrain import Job, Launch, run_job
from spa3r.train.world import World

logger = logging.getLogger(__name__)

_REFUSAL: Final = "refusal.json"
# One thread per worker: with more, any other load on the machine nearly stalls a worker.
_ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def on_ray(*, workers: int, gpu: bool = False, max_failures: int = 3) -> Launch:
    """A launcher for `pretrain`: Ray at RAY_ADDRESS if that is set, else one started here.

    Args:
        workers: training processes; each takes one CPU core, or one GPU.
        max_failures: how many times the group is started again after a worker was lost.
    """

    def launch(job: Job) -> TrainResult:
        started_here = not ray.is_initialized()
        if started_here:
            _start_ray(workers, gpu)
        try:
            return _fit(job, workers, gpu, max_failures)
        finally:
            if started_here:
                ray.shutdown()

    return launch


def _start_ray(workers: int, gpu: bool) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read once, when Ray starts
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet, runtime_env={"env_vars": _ENVIRONMENT})
        return
    ray.init(
        **quiet,
        # Workers are processes that mostly wait or compute alone: more of them than cores is slow,
        # not wrong. Ray's own controller needs a slot beside them.
        num_cpus=max(workers + 1, os.cpu_count() or 1),
        num_gpus=None if gpu else 0,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        runtime_env={"env_vars": _ENVIRONMENT},
    )


def _fit(job: Job, workers: int, gpu: bool, max_failures: int) -> TrainResult:
    refusal = job.run / _REFUSAL
    refusal.unlink(missing_ok=True)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
        run_config=RunConfig(
            name="ray",
            storage_path=str(job.run),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        _raise_refusal(refusal)
        cause = (str(error).strip().splitlines() or ["unknown"])[-1]
        raise TrainingError(
            f"{job.run}: workers failed {max_failures + 1} times, the last one with: {cause};"
            " the latest checkpoint is kept, start again to continue"
        ) from error
    _raise_refusal(refusal)
    assert result.return_value is not None, "a worker that ends without an error reports"
    step, finished = result.return_value
    return TrainResult(step=step, finished=finished)


def _work(config: dict[str, Any]) -> tuple[int, bool] | None:
    """One worker. An error of ours would only happen again, so it is written down, not retried.

    It is raised as well: the other workers may wait for this one in a collective call, and Ray ends
    them with it. In the group that Ray then starts, every worker finds the refusal and returns.
    """
    job: Job = config["job"]
    refusal = job.run / _REFUSAL
    if refusal.exists():
        return None
    torch.set_num_threads(1)
    world = World.of_group(ray.train.torch.get_device())
    try:
        result = run_job(job, world)
    except Spa3RError as error:
        storage.write_json(refusal, {"kind": type(error).__name__, "message": str(error)})
        raise
    return result.step, result.finished


def _raise_refusal(path: Path) -> None:
    """Raises here the error of ours that stopped a worker."""
    if path.exists():
        refusal = storage.read_json(path)
        path.unlink()
        raise getattr(errors, refusal["kind"])(refusal["message"])
