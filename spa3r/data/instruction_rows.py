"""Conversations as rows of a table, and the check of rows that others wrote."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import cached_property
from typing import Any, Final, get_args, overload

import pyarrow as pa

from spa3r.errors import FormatError
from spa3r.instructions import FORMAT, Instruction, Mark, MediaKind, Turn, fault_of

BLOCK: Final = 4096
"""Rows of a row group: what is in memory while a set is written or gone through."""

_TURN: Final = pa.struct([("role", pa.string()), ("text", pa.string())])
_MARK: Final = pa.struct(
    [("kind", pa.string()), ("colour", pa.string()), ("image", pa.int32()),
     ("xy", pa.list_(pa.float64())), ("label", pa.string())]
)  # fmt: skip
SCHEMA: Final = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("media_kind", pa.string()),
     ("media", pa.list_(pa.string())), ("turns", pa.list_(_TURN)), ("question_type", pa.string()),
     ("dataset", pa.string()), ("scene", pa.string()), ("marks", pa.list_(_MARK))],
    metadata={"format": FORMAT},
)  # fmt: skip
_FIELDS: Final = frozenset(field.name for field in fields(Instruction))
_DEFAULTS: Final = {
    "source": "", "media": [], "question_type": "", "dataset": "", "scene": "", "marks": []
}  # fmt: skip


class Rows(Sequence[Instruction]):
    """Conversations in a table; one becomes an object, and is checked, when it is asked for: then a
    malformed one raises FormatError."""

    def __init__(self, count: int, load: Callable[[], pa.Table], where: str) -> None:
        """
        Args:
            load: asked for the table of so many rows, without nulls, when the first is wanted.
            where: file, for messages.
        """
        self._count, self._load, self._where = count, load, where

    @cached_property
    def _table(self) -> pa.Table:
        return self._load()

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Instruction: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Instruction]: ...
    def __getitem__(self, index: int | slice) -> Instruction | Sequence[Instruction]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._checked(place, self._table.slice(place, 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Instruction]:
        place = 0
        for batch in self._table.to_batches(max_chunksize=BLOCK):
            for row in batch.to_pylist():
                yield self._checked(place, row)
                place += 1

    def _checked(self, place: int, row: Mapping[str, Any]) -> Instruction:
        one = from_row(row)
        if fault := fault_of(one):
            raise FormatError(
                f"{self._where}, row {place + 1}: {fault.detail} ({fault.reason}); make the set"
                " again, or take another"
            )
        return one


def holds_nulls(array: Any) -> bool:
    """Whether anything is absent in an Arrow array, lists and structs inside included."""
    inside: list[Any] = []
    if pa.types.is_list(array.type):
        inside = [array.flatten()]
    elif pa.types.is_struct(array.type):
        inside = array.flatten()
    return array.null_count > 0 or any(map(holds_nulls, inside))


def to_table(some: Sequence[Instruction]) -> pa.Table:
    """A table of SCHEMA."""
    return pa.Table.from_pylist([asdict(one) for one in some], SCHEMA)


def from_row(row: Mapping[str, Any]) -> Instruction:
    """The conversation of a row that has SCHEMA's form."""
    turns = tuple(Turn(**turn) for turn in row["turns"])
    marks = tuple(Mark(**{**mark, "xy": tuple(mark["xy"])}) for mark in row["marks"])
    return Instruction(**{**row, "media": tuple(row["media"]), "turns": turns, "marks": marks})


def checked(row: Mapping[str, Any], url: str, line: int) -> Instruction:
    """The conversation of a row that somebody wrote by hand; what has a default may be absent.

    Raises:
        FormatError: naming file, line, what is wrong and the cure.
    """

    def wrong(what: str) -> FormatError:
        return FormatError(f"{url}, line {line}: {what}; correct it or delete the line")

    if unknown := sorted(set(row) - _FIELDS):
        raise wrong(f"unknown keys {unknown}; a row has {sorted(_FIELDS)}")
    if row.get("media_kind") not in get_args(MediaKind):
        kinds = list(get_args(MediaKind))
        raise wrong(f"media_kind is {row.get('media_kind')!r}, not one of {kinds}")
    whole = {**_DEFAULTS, **row}
    for name in ("media", "turns", "marks"):
        if not isinstance(whole.get(name), list):
            raise wrong(f"{name} is missing or no list")
    whole["marks"] = [{"label": "", **m} if isinstance(m, dict) else m for m in whole["marks"]]
    try:
        # Through the table's types: a number where a text belongs is refused.
        (plain,) = pa.Table.from_pylist([whole], SCHEMA).to_pylist()
    except (pa.ArrowException, TypeError, ValueError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise wrong(f"not of the form of a row ({why})") from error
    if absent := _absent(plain, ""):
        raise wrong(f"{absent} is missing")
    one = from_row(plain)
    if fault := fault_of(one):
        raise wrong(f"{fault.detail} ({fault.reason})")
    return one


def _absent(value: Any, path: str) -> str:
    """Where in a row there is nothing; "" if it is whole."""
    if value is None:
        return path.strip(".")
    inside: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inside = list(value.items())
    elif isinstance(value, list):
        inside = list(enumerate(value))
    return next((found for key, x in inside if (found := _absent(x, f"{path}.{key}"))), "")
