"""Watching a run from outside: its metrics.jsonl, wherever the processes that write it are."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spa3r.train.metrics import read_lines

POLL_SECONDS = 1.0
OnLine = Callable[[Mapping[str, Any]], None]


@contextmanager
def follow(path: Path, on_line: OnLine) -> Iterator[None]:
    """Calls `on_line` once for each step's line while the block runs, the last ones at its end.

    The file is shared, so this serves one process and a cluster alike. Steps that a restarted
    process logs again are not reported again.
    """
    ended = threading.Event()

    def watch() -> None:
        seen, size = -1, -1
        while True:
            last = ended.wait(POLL_SECONDS)
            now = path.stat().st_size if path.exists() else -1
            if now != size:
                size = now
                for line in read_lines(path):
                    if line["step"] > seen:
                        seen = line["step"]
                        on_line(line)
            if last:
                return

    watcher = threading.Thread(target=watch, name="metrics", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
