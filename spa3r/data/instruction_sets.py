"""Instruction sets on disk: a Parquet file of conversations and a manifest; or plain JSON lines.

A folder holds `instructions.parquet` and, written last, `manifest.json`. A file `<name>.jsonl` is a
set too: one conversation a line, with the same fields; its first line may be a header, such as
{"format": "spa3r-instructions-1", "media_root": "/data/media"}. What is read is checked row by row.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from spa3r import storage
from spa3r.data.instruction_rows import BLOCK, SCHEMA, Rows, checked, holds_nulls, to_table
from spa3r.errors import FormatError
from spa3r.instructions import FORMAT, Instruction, fault_of
from spa3r.json_lines import numbered_rows
from spa3r.licences import licence_of_dataset, licence_of_instructions

TABLE: Final = "instructions.parquet"
MANIFEST: Final = "manifest.json"
JSON_LINES: Final = ".jsonl"
CURE: Final = "make it again: spa3r instruct (or spa3r questions)"


@dataclass(frozen=True, kw_only=True, slots=True)
class InstructionSet:
    """A set that was read: checked, whole."""

    where: str
    """Folder or file, for messages."""
    instructions: Sequence[Instruction]
    media_root: str
    """Path or URL that relative media are looked for under; "" for none."""
    hash: str
    """Hex SHA-256 of the conversations' file: the identity of what is learnt from."""
    manifest: dict[str, Any]
    """Counts by kind, type and data set, drops by reason, licences; {} for a plain file."""


# --- writing --------------------------------------------------------------------------------------


def write_set(
    folder: str | Path,
    instructions: Iterable[Instruction],
    *,
    source: str,
    media_root: str | Path = "",
    dropped: Mapping[str, int] | None = None,
    made_from: Mapping[str, Any] | None = None,
) -> InstructionSet:
    """Writes a set; same conversations, same bytes. They are taken one by one, never all at once.
    A set that is there already is replaced when all of the new one is written.

    A conversation that is malformed, or whose id was there before, is left out and counted too.

    Args:
        media_root: kept relative to the folder where both lie in one home.
        dropped: reason -> how many the caller left out; read when the last conversation is written,
            so that a generator may count into it.
        made_from: plain data, kept in the manifest.

    Raises:
        FormatError: no conversation is left.
        ConfigError: the folder cannot be written.
        OSError: of the conversations, where they are being read.
    """
    here = str(folder)
    storage.check_writable(here, folder=True)
    with storage.named_write_errors(here):
        storage.remove_leftovers(here)
    mine = Counter[str]()
    try:
        digest, counts = _write_table(here, _good(instructions, mine))
    except _SourceError as error:
        raise error.cause from None
    drops = Counter(dropped or {}) + mine
    if not counts.rows:
        raise FormatError(f"{here}: no usable conversation ({told(drops)}); see its source")
    manifest = {
        "format": FORMAT, "source": source, "media_root": _beside(here, str(media_root)),
        "hash": digest, "dropped": dict(sorted(drops.items())),
        "made_from": dict(made_from or {}), **counts.plain(source),
    }  # fmt: skip
    storage.write_json(storage.join(here, MANIFEST), manifest)
    return _set_of(here, manifest, lambda: _read_table(here, manifest["hash"]))


def _write_table(folder: str, good: Iterator[Instruction]) -> tuple[str, "_Counts"]:
    """Its SHA-256, and what is in it; no file where there is nothing."""
    table, counts = storage.join(folder, TABLE), _Counts()
    some = list(islice(good, BLOCK))
    if not some:
        return "", counts
    with storage.named_write_errors(table), storage.atomic_write(table) as f:
        hashing = _Hashing(f)
        with pq.ParquetWriter(
            hashing, SCHEMA, compression="zstd", version="2.6", write_statistics=False
        ) as writer:
            while some:
                counts.add(some)
                writer.write_table(to_table(some), row_group_size=BLOCK)
                some = list(islice(good, BLOCK))
        # From here to the new manifest the folder is no set: its table is about to be replaced.
        storage.remove(storage.join(folder, MANIFEST))
    return hashing.digest.hexdigest(), counts


class _SourceError(Exception):
    """An OSError of what is read, kept apart from those of what is written."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def told(drops: Mapping[str, int]) -> str:
    """Drops by reason on one line, the most frequent first; "none dropped"."""
    most = sorted(drops.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in most) or "none dropped"


def _good(instructions: Iterable[Instruction], dropped: Counter[str]) -> Iterator[Instruction]:
    """The whole ones, each id once. Of ids 8 bytes are kept, so that a million fit in memory."""
    seen, given = set[bytes](), iter(instructions)
    while True:
        try:
            one = next(given, None)
        except OSError as error:
            raise _SourceError(error) from error
        if one is None:
            return
        fault = fault_of(one)
        if fault is not None:
            dropped[fault.reason] += 1
            continue
        key = hashlib.blake2b(one.id.encode(), digest_size=8).digest()
        if key in seen:
            dropped["same_id"] += 1
            continue
        seen.add(key)
        yield one


class _Counts:
    """What a manifest says of a set."""

    def __init__(self) -> None:
        self.rows = 0
        self._by = {name: Counter[str]() for name in ("media_kind", "question_type", "dataset")}
        self._marks = 0

    def add(self, some: Sequence[Instruction]) -> None:
        self.rows += len(some)
        for name, counter in self._by.items():
            counter.update(getattr(one, name) for one in some)
        self._marks += sum(1 for one in some if one.marks)

    def plain(self, source: str) -> dict[str, Any]:
        datasets = sorted(name for name in self._by["dataset"] if name)
        terms = {source: licence_of_instructions(source)}
        terms |= {name: licence_of_dataset(name) for name in datasets}
        return {
            "rows": self.rows,
            "marked": self._marks,
            **{f"{name}s": dict(sorted(counter.items())) for name, counter in self._by.items()},
            "licences": {name: asdict(licence) for name, licence in terms.items()},
        }


class _Hashing:
    """A writer that hashes what goes through it."""

    def __init__(self, f: IO[bytes]) -> None:
        self._f = f
        self.digest = hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self._f.write(data)

    def flush(self) -> None:
        self._f.flush()

    def tell(self) -> int:
        return self._f.tell()

    def close(self) -> None:
        """The file belongs to the caller."""


def _beside(folder: str, media_root: str) -> str:
    """The media root as "../../..." where it lies in the home of the set, so that a home can be
    moved; else its absolute path; a URL as it is."""
    if not media_root or not storage.is_local(media_root):
        return media_root
    root = _local(media_root)
    if storage.is_local(folder) and root.is_relative_to(home := _local(folder).parent.parent):
        return f"../../{root.relative_to(home)}"
    return str(root)


def _local(url: str) -> Path:
    """Absolute, of a path or a URL file://."""
    return Path(storage.filesystem(url)[1]).resolve()


# --- reading --------------------------------------------------------------------------------------


def read_set(where: str | Path) -> InstructionSet:
    """A set's folder, or a file of JSON lines.

    Raises:
        FormatError: absent, of another format, damaged, or with a malformed row: which one, and
            what is wrong with it.
    """
    here = str(where)
    if here.endswith(JSON_LINES):
        return _read_lines(here)
    manifest = _read_manifest(here)
    table = _read_table(here, manifest["hash"])
    if table.num_rows != manifest["rows"]:
        raise FormatError(f"{storage.join(here, MANIFEST)}: not of its table; {CURE}")
    return _set_of(here, manifest, lambda: table)


def _set_of(folder: str, manifest: dict[str, Any], load: Callable[[], pa.Table]) -> InstructionSet:
    return InstructionSet(
        where=folder, hash=manifest["hash"],
        instructions=Rows(manifest["rows"], load, storage.join(folder, TABLE)),
        media_root=_media_root(folder, manifest["media_root"]), manifest=manifest,
    )  # fmt: skip


def _read_table(folder: str, sha256: str) -> pa.Table:
    """Raises FormatError: absent, not of that hash, or not of our form."""
    url = storage.join(folder, TABLE)
    if not storage.exists(url):
        raise FormatError(f"{url}: absent; {CURE}")
    if storage.sha256(url) != sha256:
        raise FormatError(f"{url}: not the file that its manifest names (damaged?); {CURE}")
    try:
        with storage.open_read(url) as f:
            table = pq.read_table(f)
    except (OSError, pa.ArrowException) as error:
        why = " ".join(str(error).split())
        raise FormatError(f"{url}: not a readable Parquet file ({why}); {CURE}") from error
    if not table.schema.equals(SCHEMA):
        raise FormatError(f"{url}: columns {table.schema.names} are not {FORMAT}'s; {CURE}")
    columns = zip(table.column_names, table.columns, strict=True)
    if absent := [name for name, column in columns if any(map(holds_nulls, column.chunks))]:
        raise FormatError(f"{url}: rows without {' and '.join(absent)}; {CURE}")
    return table


def _read_manifest(folder: str) -> dict[str, Any]:
    url = storage.join(folder, MANIFEST)
    if not storage.exists(url):
        raise FormatError(f"{url}: absent: no instruction set, or one cut short; {CURE}")
    manifest = storage.read_json(url)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise FormatError(f"{url}: of format {found!r}, this version reads {FORMAT!r}; {CURE}")
    kinds = {"hash": str, "media_root": str, "rows": int, "dropped": dict, "licences": dict}
    if not all(isinstance(manifest.get(name), kind) for name, kind in kinds.items()):
        raise FormatError(f"{url}: no manifest of instructions; {CURE}")
    return manifest


def _media_root(folder: str, kept: str) -> str:
    return str((_local(folder) / kept).resolve()) if kept.startswith("../") else kept


def _read_lines(url: str) -> InstructionSet:
    if not storage.exists(url):
        raise FormatError(f"{url}: no such file; name a set's folder or a file of JSON lines")
    root, seen = "", set[str]()
    some: list[Instruction] = []
    tables: list[pa.Table] = []
    for number, row in numbered_rows(url):
        if isinstance(row, Exception):
            raise FormatError(f"{url}, line {number}: {row}; correct it or delete the line")
        if number == 1 and "format" in row:
            root = _root_of_header(row, url)
            continue
        some.append(checked(row, url, number))
        if some[-1].id in seen:
            raise FormatError(
                f"{url}, line {number}: id {some[-1].id!r} stands on an earlier line too; correct"
                " it or delete the line"
            )
        seen.add(some[-1].id)
        if len(some) == BLOCK:
            tables.append(to_table(some))
            some = []
    table = pa.concat_tables([*tables, to_table(some)])
    if not table.num_rows:
        raise FormatError(f"{url}: holds no conversation; name another file")
    return InstructionSet(
        where=url, instructions=Rows(table.num_rows, lambda: table, url), media_root=root,
        hash=storage.sha256(url), manifest={},
    )  # fmt: skip


def _root_of_header(row: Mapping[str, Any], url: str) -> str:
    if row["format"] != FORMAT:
        raise FormatError(
            f"{url}, line 1: of format {row['format']!r}, this version reads {FORMAT!r}; {CURE}"
        )
    root = row.get("media_root", "")
    if not isinstance(root, str):
        raise FormatError(f"{url}, line 1: media_root is no text; correct it")
    return root
