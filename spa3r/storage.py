"""Files anywhere: any fsspec URL stands where a path stands. Publishing is atomic.

Local files are written under a temporary name beside the final one and renamed; object stores make
an object visible only when its upload completes, so there the upload itself is the rename.
"""

import hashlib
import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from fsspec.core import url_to_fs

from spa3r.errors import ConfigError, ShardError

# From the user's name to the last @ of a word: a password may hold "/" or "@" by mistake.
_LOGIN = re.compile(r"(://[^\s:/@]*:)\S*@")
_PASSWORD = re.compile(r"([?&]password=)[^&\s]*")


def redacted(text: str) -> str:
    """A URI, or a line with URIs in it, with every password replaced by ***."""
    return _PASSWORD.sub(r"\1***", _LOGIN.sub(r"\1***@", text))


def join(base: str | Path, *parts: str) -> str:
    """Path or URL with parts appended."""
    return "/".join([str(base).rstrip("/"), *(p.strip("/") for p in parts)])


def _filesystem(url: str | Path) -> tuple[Any, str]:
    """Where a URL leads, and its path there.

    Raises:
        ConfigError: an unknown protocol, or one whose package is not installed.
    """
    try:
        return url_to_fs(str(url))
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{url}: {error}; name a path or another URL") from error


def is_local(url: str | Path) -> bool:
    """Whether a path or URL names a local file."""
    return _filesystem(url)[0].protocol in ("file", ("file", "local"))


def exists(url: str | Path) -> bool:
    """Whether a file or folder is there."""
    fs, path = _filesystem(url)
    return bool(fs.exists(path))


def size(url: str | Path) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    fs, path = _filesystem(url)
    return int(fs.size(path))


def list_files(url: str | Path, suffix: str = "") -> list[str]:
    """Sorted URLs of the files directly in a folder whose names end in suffix; [] if absent."""
    fs, path = _filesystem(url)
    if not fs.isdir(path):
        return []
    names = (Path(p).name for p in fs.ls(path, detail=False))
    return [join(url, name) for name in sorted(names) if name.endswith(suffix)]


@contextmanager
def open_read(url: str | Path) -> Iterator[IO[bytes]]:
    """Binary reader; random access works on local files and on object stores."""
    fs, path = _filesystem(url)
    with fs.open(path, "rb") as f:
        yield cast(IO[bytes], f)


def read_bytes(url: str | Path) -> bytes:
    """All bytes of a file."""
    with open_read(url) as f:
        return f.read()


@contextmanager
def atomic_write(url: str | Path) -> Iterator[IO[bytes]]:
    """Binary writer whose file appears under its name only if the block ends without an error."""
    fs, path = _filesystem(url)
    if not is_local(url):
        with fs.transaction, fs.open(path, "wb") as f:
            yield cast(IO[bytes], f)
        return
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(url: str | Path, data: bytes) -> None:
    """Writes a file atomically. Raises ConfigError where it cannot be written."""
    with named_write_errors(url), atomic_write(url) as f:
        f.write(data)


@contextmanager
def named_write_errors(url: str | Path) -> Iterator[None]:
    """Around writing. Raises ConfigError, one line that names the target, for any OSError."""
    try:
        yield
    except OSError as error:
        raise _unwritable(url, error.strerror or str(error)) from error


def check_writable(url: str | Path, *, folder: bool = False) -> None:
    """Asked before expensive work: whether a file (or a folder of files) can be written there.

    Tries it on local disks, leaving nothing behind; of other file systems only whether they are
    known, because asking them may cost as much as writing.

    Raises:
        ConfigError: it cannot: no permission, a folder in a file's place or the other way round.
    """
    path = Path(_filesystem(url)[1])
    if not is_local(url):
        return
    place = path if folder else path.parent
    with named_write_errors(url):
        if not folder and path.is_dir():
            raise IsADirectoryError("it is a folder: name a file in it")
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(f"{place} is a file, not a folder")
        tempfile.NamedTemporaryFile(dir=place, prefix=".spa3r-", suffix=".tmp").close()


def _unwritable(url: str | Path, why: str) -> ConfigError:
    return ConfigError(
        f"{url}: cannot be written ({why}); name another place, or free space or permissions there"
    )


def write_json(url: str | Path, value: Any) -> None:
    """Writes canonical JSON (sorted keys, final newline) atomically."""
    write_bytes(url, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(url: str | Path) -> Any:
    """Reads JSON; a damaged file raises ShardError naming it."""
    try:
        return json.loads(read_bytes(url))
    except ValueError as error:
        raise ShardError(f"{url}: not valid JSON ({error}); delete it and run again") from error


def sha256(url: str | Path) -> str:
    """Hex SHA-256 of a file, streamed."""
    digest = hashlib.sha256()
    with open_read(url) as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remove_leftovers(folder: str | Path) -> int:
    """Deletes temporary files that a killed process left in a local folder; returns how many."""
    if not is_local(folder) or not Path(folder).is_dir():
        return 0
    stale = [p for p in Path(folder).glob(".*.tmp") if p.is_file()]
    for path in stale:
        path.unlink()
    return len(stale)
