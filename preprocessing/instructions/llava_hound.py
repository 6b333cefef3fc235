"""LLaVA-Hound: open questions about web videos, each a folder of frames (reference.md 2.6)."""

from collections.abc import Iterator
from typing import Final

from preprocessing.instructions.common import Item, Row, id_of, media_of, read_rows, turns_of
from spa3r.instructions import Instruction

SOURCE: Final = "llava-hound"


def read(path: str) -> Iterator[Item]:
    """Its rows. Raises as `read_rows`."""
    return read_rows(path, _convert)


def _convert(row: Row, place: int) -> Instruction:
    media = media_of(row)
    return Instruction(
        id=id_of(row, place), source=SOURCE, media_kind=media.kind, media=media.paths,
        turns=turns_of(row.get("conversations"), media), dataset=SOURCE,
        scene=media.paths[0].rpartition("/")[2].partition(".")[0] if media.paths else "",
    )  # fmt: skip
