"""Questions about things seen from one of them: which is closest, and in which direction.

Directions are those of a plan: heights do not matter, z is up. Angles are counter-clockwise, so
that one to the left is positive.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from preprocessing.questions import wording
from preprocessing.questions.boxes import Box, distance, level_distances
from preprocessing.questions.choices import ordered_choices
from preprocessing.questions.facts import SceneFacts, Thing
from preprocessing.questions.spec import (
    DIRECTION_EASY,
    DIRECTION_HARD,
    DIRECTION_MEDIUM,
    Drawn,
)

LEAD: Final = 0.30
"""Metres by which the closest thing must be ahead of every other option."""
MARGIN: Final = 0.15
"""Metres by which any two options' distances must differ."""
BORDER: Final = 10.0
"""Degrees from the border between two answers within which nothing is asked."""
NEAR: Final = 0.5
"""Metres between the middles of two things; from nearer ones no direction is clear."""

TOO_FEW: Final = "too few things that are one of their kind"
NO_LEAD: Final = "closest by less than 0.30 m"
TOO_ALIKE: Final = "two options within 0.15 m"
TOO_NEAR: Final = "middles of two of the things within 0.5 m"
INSIDE: Final = "a thing lies over or under the place to stand"
AT_BORDER: Final = "within 10 degrees of another answer"


def closest(facts: SceneFacts, rng: np.random.Generator) -> Iterator[Drawn | str]:
    """Which of four things is closest to a fifth."""
    named, dropped = facts.single()
    yield from dropped.elements()
    if len(named) < 5:
        yield TOO_FEW
        return
    metres: dict[tuple[str, str], float] = {}
    known: set[tuple[str, frozenset[str]]] = set()
    for target, *options in ordered_choices(rng, named, 5):
        names = [thing.category for thing in options]
        if (target.category, frozenset(names)) in known:
            continue
        known.add((target.category, frozenset(names)))
        away = [_between(target, thing, metres) for thing in options]
        first, second, *_ = ranked = sorted(away)
        if second - first < LEAD:
            yield NO_LEAD
        elif np.diff(ranked).min() < MARGIN:
            yield TOO_ALIKE
        else:
            right = names[away.index(first)]
            wrong = tuple(name for name in names if name != right)
            yield Drawn(text=wording.closest(target.category), truth=right, wrong=wrong)


def _between(a: Thing, b: Thing, known: dict[tuple[str, str], float]) -> float:
    key = (min(a.category, b.category), max(a.category, b.category))
    if key not in known:
        known[key] = distance(a.box, b.box)
    return known[key]


# --- directions -----------------------------------------------------------------------------------


def turn(at_2: np.ndarray, facing_2: np.ndarray, query_2: np.ndarray) -> float:
    """Degrees from what is faced to the query, in (-180, 180]; positive: to the left."""
    ahead, there = facing_2 - at_2, query_2 - at_2
    cross = ahead[0] * there[1] - ahead[1] * there[0]
    return float(np.degrees(np.arctan2(cross, ahead @ there)))


def _easy(degrees: float) -> str:
    return "left" if degrees > 0 else "right"


def _medium(degrees: float) -> str:
    if abs(degrees) >= 135:
        return "back"
    return _easy(degrees)


def _hard(degrees: float) -> str:
    return f"{'front' if abs(degrees) < 90 else 'back'}-{_easy(degrees)}"


LEVELS: Final[dict[str, tuple[Callable[[float], str], tuple[str, ...], Callable[..., str]]]] = {
    DIRECTION_EASY: (_easy, ("left", "right"), wording.direction_easy),
    DIRECTION_MEDIUM: (_medium, ("left", "right", "back"), wording.direction_medium),
    DIRECTION_HARD: (
        _hard, ("front-left", "front-right", "back-left", "back-right"), wording.direction_hard,
    ),
}  # fmt: skip
"""Of each family how an angle is answered, all answers, and the question."""


def direction(family: str, facts: SceneFacts, rng: np.random.Generator) -> Iterator[Drawn | str]:
    """Where a thing lies for one who stands by a second and faces a third."""
    answer, answers, text = LEVELS[family]
    named, dropped = facts.single()
    yield from dropped.elements()
    if len(named) < 3:
        yield TOO_FEW
        return
    for at, facing, query in ordered_choices(rng, named, 3):
        if reason := _unclear(at.box, facing.box, query.box):
            yield reason
            continue
        degrees = turn(*(thing.box.centre_3[:2] for thing in (at, facing, query)))
        # Nothing lies between an angle and both its neighbours' answers: no border is near.
        if len({answer(_wrapped(degrees + step)) for step in (-BORDER, 0, BORDER)}) > 1:
            yield AT_BORDER
            continue
        right = answer(degrees)
        wrong = tuple(one for one in answers if one != right)
        names = (at.category, facing.category, query.category)
        yield Drawn(text=text(*names), truth=right, wrong=wrong)


def _unclear(at: Box, facing: Box, query: Box) -> str:
    """Why no direction is clear between these boxes; "" if one is."""
    middles = [box.centre_3[:2] for box in (at, facing, query)]
    pairs = ((0, 1), (0, 2), (1, 2))
    if min(float(np.linalg.norm(middles[i] - middles[j])) for i, j in pairs) < NEAR:
        return TOO_NEAR
    inside = level_distances(np.array(middles[1:]), [at]) == 0
    return INSIDE if inside.any() else ""


def _wrapped(degrees: float) -> float:
    return (degrees + 180) % 360 - 180
