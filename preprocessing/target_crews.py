"""Where scenes' targets are made: in this process, or in worker processes of this machine."""

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

import torch

from preprocessing.target_answers import SceneJob
from preprocessing.target_parts import SceneFailedError
from preprocessing.target_scene import write_scene
from preprocessing.workers import process_pool
from spa3r.config import TeacherSpec
from spa3r.data.answers import TeacherAnswers
from spa3r.data.shards import FrameTable
from spa3r.errors import ShardError, Spa3RError
from spa3r.teachers.base import GeometricTeacher, SemanticTeacher
from spa3r.teachers.build import build_geometric, build_linguistic, build_semantic

Teachers = tuple[GeometricTeacher, SemanticTeacher | None, SemanticTeacher | None]
"""Geometric, semantic, linguistic."""
_ROLES: Final = ("geometric", "semantic", "linguistic")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherFacts:
    """Of the teachers at work."""

    references: dict[str, dict[str, str] | None]
    """By role, as a registered encoder records them."""
    identity: list[list[str]]
    """What decides their numbers: [hash, precision] of each that there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one scene."""

    scene: str
    failure: Spa3RError | None = None
    """What its frames or the teachers are to blame for; None: it is complete."""


class Crew(Protocol):
    """Teachers somewhere, that write scenes."""

    facts: TeacherFacts

    @property
    def at_once(self) -> int:
        """Scenes in progress at a time, at most."""
        ...

    def write(self, jobs: Sequence[SceneJob]) -> Iterator[Outcome]:
        """Scenes as they end. Raises ShardError: out cannot be written; finished ones are kept."""
        ...


def facts_of(teachers: Teachers) -> TeacherFacts:
    """What distinguishes these teachers from others."""
    references = [one.reference() if one else None for one in teachers]
    return TeacherFacts(
        references=dict(zip(_ROLES, references, strict=True)),
        identity=[[one.hash, one.precision] for one in teachers if one],
    )


def attempt(answers: TeacherAnswers, job: SceneJob) -> Outcome:
    """One scene. Raises ShardError: out cannot be written."""
    try:
        write_scene(answers, job)
    except SceneFailedError as failed:
        return Outcome(scene=job.scene, failure=failed.cause)
    return Outcome(scene=job.scene)


def build_teachers(
    spec: TeacherSpec,
    device: str,
    geometric: GeometricTeacher | None = None,
    semantic: SemanticTeacher | None = None,
    linguistic: SemanticTeacher | None = None,
) -> Teachers:
    """Those that the spec names, but for those that are given.

    Raises:
        TeacherError, WeightsError, ConfigError: as spa3r.teachers.build.
    """
    return (
        geometric or build_geometric(spec, device=device),
        semantic or build_semantic(spec, device=device),
        linguistic or build_linguistic(spec, device=device),
    )


class LocalCrew:
    """The teachers in this process; with several workers, in as many processes of one thread."""

    def __init__(
        self,
        table: FrameTable,
        spec: TeacherSpec,
        teachers: Teachers,
        *,
        device: str,
        workers: int,
    ) -> None:
        """Raises ConfigError: a teacher of a kind that the spec does not have."""
        self.facts = facts_of(teachers)
        self._answers = TeacherAnswers(table, spec, *teachers, device=device)
        self.at_once = workers

    def write(self, jobs: Sequence[SceneJob]) -> Iterator[Outcome]:
        """See Crew."""
        workers = min(self.at_once, len(jobs))
        if workers <= 1:
            return (attempt(self._answers, job) for job in jobs)
        return _in_processes(self._answers.table.folder, self._answers.spec, jobs, workers)


def _in_processes(
    folder: str, spec: TeacherSpec, jobs: Sequence[SceneJob], workers: int
) -> Iterator[Outcome]:
    pool = process_pool(workers, one_torch_thread)
    try:
        futures = [pool.submit(_work, folder, spec, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise ShardError(
            f"{jobs[0].out}: a worker died (out of memory?); run again with fewer workers, finished"
            " clips are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def one_torch_thread() -> None:
    """Start of a worker."""
    torch.set_num_threads(1)


@lru_cache(maxsize=1)
def _worker_answers(folder: str, spec: TeacherSpec) -> TeacherAnswers:
    return TeacherAnswers(FrameTable(folder), spec, *build_teachers(spec, "cpu"))


def _work(folder: str, spec: TeacherSpec, job: SceneJob) -> Outcome:
    return attempt(_worker_answers(folder, spec), job)
