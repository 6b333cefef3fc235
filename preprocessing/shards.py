"""Writing side of the shard contract: deterministic tars, atomic files, completion sidecars.

The same samples give the same bytes on every machine: members carry no time, owner or host. Each
part's place inside the tar comes back as an index, so that readers need no scan. The sidecar
`<unit>.done.json` is written after all files of a unit: without it, or when it does not match, the
unit is done again from the start.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, BinaryIO, Final, NamedTuple, Self, TypeGuard, cast

import pyarrow as pa
import pyarrow.parquet as pq

from spa3r import storage
from spa3r.errors import ShardError
from spa3r.schema import SCHEMA_VERSION, SIDECAR_SUFFIX

MANIFEST_TABLE: Final = "manifest.parquet"
MANIFEST_JSON: Final = "manifest.json"
REFUSED_SUFFIX: Final = ".refused.json"
SIDECAR_KEYS: Final = {"schema", "stage", "unit", "spec_hash", "files", "counts"}
REFUSAL_KEYS: Final = {"schema", "spec_hash", "signature", "why"}
_TABLES_AT_ONCE: Final = 64  # of a few hundred kilobytes each
_BLOCK: Final = 512  # tar pads every payload to this
_ARROW_TYPES: Final = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "list<double>": pa.list_(pa.float64()),
    "list<int32>": pa.list_(pa.int32()),
    "list<bool>": pa.list_(pa.bool_()),
}


class FileMark(NamedTuple):
    """What the sidecar says about a file."""

    bytes: int
    sha256: str


class TarEntry(NamedTuple):
    """Where one part's payload lies inside its tar, in bytes."""

    key: str
    part: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TarIndex:
    """A published tar."""

    entries: tuple[TarEntry, ...]
    mark: FileMark


# --- files ----------------------------------------------------------------------------------------


@contextmanager
def writing(url: str) -> Iterator[IO[bytes]]:
    """storage.atomic_write whose system errors name the file and a cure.

    Raises:
        ShardError: any OSError in the block: it must come from writing, so wrap what you read in
            errors of its own.
    """
    try:
        with storage.atomic_write(url) as f:
            yield f
    except OSError as error:
        raise ShardError(
            f"{url}: cannot be written ({error.strerror or error}); free space or permissions there"
            " and run again: finished work is kept"
        ) from error


def write_json(url: str, value: Any) -> FileMark:
    """Publishes canonical JSON: sorted keys, final newline, no NaN."""
    data = (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    with writing(url) as f:
        f.write(data)
    return FileMark(len(data), hashlib.sha256(data).hexdigest())


class _Hashing(io.RawIOBase):
    """Counts and hashes what passes through to another file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file: IO[bytes] | None = file
        self._sha256 = hashlib.sha256()
        self._bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._sha256.update(data)
        self._bytes += len(data)
        return self._file.write(data) if self._file else len(data)

    def detach(self) -> None:
        """Lets nothing through any more."""
        self._file = None

    @property
    def mark(self) -> FileMark:
        return FileMark(self._bytes, self._sha256.hexdigest())


class ShardWriter:
    """Deterministic tar on an open file, as a context manager; knows where it put every part."""

    def __init__(self, file: IO[bytes]) -> None:
        from webdataset.writer import TarWriter  # here, because it imports torch

        self._file = _Hashing(file)
        stream = cast(BinaryIO, self._file)
        self._tar = TarWriter(
            stream, user="spa3r", group="spa3r", mode=0o444, mtime=0, encoder=False
        )
        self._keys: set[str] = set()
        self._entries: list[TarEntry] = []

    def write(self, key: str, parts: Mapping[str, bytes]) -> None:
        """Appends a sample. WebDataset ends a key at its first dot: dots in it become "_".

        Raises:
            ShardError: a key that was there before, or that is a path.
        """
        name = key.replace(".", "_")
        if not name or "/" in name or name in self._keys:
            raise ShardError(f"sample key {key!r} is a path or there twice; rename the scene")
        self._keys.add(name)
        for part, data in sorted(parts.items()):
            self._tar.write({"__key__": name, part: data})
            padded = -(-len(data) // _BLOCK) * _BLOCK
            offset = self._tar.tarstream.offset - padded
            self._entries.append(TarEntry(key, part, offset, len(data)))
        self._tar.tarstream.getmembers().clear()  # tarfile keeps every header it ever wrote

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._tar.close()
        finally:
            self._file.detach()  # tarfile flushes once more when it is collected

    @property
    def index(self) -> TarIndex:
        """Of the finished tar: valid after the `with` block."""
        return TarIndex(entries=tuple(self._entries), mark=self._file.mark)


def write_tar(url: str, samples: Iterable[tuple[str, dict[str, bytes]]]) -> TarIndex:
    """Publishes a tar of (key, {part: payload}) samples, streaming: one sample in memory.

    The tar appears under its name only when `samples` ends without an error.

    Raises:
        ShardError: it cannot be written, or a key is there twice. `samples` must raise no bare
            OSError, which would be taken for a failure to write.
    """
    with writing(url) as f, ShardWriter(f) as writer:
        for key, parts in samples:
            writer.write(key, parts)
    return writer.index


def describe(url: str) -> FileMark:
    """Mark of a file that lies at a URL."""
    return FileMark(storage.size(url), storage.sha256(url))


# --- tables ---------------------------------------------------------------------------------------


def arrow_schema(columns: Iterable[tuple[str, str]]) -> pa.Schema:
    """Arrow schema from (column, type name) pairs as in spa3r.schema; no column may be null."""
    return pa.schema([pa.field(n, _ARROW_TYPES[kind], nullable=False) for n, kind in columns])


def write_parquet(url: str, tables: Iterable[pa.Table], schema: pa.Schema) -> FileMark:
    """Publishes tables as one Parquet file, a row group each; same tables, same bytes.

    Raises:
        ShardError: it cannot be written; as for `write_tar`.
    """
    with writing(url) as f:
        hashing = _Hashing(f)
        with pq.ParquetWriter(
            hashing, schema, compression="zstd", version="2.6", write_statistics=False
        ) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=max(table.num_rows, 1))
    return hashing.mark


def read_parquet(url: str) -> pa.Table:
    """A whole table that a stage wrote. Raises ShardError: absent or damaged."""
    (table,) = read_tables([url])
    return table


def read_tables(urls: Sequence[str]) -> Iterator[pa.Table]:
    """Whole tables that a stage wrote, in order; a block of them is fetched together.

    Raises:
        ShardError: one is absent or damaged.
    """
    for start in range(0, len(urls), _TABLES_AT_ONCE):
        block = urls[start : start + _TABLES_AT_ONCE]
        try:
            contents = storage.read_many(block)
        except OSError as error:
            raise _unreadable(block[0], error) from error
        yield from map(_parsed_table, block, contents)


def _parsed_table(url: str, data: bytes | None) -> pa.Table:
    if data is None:
        raise _unreadable(url, FileNotFoundError("there is no such file"))
    try:
        return pq.ParquetFile(io.BytesIO(data)).read()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(url, error) from error


def _unreadable(url: str, error: Exception) -> ShardError:
    why = " ".join(str(error).split())  # Arrow's may have several lines
    return ShardError(f"{url}: unreadable ({why}); delete it and run again")


# --- sidecars -------------------------------------------------------------------------------------


def sidecar_url(folder: str, unit: str) -> str:
    """Where the completion mark of a unit lies."""
    return storage.join(folder, unit + SIDECAR_SUFFIX)


def write_sidecar(
    folder: str,
    unit: str,
    *,
    stage: str,
    spec_hash: str,
    files: Mapping[str, FileMark],
    counts: Mapping[str, Any],
) -> None:
    """Marks a unit as complete; call it after all of its files are published.

    Args:
        files: by name, relative to folder.
        counts: JSON-ready facts about the unit, deterministic.
    """
    value = {
        "schema": SCHEMA_VERSION,
        "stage": stage,
        "unit": unit,
        "spec_hash": spec_hash,
        "files": {name: mark._asdict() for name, mark in files.items()},
        "counts": dict(counts),
    }
    write_json(sidecar_url(folder, unit), value)


def read_sidecar(folder: str, unit: str) -> dict[str, Any]:
    """The completion mark of a unit. Raises ShardError: absent, damaged or of another schema."""
    url = sidecar_url(folder, unit)
    if not storage.exists(url):
        raise ShardError(f"{url}: absent, so {unit!r} is not complete; run its stage again")
    value = storage.read_json(url)
    if not _is_sidecar(value):
        raise ShardError(f"{url}: not a sidecar of schema {SCHEMA_VERSION}; run its stage again")
    return value


class Snapshot:
    """What lies in a folder of finished units, from one listing and one bulk read of sidecars.

    A folder of ten thousand scenes on an object store is asked once, not three times a scene.

    Raises:
        OSError: the storage does not answer.
    """

    def __init__(self, folder: str) -> None:
        self._sizes = storage.list_sizes(folder)
        ends = (SIDECAR_SUFFIX, REFUSED_SUFFIX)
        names = [name for name in self._sizes if name.endswith(ends)]
        texts = storage.read_many([storage.join(folder, name) for name in names])
        self._marks = {
            name: mark
            for name, text in zip(names, texts, strict=True)
            if text is not None and (mark := _parsed_mark(text)) is not None
        }

    @property
    def units(self) -> list[str]:
        """Sorted names of the units that have a sidecar."""
        ends = SIDECAR_SUFFIX
        return sorted(n.removesuffix(ends) for n in self._marks if n.endswith(ends))

    def sidecar(self, unit: str) -> dict[str, Any] | None:
        """The completion mark of a unit whose files have their sizes; None: it is not complete."""
        mark = self._marks.get(unit + SIDECAR_SUFFIX)
        if not _is_sidecar(mark):
            return None
        fit = all(self._sizes.get(name) == file["bytes"] for name, file in mark["files"].items())
        return mark if fit else None

    def refusal(self, unit: str) -> dict[str, Any] | None:
        """Why a unit was refused, as written by `write_refusal`; None: it was not."""
        mark = self._marks.get(unit + REFUSED_SUFFIX)
        return mark if mark is not None and set(mark) == REFUSAL_KEYS else None


def _is_sidecar(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether it has the form that `write_sidecar` gives, of today's schema."""
    if not isinstance(value, dict) or set(value) != SIDECAR_KEYS:
        return False
    files, counts = value["files"], value["counts"]
    return (
        value["schema"] == SCHEMA_VERSION
        and isinstance(counts, dict)
        and isinstance(files, dict)
        and all(isinstance(m, dict) and set(m) == set(FileMark._fields) for m in files.values())
    )


def _parsed_mark(text: bytes) -> dict[str, Any] | None:
    """A sidecar's content; None: damaged or of another schema, so the unit is done again."""
    try:
        mark = json.loads(text)
    except ValueError:
        return None
    return mark if isinstance(mark, dict) and mark.get("schema") == SCHEMA_VERSION else None


def write_refusal(folder: str, unit: str, *, spec_hash: str, signature: str, why: str) -> None:
    """Records that a unit cannot be made, so that it is not tried again until something changes."""
    value = {"schema": SCHEMA_VERSION, "spec_hash": spec_hash, "signature": signature, "why": why}
    write_json(storage.join(folder, unit + REFUSED_SUFFIX), value)


def is_complete(folder: str, unit: str, spec_hash: str) -> bool:
    """Whether the unit's sidecar matches the settings and all of its files have their sizes."""
    try:
        sidecar = read_sidecar(folder, unit)
    except ShardError:  # absent or damaged: the unit is simply done again
        return False
    return sidecar["spec_hash"] == spec_hash and all(
        storage.exists(storage.join(folder, name))
        and storage.size(storage.join(folder, name)) == mark["bytes"]
        for name, mark in sidecar["files"].items()
    )


def discard(url: str) -> bool:
    """Deletes a file if it is there; whether it was. Raises ShardError if it stays."""
    try:
        return storage.remove(url)
    except OSError as error:
        raise ShardError(f"{url}: cannot be deleted ({error.strerror or error})") from error


def discard_manifest(folder: str) -> None:
    """Before a shard that it points into changes, or when nothing is left of the dataset."""
    discard(storage.join(folder, MANIFEST_JSON))
    discard(storage.join(folder, MANIFEST_TABLE))
