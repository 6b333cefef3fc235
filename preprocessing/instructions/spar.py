"""SPAR: questions about one or several images with coloured markers (reference.md 2.6).

The annotation is a JSON string in `spar_info` (SPAR-234K), or stands in the row itself (SPAR-7M).
Released Spa3-VLM code never draws the markers; here they become marks, drawn when images are read.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from preprocessing.instructions.common import (
    Item,
    RefusedError,
    Row,
    id_of,
    media_of,
    read_rows,
    scene_of,
    text_of,
    turns_of,
)
from preprocessing.instructions.spar_marks import marks_of
from spa3r.instructions import Instruction

SOURCE: Final = "spar"


def read(path: str) -> Iterator[Item]:
    """Its rows. Raises as `read_rows`."""
    return read_rows(path, convert)


def convert(row: Row, place: int, *, source: str = SOURCE) -> Instruction:
    """A row with its markers. Raises RefusedError."""
    media, info = media_of(row), _info(row)
    marks = marks_of(info)  # first: an unknown task matters more than what else is wrong
    dataset, scene = scene_of(media, text_of(row, "data_source"))
    return Instruction(
        id=id_of(row, place), source=source, media_kind=media.kind, media=media.paths,
        turns=turns_of(row.get("conversations"), media), question_type=text_of(info, "type"),
        dataset=dataset, scene=scene, marks=marks,
    )  # fmt: skip


def _info(row: Row) -> Mapping[str, Any]:
    text = row.get("spar_info")
    if text is None:
        return row
    try:
        info = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        raise RefusedError("malformed_marker", f"spar_info is not JSON ({error})") from error
    if not isinstance(info, dict):
        raise RefusedError("malformed_marker", "spar_info is no object")
    return info
