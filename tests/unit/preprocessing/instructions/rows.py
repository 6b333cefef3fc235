"""Rows in the published forms, and what an importer makes of a file of them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from preprocessing.instructions.common import Drop, Item
from spa3r.instructions import Instruction

Read = Callable[[str], Iterator[Item]]


def talk(*texts: str, first: str = "human") -> list[dict[str, str]]:
    """A published conversation; sides take turns."""
    sides = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return [{"from": sides[i % 2], "value": text} for i, text in enumerate(texts)]


def write_rows(file: Path, rows: list[Any]) -> str:
    """As JSON lines, or as one list where the name ends in .json."""
    if file.suffix == ".json":
        file.write_text(json.dumps(rows, indent=1))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def one_of(read: Read, tmp_path: Path, row: Any) -> Instruction:
    """Of a file with this one row."""
    (item,) = read(write_rows(tmp_path / "one.jsonl", [row]))
    assert isinstance(item, Instruction), item
    return item


def drop_of(read: Read, tmp_path: Path, row: Any) -> Drop:
    """Of a file with this one row."""
    (item,) = read(write_rows(tmp_path / "one.jsonl", [row]))
    assert isinstance(item, Drop), item
    assert item.row == 1 and "\n" not in item.detail
    return item
