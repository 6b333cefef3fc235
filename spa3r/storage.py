"""Files anywhere: any fsspec URL stands where a path stands. Publishing is atomic.

Local files are written under a temporary name beside the final one and renamed; object stores make
an object visible only when its upload completes, so there the upload itself is the rename.
"""

import hashlib
import json
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Final, TypeVar, cast

import fsspec
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from spa3r import listing
from spa3r.errors import ConfigError, ShardError
from spa3r.listing import one_look as one_look  # by this name too: listings are asked for here

log = logging.getLogger(__name__)

_S3: Final = ("s3", "s3a")
_OBJECT_STORES: Final = {*_S3, "gs", "gcs", "abfs", "abfss", "az"}
_PART_BYTES: Final = 16 << 20  # of an upload; at most 10,000 parts make a file of 160 GB
# From the user's name to the last @ of a word: a password may hold "/" or "@" by mistake.
_LOGIN = re.compile(r"(://[^\s:/@]*:)\S*@")
_PASSWORD = re.compile(r"([?&]password=)[^&\s]*")
_T = TypeVar("_T")
_R = TypeVar("_R")


def redacted(text: str) -> str:
    """A URI, or a line with URIs in it, with every password replaced by ***."""
    return _PASSWORD.sub(r"\1***", _LOGIN.sub(r"\1***@", text))


def join(base: str | Path, *parts: str) -> str:
    """Path or URL with parts appended."""
    return "/".join([str(base).rstrip("/"), *(p.strip("/") for p in parts)])


def filesystem(url: str | Path) -> tuple[Any, str]:
    """The fsspec file system that a URL leads to, and its path there.

    Ask here, not fsspec: retries are set here, and that no listing is remembered, because other
    processes write meanwhile.

    Raises:
        ConfigError: an unknown protocol, or one whose package is not installed.
    """
    try:
        if str(url).partition("://")[0] in _S3:
            from spa3r import s3  # here: s3fs is the platform's, not the library's

            fs = s3.file_system()
            return fs, cast(str, fs._strip_protocol(str(url)))
        if "://" not in str(url):  # fsspec would take "::" in a name for a chain of file systems
            fs = fsspec.filesystem("file")
            return fs, cast(str, fs._strip_protocol(str(url)))
        return url_to_fs(str(url))
    except (ValueError, ImportError) as error:
        raise ConfigError(f"{url}: {error}; name a path or another URL") from error


def is_local(url: str | Path) -> bool:
    """Whether a path or URL names a local file."""
    return listing.is_local(filesystem(url)[0])


def exists(url: str | Path) -> bool:
    """Whether a file or folder is there."""
    fs, path = filesystem(url)
    known = listing.lies_there(fs, path)
    return bool(fs.exists(path)) if known is None else known


def size(url: str | Path) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    fs, path = filesystem(url)
    return int(fs.size(path))


def list_files(url: str | Path, suffix: str = "") -> list[str]:
    """Sorted URLs of what lies directly in a folder, its name ending in suffix; [] if absent."""
    return [join(url, name) for name in list_names(url) if name.endswith(suffix)]


def list_names(url: str | Path) -> list[str]:
    """Sorted names of all that lies directly in a folder; [] if it is absent."""
    return sorted(entry.name for entry in listing.entries(*filesystem(url)))


def list_folders(url: str | Path) -> list[str]:
    """Sorted URLs of the folders directly in a folder; [] if it is absent."""
    found = listing.entries(*filesystem(url))
    return [join(url, name) for name in sorted(entry.name for entry in found if entry.is_folder)]


def list_many(urls: Sequence[str]) -> Iterator[list[str]]:
    """`list_names` of many folders of one file system, in order; remote ones many at a time."""
    if urls:
        paths = [filesystem(url)[1] for url in urls]
        for found in listing.entries_of_many(filesystem(urls[0])[0], paths):
            yield sorted(entry.name for entry in found)


def at_once(url: str | Path, work: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """`work` of each item, in order; many at a time where the URL is remote, so work waits."""
    return listing.at_once(filesystem(url)[0], work, items)


def list_sizes(url: str | Path) -> dict[str, int]:
    """Bytes of each file directly in a folder, by name; {} if the folder is absent."""
    fs, path = filesystem(url)
    try:
        found = fs.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    itself = path.rstrip("/")  # listed for a file, and where an empty object marks a folder
    inside = [e for e in found if e["name"].rstrip("/") != itself]
    targets = ((Path(e["name"]).name, listing.followed(fs, e)) for e in inside)
    return {name: int(e["size"]) for name, e in targets if e is not None and e["type"] == "file"}


def read_many(urls: Sequence[str]) -> list[bytes | None]:
    """All bytes of many small files of one file system; None: absent, perhaps since it was listed.

    One request a file on an object store, many of them at a time.

    Raises:
        OSError: a file is there but cannot be read.
    """
    if not urls:
        return []
    fs, _ = filesystem(urls[0])
    paths = [filesystem(url)[1] for url in urls]
    found = fs.cat_ranges(paths, None, None, on_error="return", **_whole(fs))
    for content in found:
        if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
            raise content
    return [content if isinstance(content, bytes) else None for content in found]


def _whole(fs: Any) -> dict[str, int]:
    """Options for `cat`: s3fs asks for the size first, unless told not to read in pieces."""
    return {"max_concurrency": 1} if "s3" in _protocols(fs) else {}


def _protocols(fs: Any) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


@contextmanager
def open_read(url: str | Path) -> Iterator[IO[bytes]]:
    """Binary reader; random access works on local files and on object stores."""
    fs, path = filesystem(url)
    with _plain_errors(fs), fs.open(path, "rb") as f:
        yield cast(IO[bytes], f)


def _plain_errors(fs: Any) -> AbstractContextManager[None]:
    """OSErrors also for a connection that breaks while a file is read."""
    if "s3" not in _protocols(fs):
        return nullcontext()
    from spa3r import s3  # here, because s3fs is optional

    return s3.plain_errors()


def read_bytes(url: str | Path) -> bytes:
    """All bytes of a file."""
    fs, path = filesystem(url)
    return fs.cat_file(path, **_whole(fs))


@contextmanager
def atomic_write(url: str | Path) -> Iterator[IO[bytes]]:
    """Binary writer whose file appears under its name only if the block ends without an error.

    An object store gets parts as they fill up, so that one part is in memory. An upload that fails
    is aborted; of a killed process it stays unfinished until `remove_leftovers`.

    Raises:
        OSError: it cannot be written.
    """
    fs, path = filesystem(url)
    if _OBJECT_STORES.intersection(_protocols(fs)):
        with _uploading(fs, path) as f:
            yield f
    elif is_local(url):
        with _replacing(Path(path)) as f:
            yield f
    else:
        with _moving(fs, path) as f:
            yield f


@contextmanager
def _replacing(final: Path) -> Iterator[IO[bytes]]:
    """A local file."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(_temporary_name(final.name))
    try:
        with temporary.open("wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _uploading(fs: Any, path: str) -> Iterator[IO[bytes]]:
    """An object. Not fsspec's transactions: they belong to an instance that threads share."""
    f = fs.open(path, "wb", block_size=_PART_BYTES)
    try:
        yield f
        f.close()
    except BaseException:
        f.closed = True  # or it would be completed as it is when it is collected
        try:
            f.discard()
        except OSError as error:
            log.warning("%s: unfinished upload not aborted (%s)", path, error)
        raise


@contextmanager
def _moving(fs: Any, path: str) -> Iterator[IO[bytes]]:
    """A file of another file system, in memory or behind SFTP, say."""
    folder, slash, name = path.rpartition("/")
    temporary = f"{folder}{slash}{_temporary_name(name)}"
    try:
        with fs.open(temporary, "wb") as f:
            yield f
        if type(fs).mv is AbstractFileSystem.mv:  # copies, and takes brackets for patterns
            fs.cp_file(temporary, path)
        else:
            fs.mv(temporary, path)
    finally:
        if fs.exists(temporary):
            fs.rm_file(temporary)


def _temporary_name(name: str) -> str:
    return f".{name}.{uuid.uuid4().hex[:8]}.tmp"


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
    path = Path(filesystem(url)[1])
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


def remove(url: str | Path) -> bool:
    """Deletes a file if it is there; whether it was. Raises OSError if it stays."""
    fs, path = filesystem(url)
    try:
        if not fs.exists(path):  # an object store deletes what is absent without a word
            return False
        fs.rm_file(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def remove_leftovers(folder: str | Path) -> int:
    """Deletes what killed processes left of files directly in a folder; returns of how many.

    Temporary files of a local folder, unfinished uploads on S3. Only for a folder that nobody else
    writes into meanwhile.
    """
    fs, path = filesystem(folder)
    if "s3" in _protocols(fs):
        from spa3r import s3  # here, because s3fs is optional

        try:
            return s3.abort_uploads(fs, path)
        except OSError as error:  # a key that may write may not list uploads, and need not
            log.info("%s: unfinished uploads not looked for (%s)", folder, error)
            return 0
    if not is_local(folder) or not Path(folder).is_dir():
        return 0
    stale = [p for p in Path(folder).glob(".*.tmp") if p.is_file()]
    for file in stale:
        file.unlink()
    return len(stale)
