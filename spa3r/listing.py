"""What lies in folders: a link counts as what it points to, and many folders are asked at once.

An object store answers each listing after some tens of milliseconds, however many others are asked
meanwhile: ten thousand scenes one by one take minutes. Paths here are those of a file system, as
`spa3r.storage.filesystem` gives them; `spa3r.storage` does the same by URL.
"""

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

_AT_ONCE: Final = 32
_BLOCK: Final = 512
_MOST_KEPT: Final = 1_000_000
"""Entries, some 150 MB; what does not fit is asked for again."""
_T = TypeVar("_T")
_R = TypeVar("_R")


class Entry(NamedTuple):
    """What a folder holds under a name."""

    name: str
    is_folder: bool


class _Kept:
    """Listings of one look at a dataset."""

    def __init__(self) -> None:
        self.of: dict[tuple[Any, str], tuple[Entry, ...]] = {}
        self._room = _MOST_KEPT

    def add(self, fs: Any, path: str, found: tuple[Entry, ...]) -> None:
        if len(found) <= self._room:
            self.of[fs, path.rstrip("/")] = found
            self._room -= len(found)


_KEPT: ContextVar[_Kept | None] = ContextVar("listings", default=None)


@contextmanager
def one_look() -> Iterator[None]:
    """In the block a remote folder is listed once: nothing may be written there meanwhile."""
    token = _KEPT.set(_Kept())
    try:
        yield
    finally:
        _KEPT.reset(token)


def is_local(fs: Any) -> bool:
    """Whether it is the file system of this machine."""
    return "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))


def at_once(fs: Any, work: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """`work` of each item, in order; where it asks a remote file system, 32 at a time."""
    if is_local(fs):
        yield from map(work, items)
        return
    waiting = iter(items)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while block := list(islice(waiting, _BLOCK)):  # what waits is in memory
            yield from pool.map(work, block)


def entries(fs: Any, path: str) -> tuple[Entry, ...]:
    """What lies directly in a folder; () if it is absent or a file. Links that lead nowhere don't.

    Raises:
        OSError: it cannot be listed.
    """
    return next(entries_of_many(fs, [path]))


def entries_of_many(fs: Any, paths: Sequence[str]) -> Iterator[tuple[Entry, ...]]:
    """`entries` of each, in order."""
    kept = _KEPT.get()
    if kept is None or is_local(fs):
        yield from at_once(fs, lambda path: _listed(fs, path), paths)
        return
    of = kept.of
    known = [() if lies_there(fs, p) is False else of.get((fs, p.rstrip("/"))) for p in paths]
    asked = [path for path, found in zip(paths, known, strict=True) if found is None]
    answers = at_once(fs, lambda path: _listed(fs, path), asked)
    for path, found in zip(paths, known, strict=True):
        if found is None:
            found = next(answers)
            kept.add(fs, path, found)
        yield found


def lies_there(fs: Any, path: str) -> bool | None:
    """Whether a file or folder is there, as the listings of `one_look` tell; None: they do not."""
    kept = _KEPT.get()
    if kept is None:
        return None
    above, _, name = path.rstrip("/").rpartition("/")
    itself = True
    while above:
        found = kept.of.get((fs, above))
        if found is not None:
            same = [entry for entry in found if entry.name == name]
            if itself or not any(entry.is_folder for entry in same):
                return itself and bool(same)
            return None
        itself = False
        above, _, name = above.rpartition("/")
    return None


def followed(fs: Any, info: dict[str, Any]) -> dict[str, Any] | None:
    """What fsspec tells of an entry, of a link's target if it is one; None: it leads nowhere."""
    if not info.get("islink") and info["type"] != "link":
        return info
    try:
        return fs.info(info["name"])
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def _listed(fs: Any, path: str) -> tuple[Entry, ...]:
    try:
        if is_local(fs):  # fsspec would ask for times and sizes of every frame
            with os.scandir(path) as found:
                return tuple(entry for e in found if (entry := _local_entry(e)))
        infos = fs.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    itself = path.rstrip("/")  # listed for a file, and where an empty object marks a folder
    inside = (info for info in infos if info["name"].rstrip("/") != itself)
    targets = ((info["name"], followed(fs, info)) for info in inside)
    return tuple(
        Entry(name.rstrip("/").rpartition("/")[2], info["type"] == "directory")
        for name, info in targets
        if info is not None
    )


def _local_entry(entry: os.DirEntry[str]) -> Entry | None:
    """None: a link that leads nowhere or in circles."""
    try:
        if entry.is_symlink():
            entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    return Entry(entry.name, entry.is_dir())


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 9.jpg before 10.jpg, zero-padded or not, and numbers before letters."""
    parts = (part for part in re.split(r"([0-9]+)", name) if part)
    # Digits compare by their number and then as text: names from a hostile file may hold thousands.
    return [
        (0, len(digits := part.lstrip("0")), digits) if part.isdecimal() else (1, 0, part)
        for part in parts
    ]
