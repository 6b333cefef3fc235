"""route_planning: which turns lead from thing to thing.

The robot stands at its start, faces a second thing and goes straight from one stop to the next,
until it is STOP away from it. A route is asked about if every way is clear and every turn is a
quarter or a half turn whether it is measured where the robot halts or at the stop's middle: nobody
knows which of the two a question means.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

import numpy as np

from preprocessing.questions import wording
from preprocessing.questions.boxes import Box, level_distances
from preprocessing.questions.choices import ordered_choices, shuffled
from preprocessing.questions.facts import STRUCTURE, SceneFacts, Thing
from preprocessing.questions.relations import TOO_FEW, turn
from preprocessing.questions.spec import Drawn

LEFT: Final = "Turn Left"
RIGHT: Final = "Turn Right"
BACK: Final = "Turn Back"
TURNS: Final = (BACK, LEFT, RIGHT)
SLACK: Final = 30.0
"""Degrees that a turn may differ from 90 or 180."""
STOP: Final = 0.3
"""Metres from a thing's box at which the robot halts."""
WIDTH: Final = 0.3
"""Metres, of the robot."""
SHORTEST: Final = 0.5
"""Metres of a way between two halts, at least."""
MAX_ROUTES: Final = 420
"""Candidates judged in a scene, at most."""
_STEP_OVER: Final = 0.05  # metres above the floor; rugs are no obstacle
_TALL: Final = 1.0  # metres; what hangs higher is none either
_THIN: Final = 0.5  # metres; a thicker box is none of a straight wall
_HIGH: Final = 1.8  # metres; nobody goes to a lamp under the ceiling
_STEPS: Final = 65  # points on a way to a thing's middle
_STRIDE: Final = 0.02  # metres between the places where a way is looked at

BLOCKED: Final = "something stands in the way"
NO_TURN: Final = "a turn is neither a quarter nor a half turn"
TOO_SHORT: Final = "two stops within 0.5 m"
TOO_HIGH: Final = "hangs more than 1.8 m high"


def routes(facts: SceneFacts, rng: np.random.Generator) -> Iterator[Drawn | str]:
    """One to three turns, with and without one before the first step, by turns."""
    named, dropped = facts.single()
    yield from dropped.elements()
    hanging = [thing for thing in named if thing.box.low > facts.floor + _HIGH]
    yield from (TOO_HIGH for _ in hanging)
    named = [thing for thing in named if thing not in hanging]
    if len(named) < 3:
        yield TOO_FEW
        return
    kinds = shuffled(rng, list(product((1, 2, 3), (False, True))))
    drawers = [(turn_first, ordered_choices(rng, named, turns + 2)) for turns, turn_first in kinds]
    for _ in range(MAX_ROUTES // len(drawers)):
        for turn_first, chosen in drawers:
            if things := next(chosen, None):
                yield _judged(facts, things, rng, turn_first=turn_first)


def _judged(
    facts: SceneFacts, chosen: tuple[Thing, ...], rng: np.random.Generator, *, turn_first: bool
) -> Drawn | str:
    """Args: chosen: start, what is faced, and the stops; without a first turn what is faced is the
    first stop."""
    start, facing = chosen[:2]
    stops = chosen[2:] if turn_first else chosen[1:]
    found = turns_of(facts, start, facing, stops, turn_first=turn_first)
    if isinstance(found, str):
        return found
    right = ", ".join(found)
    others = [", ".join(one) for one in product(TURNS, repeat=len(found))]
    wrong = shuffled(rng, [one for one in others if one != right])[:3]
    text = wording.route(
        start.category, facing.category, [stop.category for stop in stops], turn_first=turn_first
    )
    return Drawn(text=text, truth=right, wrong=tuple(wrong))


def turns_of(
    facts: SceneFacts, start: Thing, facing: Thing, stops: Sequence[Thing], *, turn_first: bool
) -> tuple[str, ...] | str:
    """The turns of a route, or why it is none."""
    faced_2 = facing.box.centre_3[:2]
    middle_2, halt_2 = start.box.centre_3[:2], _halt(start.box, faced_2)
    ahead_2, straight_2 = faced_2 - middle_2, faced_2 - halt_2
    found: list[str] = []
    obstacles = _obstacles(facts)
    for place, stop in enumerate(stops):
        goal_2 = stop.box.centre_3[:2]
        if place or turn_first:
            by_middle = _kind(turn(middle_2, middle_2 + ahead_2, goal_2))
            if not by_middle or by_middle != _kind(turn(halt_2, halt_2 + straight_2, goal_2)):
                return NO_TURN
            found.append(by_middle)
        next_2 = _halt(stop.box, halt_2)
        if np.linalg.norm(next_2 - halt_2) < SHORTEST:
            return TOO_SHORT
        if _blocked(halt_2, next_2, obstacles):
            return BLOCKED
        ahead_2, straight_2 = goal_2 - middle_2, goal_2 - halt_2
        middle_2, halt_2 = goal_2, next_2
    return tuple(found)


def _kind(degrees: float) -> str:
    """A turn's name; "" if it has none."""
    if abs(degrees) >= 180 - SLACK:
        return BACK
    if abs(abs(degrees) - 90) <= SLACK:
        return LEFT if degrees > 0 else RIGHT
    return ""


def _halt(box: Box, from_2: np.ndarray) -> np.ndarray:
    """Where one who comes straight to a box's middle is STOP away from it; the place itself, for
    one who is there already."""
    share_N = np.linspace(0.0, 1.0, _STEPS)
    way_N2 = from_2 + share_N[:, None] * (box.centre_3[:2] - from_2)
    apart_N = level_distances(way_N2, [box])[0]
    reached = int((apart_N <= STOP).argmax())
    if not reached:
        return from_2
    beyond = (apart_N[reached - 1] - STOP) / (apart_N[reached - 1] - apart_N[reached])
    return way_N2[reached - 1] + beyond * (way_N2[reached] - way_N2[reached - 1])


def _blocked(from_2: np.ndarray, to_2: np.ndarray, obstacles: Sequence[Box]) -> bool:
    """Whether anything stands where the robot passes. Its halts are further from a thing than its
    own half width, so that what it leaves and comes to is no exception."""
    count = int(np.linalg.norm(to_2 - from_2) / _STRIDE) + 2
    way_N2 = from_2 + np.linspace(0.0, 1.0, count)[:, None] * (to_2 - from_2)
    return bool((level_distances(way_N2, obstacles) < WIDTH / 2).any())


def _obstacles(facts: SceneFacts) -> list[Box]:
    """Things, and walls that are annotated one by one: a box around the walls of several rooms says
    nothing about where they are."""
    walls = [one for one in facts.structure if one.category not in STRUCTURE or _is_thin(one.box)]
    return [
        one.box
        for one in (*facts.things, *walls)
        if one.box.high > facts.floor + _STEP_OVER and one.box.low < facts.floor + _TALL
    ]


def _is_thin(box: Box) -> bool:
    return float(box.level_lengths_2.min()) <= _THIN
