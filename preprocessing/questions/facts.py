"""What is known of one scene: its annotated things, its size, and what its frames see of them."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from preprocessing.questions.boxes import Box, upright
from spa3r.errors import FormatError

STRUCTURE: Final = frozenset({"wall", "floor", "ceiling", "structure"})
"""What a room is made of; nothing is asked about it."""
_NAMELESS: Final = frozenset({"object", "objects", "unknown", "remove", "misc", "split", "clutter",
                              "otherstructure", "otherfurniture", "otherprop"})  # fmt: skip
_SPEAKABLE: Final = re.compile(r"\w[\w '/&.()-]*")  # a comma would end it in a list of options
# Two annotators' words for one kind of thing: with both in a scene neither name is unmistakable.
_SAME: Final = (
    {"couch", "sofa"},
    {"tv", "television", "monitor", "screen"},
    {"trash can", "trash bin", "garbage bin", "recycling bin", "bin", "bucket"},
    {"rug", "carpet", "mat", "floor mat"},
    {"picture", "painting", "poster"},
    {"nightstand", "night stand", "end table"},
    {"bookshelf", "bookcase", "shelf", "bookshelves"},
    {"cabinet", "cupboard", "dresser", "wardrobe", "closet"},
    {"table", "desk"},
)

SEEN: Final = 0.002
"""Share of a frame's pixels that a thing must fill in its best frame to be asked about."""

STRUCTURAL: Final = "structure or nameless"
SEVERAL: Final = "several of the category"
ALONE: Final = "only one of the category"
SIMILAR: Final = "another category has a similar name"
UNSEEN: Final = "hardly seen in any frame"


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One annotated instance."""

    category: str
    instance: int
    box: Box


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What the kept frames of a scene see. F frames in order, T things in the order of the facts.

    Attributes:
        share_FT: share of a frame's pixels that show a thing, 0 to 1.
        seconds_F: when each frame was taken; None: nobody knows.
    """

    share_FT: np.ndarray
    seconds_F: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class SceneFacts:
    """One scene, in its axis-aligned frame.

    Attributes:
        things: every annotated instance but structure, by category and number.
        structure: the other instances: of the room itself, or without a name that says what.
        room_size: square metres; None: not annotated.
        aligned_from_world_44: takes the manifest's poses into this frame.
        sight: None: frames without depth, labels, pose or intrinsics.
    """

    scene: str
    dataset: str
    things: tuple[Thing, ...]
    structure: tuple[Thing, ...]
    room_size: float | None
    aligned_from_world_44: np.ndarray
    sight: Sight | None = None

    @cached_property
    def floor(self) -> float:
        """Height of the lowest thing's bottom."""
        return min(thing.box.low for thing in self.things)

    @cached_property
    def by_category(self) -> dict[str, list[int]]:
        """Places in `things` by category, sorted."""
        found: dict[str, list[int]] = {}
        for place, thing in enumerate(self.things):
            found.setdefault(thing.category, []).append(place)
        return dict(sorted(found.items()))

    def seen(self, place: int) -> bool:
        """Whether some frame shows the thing well; where nobody knows, it counts as seen."""
        return self.sight is None or float(self.sight.share_FT[:, place].max(initial=0)) >= SEEN

    def single(self) -> tuple[list[Thing], Counter[str]]:
        """Things that their category's name means beyond doubt, and why others are not."""
        categories = self.by_category
        named: list[Thing] = []
        dropped: Counter[str] = Counter()
        dropped[STRUCTURAL] += len(self.structure)
        for category, places in categories.items():
            if len(places) > 1:
                dropped[SEVERAL] += 1
            elif is_ambiguous(category, categories):
                dropped[SIMILAR] += 1
            elif not self.seen(places[0]):
                dropped[UNSEEN] += 1
            else:
                named.append(self.things[places[0]])
        return named, dropped


def is_ambiguous(category: str, others: Iterable[str]) -> bool:
    """Whether another category of the scene may be meant: "chair" beside "office chair"."""
    name = category.lower()
    words = name.split()
    for other in (one.lower() for one in others if one != category):
        theirs = other.split()
        if name == other or _ends_with(words, theirs) or _ends_with(theirs, words):
            return True
        if any(name in same and other in same for same in _SAME):
            return True
    return False


def _ends_with(words: Sequence[str], ending: Sequence[str]) -> bool:
    return len(words) > len(ending) and list(words[-len(ending) :]) == list(ending)


def read_facts(content: bytes, url: str, *, scene: str, dataset: str) -> SceneFacts:
    """The facts in an objects file (schema.OBJECTS_SUFFIX).

    Raises:
        FormatError: it is not one, or a box is not upright.
    """
    try:
        objects = json.loads(content)
        boxes, room_size = objects["object_bboxes"], objects["room_size"]
        entries = [
            (" ".join(category.split()), int(box["instance_id"]),
             upright(box["centroid"], box["axesLengths"], box["normalizedAxes"]))
            for category, found in boxes.items()
            for box in found
        ]  # fmt: skip
        room_size = None if room_size is None else float(room_size)
        aligned_44 = np.array(objects["aligned_from_world"], np.float64).reshape(4, 4)
        if not np.isfinite([*aligned_44.flat, room_size or 0.0]).all():
            raise ValueError("room_size or aligned_from_world is not finite")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(
            f"{url}: not an objects file ({type(error).__name__}: {error}); ingest again"
        ) from error
    things: list[Thing] = []
    structure: list[Thing] = []
    for category, instance, box in sorted(entries, key=lambda entry: entry[:2]):
        if box is None:
            raise FormatError(
                f"{url}: the box of {category!r} {instance} does not stand upright, or is no box;"
                " ingest again"
            )
        name = category.lower()
        odd = name in STRUCTURE | _NAMELESS or not _SPEAKABLE.fullmatch(category)
        kept = structure if odd else things
        kept.append(Thing(category=category, instance=instance, box=box))
    return SceneFacts(
        scene=scene, dataset=dataset, room_size=room_size, things=tuple(things),
        structure=tuple(structure), aligned_from_world_44=aligned_44,
    )  # fmt: skip
