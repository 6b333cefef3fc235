"""Questions that a number answers: how many, how long, how large, how far apart."""

import itertools
from collections.abc import Iterator
from typing import Final

import numpy as np

from preprocessing.questions import wording
from preprocessing.questions.boxes import distance
from preprocessing.questions.choices import MAX_JUDGED, shuffled
from preprocessing.questions.facts import ALONE, SIMILAR, UNSEEN, SceneFacts, is_ambiguous
from preprocessing.questions.spec import Drawn

MIN_DISTANCE: Final = 0.2
"""Metres between two boxes; nearer ones touch as far as an annotator can tell."""
SHORTEST: Final = 0.01
"""Metres of a longest side; a truth of 0 has no relative error to be scored by."""
SMALLEST: Final = 1.0
"""Square metres of a room."""
NO_ROOM_SIZE: Final = "the scene's room size is not annotated"
TOO_CLOSE: Final = "less than 0.2 m apart"
TOO_SHORT: Final = "no side is 1 cm long"
TOO_SMALL: Final = "the room has less than 1 square metre"


def counting(facts: SceneFacts, rng: np.random.Generator) -> Iterator[Drawn | str]:
    """Categories with several instances, as VSI-Bench asks; each of them seen."""
    categories = facts.by_category
    for category, places in shuffled(rng, list(categories.items())):
        if len(places) == 1:
            yield ALONE
        elif is_ambiguous(category, categories):
            yield SIMILAR
        elif not all(map(facts.seen, places)):
            yield UNSEEN
        else:
            yield Drawn(text=wording.count(category), truth=str(len(places)))


def size(facts: SceneFacts, rng: np.random.Generator) -> Iterator[Drawn | str]:
    """The longest side of a thing's box in whole centimetres."""
    named, dropped = facts.single()
    yield from dropped.elements()
    for thing in shuffled(rng, named):
        longest = thing.box.longest
        if longest < SHORTEST:
            yield TOO_SHORT
        else:
            yield Drawn(text=wording.size(thing.category), truth=f"{100 * longest:.0f}")


def room_size(facts: SceneFacts, rng: np.random.Generator) -> Iterator[Drawn | str]:
    """Square metres of floor, to a tenth."""
    if facts.room_size is None:
        yield NO_ROOM_SIZE
    elif facts.room_size < SMALLEST:
        yield TOO_SMALL
    else:
        yield Drawn(text=wording.room_size(), truth=f"{facts.room_size:.1f}")


def far_apart(facts: SceneFacts, rng: np.random.Generator) -> Iterator[Drawn | str]:
    """Metres between the closest points of two things' boxes, to a tenth."""
    named, dropped = facts.single()
    yield from dropped.elements()
    pairs = shuffled(rng, list(itertools.combinations(named, 2)))[:MAX_JUDGED]
    for pair in pairs:
        a, b = shuffled(rng, pair)
        metres = distance(a.box, b.box)
        if metres < MIN_DISTANCE:
            yield TOO_CLOSE
        else:
            yield Drawn(text=wording.distance(a.category, b.category), truth=f"{metres:.1f}")
