"""What a scene's files looked like when they were read: a change makes ingest read them again.

Names, sizes and times (entity tags on object stores), from listings alone: 1.3 TB of scans are not
read every night. A file that is touched without a change is read again and gives the same shard. A
link counts as what it points to.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from preprocessing.scene import SceneSource
from spa3r.listing import followed, is_local
from spa3r.storage import at_once, filesystem

# What tells versions of a file apart, best first; which one there is depends on the file system.
_STAMPS: Final = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True, slots=True)
class Signature:
    """Of one scene's files."""

    digest: str
    """First 16 hex digits of a SHA-256."""
    bytes: int
    files: int


def sign(source: SceneSource) -> Signature:
    """Signature of all that a source names as its content.

    Raises:
        OSError: the storage does not answer, or none of the files is there.
    """
    beside: dict[str, tuple[Any, list[str]]] = {}
    for url in source.content:
        fs, path = filesystem(url)
        folder, _, name = path.rstrip("/").rpartition("/")
        beside.setdefault(folder, (fs, []))[1].append(name)
    found = sorted({e for folder, (fs, names) in beside.items() for e in _files(fs, folder, names)})
    if not found:  # of nothing there would be nothing that could change
        raise FileNotFoundError(errno.ENOENT, "none of its files is there")
    text = json.dumps([source.fingerprint, *found])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Signature(digest=digest, bytes=sum(entry[1] for entry in found), files=len(found))


def sign_many(sources: Sequence[SceneSource]) -> Iterator[Signature | OSError]:
    """`sign` of each, in order, or why it cannot be; on a remote file system many at a time."""
    return at_once(sources[0].url, _signed, sources) if sources else iter(())


def _signed(source: SceneSource) -> Signature | OSError:
    try:
        return sign(source)
    except OSError as error:
        return error


def _files(fs: Any, folder: str, names: Sequence[str]) -> Iterator[tuple[str, int, str]]:
    """(name below the folder, bytes, stamp) of files, of all in folders, and of patterns.

    Names that lie beside each other cost one listing, not a request each.
    """
    fs.invalidate_cache()  # what an earlier listing saw may have changed since
    if len(names) == 1 and "*" not in names[0]:  # what lies beside it may be all other scenes
        found = _below(fs, f"{folder}/{names[0]}")
    else:
        found = _matching(fs, folder, names)
    for name, info in found:
        if info["type"] == "file":
            stamp = next((str(info[key]) for key in _STAMPS if info.get(key)), "")
            yield name.removeprefix(folder), int(info["size"]), stamp


_Found: TypeAlias = Iterator[tuple[str, dict[str, Any]]]
"""Path and what the file system tells of it."""


def _matching(fs: Any, folder: str, names: Sequence[str]) -> _Found:
    """Named entries of a folder. Only "*" is special: fsspec's glob would read brackets too."""
    patterns = (".*".join(re.escape(part) for part in name.split("*")) for name in names)
    fits = re.compile("|".join(patterns), re.DOTALL)
    for name, info in _inside(fs, folder):
        if not fits.fullmatch(name.rpartition("/")[2]):
            continue
        if info["type"] == "directory":
            yield from _below(fs, name)
        else:
            yield name, info


def _below(fs: Any, path: str, seen: set[str] | None = None) -> _Found:
    """A file, or all files in a folder and its subfolders. One listing on an object store."""
    if not is_local(fs):
        for name, info in fs.find(path, detail=True).items():
            yield str(name), info
        return
    seen = set() if seen is None else seen
    if (real := os.path.realpath(path)) in seen:  # links may lead in circles
        return
    seen.add(real)
    for name, info in _inside(fs, path):
        if info["type"] == "directory":
            yield from _below(fs, name, seen)
        else:
            yield name, info


def _inside(fs: Any, folder: str) -> _Found:
    """Entries directly in a folder; the file itself for a file."""
    try:
        entries: list[dict[str, Any]] = fs.ls(folder, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in sorted(entries, key=lambda entry: str(entry["name"])):
        if (info := followed(fs, entry)) is not None:
            yield str(entry["name"]).rstrip("/"), info
