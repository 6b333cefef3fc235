"""Room on the output disk: no scene is started that would fill it.

An ingest that runs into a full disk loses the scenes it was writing. So a scene starts only while
there is free space for it and for those beside it: 1.5 times the largest tar seen so far for each
of them, and never less than 2 GiB in all. Object stores have no such limit.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fsspec.core import url_to_fs

from spa3r import storage
from spa3r.errors import ShardError

LEAST_BYTES: Final = 2 << 30
_MARGIN: Final = 1.5


def free_bytes(folder: str) -> int | None:
    """Free space where a folder lies or will lie; None: it is not on a disk of this machine."""
    if not storage.is_local(folder):
        return None
    path = Path(url_to_fs(folder)[1])
    return shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists())).free


class Room:
    """Free space of one output folder, asked before each scene."""

    def __init__(self, out: str, free: Callable[[str], int | None] = free_bytes) -> None:
        self._out, self._free = out, free
        sizes = storage.list_sizes(out) if storage.is_local(out) else {}
        self._largest = max((n for name, n in sizes.items() if name.endswith(".tar")), default=0)

    def fits(self, running: int) -> bool:
        """Whether one more scene may start beside those that run.

        Raises:
            ShardError: it may not and none runs, so waiting frees nothing.
        """
        free = self._free(self._out)
        needed = max(LEAST_BYTES, int(_MARGIN * self._largest * (running + 1)))
        if free is None or free >= needed:
            return True
        if running:
            return False
        raise ShardError(
            f"only {free / 2**30:.1f} GiB free at {self._out}, a scene is started with"
            f" {needed / 2**30:.1f} GiB; free space and run again: finished scenes are kept"
        )

    def written(self, scene: str) -> None:
        """Learns how large a finished scene is."""
        tar = storage.join(self._out, f"{scene}.tar")
        if storage.is_local(tar) and storage.exists(tar):  # a scan that was refused has none
            self._largest = max(self._largest, storage.size(tar))
