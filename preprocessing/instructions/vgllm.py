"""The list format of VG-LLM and Spa3R: .json list or .jsonl of `conversations` about `images`, an
`image` or a `video` (a file, or a folder of frames), with SPAR's markers in `spar_info`.

A file's name may end in %P: P percent of its rows are taken, the same ones each time, evenly over
the file. The others are counted as not_sampled.
"""

import random
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from preprocessing.instructions import spar
from preprocessing.instructions.common import (
    Drop,
    Item,
    Row,
    id_of,
    media_of,
    read_rows,
    scene_of,
    text_of,
    turns_of,
)
from spa3r.errors import ConfigError
from spa3r.instructions import Instruction

SOURCE: Final = "vg-llm"
NOT_SAMPLED: Final = "not_sampled"
_PERCENT: Final = re.compile(r"(.+)%(\d+)")


def read(path: str) -> Iterator[Item]:
    """Its rows. Raises as `read_rows`, and ConfigError for a share that is not 1 to 100."""
    name, share = split_share(path)
    for place, item in enumerate(read_rows(name, _convert)):
        block, within = divmod(place, 100)
        yield item if within in _taken(block, share) else Drop(NOT_SAMPLED, place + 1, "")


def split_share(path: str) -> tuple[str, int]:
    """(file, percent of its rows) of a path that may end in %P."""
    found = _PERCENT.fullmatch(path)
    if found is None:
        return path, 100
    share = int(found[2])
    if not 1 <= share <= 100:
        raise ConfigError(f"{path}: the share behind % must be 1 to 100")
    return found[1], share


@lru_cache(maxsize=4)
def _taken(block: int, share: int) -> frozenset[int]:
    """Which of a hundred rows."""
    return frozenset(random.Random(block).sample(range(100), share))


def _convert(row: Row, place: int) -> Instruction:
    if row.get("spar_info"):
        return spar.convert(row, place, source=SOURCE)
    media = media_of(row)
    dataset, scene = scene_of(media, text_of(row, "data_source"))
    return Instruction(
        id=id_of(row, place), source=SOURCE, media_kind=media.kind, media=media.paths,
        turns=turns_of(row.get("conversations"), media),
        question_type=text_of(row, "question_type"), dataset=dataset, scene=scene,
    )  # fmt: skip
