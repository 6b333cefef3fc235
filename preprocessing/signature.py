"""What a scene's files looked like when they were read: a change makes ingest read them again.

Names, sizes and times (entity tags on object stores), from listings alone: 1.3 TB of scans are not
read every night. A file that is touched without a change is read again and gives the same shard.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from preprocessing.scene import SceneSource
from spa3r.storage import filesystem

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
        OSError: the storage does not answer.
    """
    beside: dict[str, tuple[Any, list[str]]] = {}
    for url in source.content:
        fs, path = filesystem(url)
        folder, _, name = path.rstrip("/").rpartition("/")
        beside.setdefault(folder, (fs, []))[1].append(name)
    found = sorted({e for folder, (fs, names) in beside.items() for e in _files(fs, folder, names)})
    text = json.dumps([source.fingerprint, *found])
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Signature(digest=digest, bytes=sum(entry[1] for entry in found), files=len(found))


def _files(fs: Any, folder: str, names: Sequence[str]) -> Iterator[tuple[str, int, str]]:
    """(name below the folder, bytes, stamp) of files, of all in folders, and of patterns.

    Names that lie beside each other cost one listing, not a request each.
    """
    fs.invalidate_cache()  # what an earlier listing saw may have changed since
    if len(names) == 1 and "*" not in names[0]:  # what lies beside it may be all other scenes
        found = fs.find(f"{folder}/{names[0]}", detail=True).values()
    else:
        found = _matching(fs, folder, names)
    for info in found:
        if info["type"] == "file":
            stamp = next((str(info[key]) for key in _STAMPS if info.get(key)), "")
            yield str(info["name"]).removeprefix(folder), int(info["size"]), stamp


def _matching(fs: Any, folder: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Named entries of a folder. Only "*" is special: fsspec's glob would read brackets too."""
    patterns = (".*".join(re.escape(part) for part in name.split("*")) for name in names)
    fits = re.compile("|".join(patterns), re.DOTALL)
    try:
        entries: list[dict[str, Any]] = fs.ls(folder, detail=True)
    except FileNotFoundError:
        return
    for entry in entries:
        if not fits.fullmatch(str(entry["name"]).rstrip("/").rpartition("/")[2]):
            continue
        if entry["type"] == "directory":
            yield from fs.find(entry["name"], detail=True).values()
        else:
            yield entry
