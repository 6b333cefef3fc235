"""Where scenes are ingested: in this process or in worker processes of this machine.

A runner hands out few scenes at a time: as many as it has processes, and no more than the output
disk has room for. What it cannot survive itself it reports as one scene's outcome.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Final, TypeAlias, TypeVar

from preprocessing.ingest import SceneResult
from preprocessing.scene import SceneSource
from preprocessing.space import Room
from preprocessing.workers import process_pool

log = logging.getLogger(__name__)

Attempt: TypeAlias = SceneResult | str
"""What became of a scene, or in one line why it cannot be used."""
Job: TypeAlias = Callable[[SceneSource], Attempt]
"""Picklable."""
Runner: TypeAlias = Callable[[Job, Sequence[SceneSource]], Iterator[tuple[str, Attempt]]]
"""runner(job, sources) -> (scene, outcome) as they finish. Raises what the job raises."""

Handle = TypeVar("Handle")
_SUSPECTED: Final = "a process died while it was ingested; tried again alone at the end"
DIED: Final = "its ingest process died {} (out of memory?); give it more memory or leave it out"


def run_here(job: Job, sources: Sequence[SceneSource]) -> Iterator[tuple[str, Attempt]]:
    """One after the other, in this process."""
    for source in sources:
        yield source.name, job(source)


def local_runner(workers: int, room: Room | None = None) -> Runner:
    """Worker processes of this machine, one thread each; with one worker, this process.

    A process that dies takes its pool with it, and nobody knows which scene killed it: those in
    flight are tried again at the end, each alone, and only one that dies again has failed.

    Args:
        room: of the output disk; None: not asked.
    """

    def alone(job: Job, sources: Sequence[SceneSource]) -> Iterator[tuple[str, Attempt]]:
        for source in sources:
            if room:
                room.fits(0)
            yield source.name, job(source)
            if room:
                room.written(source.name)

    def run(job: Job, sources: Sequence[SceneSource]) -> Iterator[tuple[str, Attempt]]:
        suspects: list[SceneSource] = []
        pool = _Pool(min(workers, len(sources)))
        try:
            submit = partial(pool.submit, job)
            for source, future in in_turns(
                deque(sources), submit, _first, lambda: pool.workers, room
            ):
                if isinstance(future.exception(), BrokenProcessPool):
                    log.warning("scene %s: %s", source.name, _SUSPECTED)
                    suspects.append(source)
                else:
                    yield source.name, future.result()
        finally:
            pool.close()
        for source in suspects:
            yield source.name, _suspect(job, source)

    return alone if workers == 1 else run


def in_turns(
    waiting: deque[SceneSource],
    submit: Callable[[SceneSource], Handle],
    first: Callable[[Mapping[Handle, SceneSource]], Sequence[Handle]],
    limit: Callable[[], int],
    room: Room | None,
) -> Iterator[tuple[SceneSource, Handle]]:
    """Starts scenes while there is a process and disk space for them; yields those that ended.

    Args:
        waiting: emptied; what is put back while this runs is started again.
        first: waits for at least one of the running ones, and says which ended.
        limit: how many may run now.
    """
    running: dict[Handle, SceneSource] = {}
    while waiting or running:
        while waiting and len(running) < max(limit(), 1):
            if room and not room.fits(len(running)):
                break
            source = waiting.popleft()
            running[submit(source)] = source
        for handle in first(running):
            source = running.pop(handle)
            if room:
                room.written(source.name)
            yield source, handle


class _Pool:
    """Worker processes that are replaced when one of them dies."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor = process_pool(workers)

    def submit(self, job: Job, source: SceneSource) -> Future[Attempt]:
        try:
            return self._pool.submit(job, source)
        except BrokenProcessPool:
            self.close()
            self._pool = process_pool(self.workers)
            return self._pool.submit(job, source)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _first(running: Mapping[Future[Attempt], SceneSource]) -> Sequence[Future[Attempt]]:
    return list(wait(running, return_when=FIRST_COMPLETED).done)


def _suspect(job: Job, source: SceneSource) -> Attempt:
    pool = process_pool(1)
    try:
        return pool.submit(job, source).result()
    except BrokenProcessPool:
        return DIED.format("also when it ran alone")
    finally:
        pool.shutdown(cancel_futures=True)
