"""Worker processes of the data stages: one thread each, and none outlives a run that was killed."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import cv2

# Imported once, by the clean process, instead of by every worker: seconds each.
_PRELOADED = ("preprocessing.ingest", "webdataset.writer")


def process_pool(workers: int, start: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """A pool whose processes are served from a clean one: the caller may hold threads and locks.

    Args:
        start: called once in every worker, for what else must be limited to one thread.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return ProcessPoolExecutor(workers, context, initializer=_start, initargs=(start,))


def _start(start: Callable[[], None] | None) -> None:
    cv2.setNumThreads(1)
    if start is not None:
        start()
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are started by multiprocessing"

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
