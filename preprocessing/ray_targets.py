"""Targets made on a Ray cluster: an actor per GPU holds the teachers and takes scene after scene.

Actors, because loading a teacher takes longer than many a scene; Ray Core, because a scene's files
are written by the actor that made them, so that Ray Data would have nothing to stream.
"""

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import cv2
import ray
from ray.exceptions import RayActorError

from preprocessing.ray_runner import LOST, TRIES, first_line, running_ray
from preprocessing.target_answers import SceneJob
from preprocessing.target_crews import (
    Outcome,
    TeacherFacts,
    attempt,
    build_teachers,
    facts_of,
    one_torch_thread,
)
from spa3r.config import TeacherSpec
from spa3r.data.answers import TeacherAnswers
from spa3r.data.shards import FrameTable
from spa3r.errors import ServiceError, ShardError, Spa3RError, TeacherError

log = logging.getLogger(__name__)

_LOST: Final = (*LOST, RayActorError)
_PATIENCE_SECONDS: Final = 30.0
"""How often it is said that no worker has its teachers yet."""
_DIED: Final = "its worker died {} times (out of memory?); give it more memory, or leave it out"


@contextmanager
def ray_crew(folder: str, spec: TeacherSpec, *, device: str, workers: int) -> Iterator["RayCrew"]:
    """Teachers on the Ray of RAY_ADDRESS, or on one started here; they are gone afterwards.

    Every machine must see frames, targets and weights under the same paths or URLs. The actors are
    as many as the cluster has GPUs (CPUs, for the device "cpu"), asked again as it grows and
    shrinks, and one more, which shows an autoscaler that there is work.

    Args:
        workers: CPUs of a Ray that is started here.

    Raises:
        ServiceError: nothing answers at RAY_ADDRESS, a Ray started here has no GPU for them, or no
            actor stays alive.
        TeacherError, WeightsError, ConfigError: the teachers cannot be had.
    """
    with running_ray(workers, gpus=device != "cpu"):
        crew = RayCrew(folder, spec, device)
        try:
            crew.start()
            yield crew
        finally:
            crew.close()


class RayCrew:
    """See Crew in target_crews.py."""

    facts: TeacherFacts

    def __init__(self, folder: str, spec: TeacherSpec, device: str) -> None:
        self._made_of = (folder, spec, device)
        self._resource = "CPU" if device == "cpu" else "GPU"
        self._running: dict[Any, tuple[Any, SceneJob | None]] = {}
        """By the answer that is waited for; None: the teachers are being loaded."""
        self._idle: list[Any] = []
        self._lost_starts = 0

    @property
    def at_once(self) -> int:
        """See Crew."""
        return max(1, int(ray.cluster_resources().get(self._resource, 0)))

    def start(self) -> None:
        """Returns when one actor has its teachers. Raises as `ray_crew`."""
        while not self._idle:
            if not self._running:
                self._add()
            self._next_end()

    def close(self) -> None:
        """Ends all actors."""
        for actor in [*self._idle, *(actor for actor, _ in self._running.values())]:
            ray.kill(actor)

    def write(self, jobs: Sequence[SceneJob]) -> Iterator[Outcome]:
        """See Crew. A scene whose actor or node was lost is given to another, TRIES times."""
        waiting, tries = deque(jobs), Counter[str]()
        while waiting or any(job for _, job in self._running.values()):
            self._hand_out(waiting)
            job, outcome = self._next_end()
            if outcome is not None:
                yield outcome
            elif job is not None:
                tries[job.scene] += 1
                if tries[job.scene] < TRIES:
                    waiting.appendleft(job)  # its finished clips lie there
                else:
                    why = ShardError(_DIED.format(TRIES))
                    yield Outcome(scene=job.scene, failure=why)

    def _hand_out(self, waiting: deque[SceneJob]) -> None:
        """Gives scenes to the actors that are ready, and starts actors for those that are left."""
        while waiting and self._idle:
            actor, job = self._idle.pop(), waiting.popleft()
            self._running[actor.write.remote(job)] = (actor, job)
        loading = sum(job is None for _, job in self._running.values())
        most = int(ray.cluster_resources().get(self._resource, 0)) + 1
        for _ in range(min(len(waiting) - loading, most - len(self._running))):
            self._add()

    def _add(self) -> None:
        gpus = 1 if self._resource == "GPU" else 0
        actor = _Teachers.options(num_gpus=gpus).remote()
        self._running[actor.load.remote(*self._made_of)] = (actor, None)

    def _next_end(self) -> tuple[SceneJob | None, Outcome | None]:
        """Waits until a scene or a loading ends. (scene, None): its actor was lost."""
        answer = self._next_answer()
        actor, job = self._running.pop(answer)
        try:
            said = ray.get(answer)
        except _LOST as error:
            ray.kill(actor)
            self._lost(job, first_line(error))
            return job, None
        if isinstance(said, Spa3RError):
            ray.kill(actor)
            raise said
        self._idle.append(actor)
        if isinstance(said, TeacherFacts):
            self._lost_starts = 0
            self._agree(said)
            return None, None
        return job, said

    def _next_answer(self) -> ray.ObjectRef:
        """Of those that are waited for, one that is there."""
        while True:
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_PATIENCE_SECONDS)
            if ready:
                return ready[0]
            self._say_what_lacks()

    def _say_what_lacks(self) -> None:
        """Ray itself waits in silence for a node that can take an actor."""
        if not any(job for _, job in self._running.values()):
            have, free = (
                asked().get(self._resource, 0)
                for asked in (ray.cluster_resources, ray.available_resources)
            )
            log.warning(
                "waiting for a %s with its teachers loaded: the Ray cluster has %g, %g are free",
                self._resource, have, free,
            )  # fmt: skip

    def _lost(self, job: SceneJob | None, why: str) -> None:
        if job is not None:
            log.warning("scene %s: its worker was lost (%s)", job.scene, why)
            return
        self._lost_starts += 1
        log.warning("a worker was lost while it loaded its teachers (%s)", why)
        if self._lost_starts == TRIES:
            raise ServiceError(
                f"Ray: {TRIES} workers in a row died while they loaded the teachers ({why}); give"
                " the nodes more memory"
            )

    def _agree(self, facts: TeacherFacts) -> None:
        """Raises TeacherError: the nodes' weights or precision differ."""
        if not hasattr(self, "facts"):
            self.facts = facts
        elif facts.identity != self.facts.identity:
            raise TeacherError(
                f"Ray nodes have different teachers: {facts.identity} and {self.facts.identity}"
                " (hash, precision); give all of them the same weights and kind of GPU"
            )


@ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)
class _Teachers:
    """The teachers of one GPU. Errors of ours are answers: raised, they would be Ray's."""

    def load(self, folder: str, spec: TeacherSpec, device: str) -> TeacherFacts | Spa3RError:
        """Once, before any scene."""
        cv2.setNumThreads(1)
        if device == "cpu":
            one_torch_thread()
        try:
            teachers = build_teachers(spec, device)
            self._answers = TeacherAnswers(FrameTable(folder), spec, *teachers, device=device)
        except Spa3RError as error:
            return error
        return facts_of(teachers)

    def write(self, job: SceneJob) -> Outcome | Spa3RError:
        """One scene."""
        try:
            return attempt(self._answers, job)
        except Spa3RError as error:
            return error
