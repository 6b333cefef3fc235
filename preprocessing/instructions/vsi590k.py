"""VSI-590K: a .jsonl of one question a row, about a video or an image (reference.md 2.6).

`<image>` stands for videos too. Question types that are not in TYPES are kept: the list may grow.
"""

from collections.abc import Iterator
from typing import Final

from preprocessing.instructions.common import (
    Item,
    Row,
    id_of,
    media_of,
    read_rows,
    scene_of,
    text_of,
    turns_of,
)
from spa3r.instructions import Instruction

SOURCE: Final = "vsi-590k"
TYPES: Final = frozenset(
    {"relative_direction_object", "relative_direction_camera", "relative_distance_object",
     "relative_distance_camera", "relative_size_object", "relative_count",
     "absolute_direction_object", "absolute_distance_object", "absolute_size_object",
     "absolute_size_room", "absolute_count", "appearance_order"}
)  # fmt: skip


def read(path: str) -> Iterator[Item]:
    """Its rows. Raises as `read_rows`."""
    return read_rows(path, _convert)


def _convert(row: Row, place: int) -> Instruction:
    media = media_of(row)
    dataset, scene = scene_of(media)
    return Instruction(
        id=id_of(row, place), source=SOURCE, media_kind=media.kind, media=media.paths,
        turns=turns_of(row.get("conversations"), media),
        question_type=text_of(row, "question_type"), dataset=dataset, scene=scene,
    )  # fmt: skip
