"""Scenes ingested on a Ray cluster: one task a scene.

Tasks, because a scene is already a unit that is written, checked and restarted as a whole, and its
result is a few numbers. Ray Data would stream blocks of rows between operators, where nothing is
to be passed on; prefect-ray would make every scene a task run in Prefect's database.
"""

import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import cv2
import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    WorkerCrashedError,
)

from preprocessing.ingest import SceneResult
from preprocessing.runners import DIED, Attempt, Job, Runner, in_turns
from preprocessing.scene import SceneSource
from preprocessing.space import Room
from spa3r.errors import ServiceError, Spa3RError

log = logging.getLogger(__name__)

TASK_BYTES: Final = 1 << 30
"""Declared for a task, so that Ray never packs more of them on a node than fit: libraries and one
frame at full size."""
TRIES: Final = 3
"""How often a scene is started whose process or node was lost."""
LOST: Final = (
    WorkerCrashedError, NodeDiedError, LocalRayletDiedError, OutOfMemoryError, ObjectLostError,
)  # fmt: skip
_ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
_KNOCK_SECONDS: Final = 10.0
_OBJECT_STORE_BYTES: Final = 100 << 20  # results are small


def ray_runner(workers: int, room: Room | None = None) -> Runner:
    """A runner on the Ray of RAY_ADDRESS, or on one started here for as long as it runs.

    Every machine must see scans and output under the same paths or URLs. Scenes in flight are as
    many as the cluster has CPUs, asked again as it grows and shrinks, and one more, which shows an
    autoscaler that there is work.

    Args:
        workers: CPUs of a Ray that is started here.
        room: of the output disk; None: not asked.
    """

    def run(job: Job, sources: Sequence[SceneSource]) -> Iterator[tuple[str, Attempt]]:
        with running_ray(workers):
            task = ray.put(job)
            waiting, tries = deque(sources), Counter[str]()
            for source, handle in in_turns(
                waiting, lambda source: _attempt.remote(task, source), _first, _limit, room
            ):
                tries[source.name] += 1
                try:
                    outcome = ray.get(handle)
                except LOST as error:
                    why = first_line(error)
                    log.warning("scene %s: its process was lost (%s)", source.name, why)
                    if tries[source.name] < TRIES:
                        waiting.append(source)
                    else:
                        yield source.name, DIED.format(f"{TRIES} times")
                    continue
                if isinstance(outcome, Spa3RError):
                    raise outcome
                if isinstance(outcome, SceneResult):  # what a task logs stays on its machine
                    for problem in outcome.problems:
                        log.warning("%s", problem)
                yield source.name, outcome

    return run


# Retries are counted above: left to itself, Ray starts a task that ran out of memory without end.
@ray.remote(num_cpus=1, memory=TASK_BYTES, max_retries=0)
def _attempt(job: Job, source: SceneSource) -> Attempt | Spa3RError:
    """One scene on some machine. An error of ours is an answer: raised, it would be Ray's."""
    cv2.setNumThreads(1)
    try:
        return job(source)
    except Spa3RError as error:
        return error


def _limit() -> int:
    return int(ray.cluster_resources().get("CPU", 0)) + 1


def _first(running: Mapping[Any, SceneSource]) -> Sequence[Any]:
    done, _ = ray.wait(list(running), num_returns=1, fetch_local=False)
    return done


def first_line(error: RayError) -> str:
    """What Ray says at length, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def running_ray(workers: int, *, gpus: bool = False) -> Iterator[None]:
    """A running Ray, shut down afterwards if it was started here.

    Args:
        workers: CPUs of a Ray that is started here.
        gpus: whether it has this machine's GPUs.

    Raises:
        ServiceError: nothing answers at RAY_ADDRESS, or a Ray started here has no GPU to give.
    """
    if ray.is_initialized():
        yield
        return
    try:
        _start(workers, gpus=gpus)
        yield
    finally:
        ray.shutdown()


def _start(workers: int, *, gpus: bool = False) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read once, when Ray starts
    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.WARNING,
        "runtime_env": {"env_vars": _ENVIRONMENT},
    }
    if not (address := os.environ.get("RAY_ADDRESS")):
        ray.init(
            **common,
            num_cpus=workers,
            num_gpus=None if gpus else 0,
            _memory=workers * TASK_BYTES,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
        )
        if gpus and ray.cluster_resources().get("GPU", 0) < 1:
            raise ServiceError(
                "Ray, started here, finds no GPU on this machine and teachers need one; compute on"
                " its CPUs (SPA3R_GPU=0), or name a cluster with GPUs in RAY_ADDRESS"
            )
        return
    _require_answer(address)
    ray.init(**common)
    _warn_of_small_nodes(gpus=gpus)


def _require_answer(address: str) -> None:
    """Ray itself would knock for five minutes. "auto" is looked up on this machine, at once."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if port.isdecimal():
            socket.create_connection((host, int(port)), _KNOCK_SECONDS).close()
    except OSError as error:
        raise ServiceError(
            f"RAY_ADDRESS={address}: no Ray cluster answers ({error.strerror or error}); start one"
            " (docs/services.md), or unset it to use this machine alone"
        ) from error


def _warn_of_small_nodes(*, gpus: bool) -> None:
    """Ray itself waits in silence for a node that can take a task."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if gpus:
        if not any(n.get("GPU", 0) >= 1 for n in nodes):
            log.warning("waiting for a GPU: no Ray node has one")
    elif not any(n.get("CPU", 0) >= 1 and n.get("memory", 0) >= TASK_BYTES for n in nodes):
        log.warning("no Ray node has a CPU and %.0f GiB; waiting for one", TASK_BYTES / 2**30)
