"""Each family on scenes whose answers are known, and what is not asked."""

from collections.abc import Iterator

import numpy as np
import pytest

from preprocessing.questions import numbers, order, relations, routes, wording
from preprocessing.questions.facts import SIMILAR, UNSEEN, SceneFacts, Sight, Thing
from preprocessing.questions.relations import LEVELS
from preprocessing.questions.spec import (
    DIRECTION_EASY,
    DIRECTION_HARD,
    DIRECTION_MEDIUM,
    Drawn,
)
from tests.unit.preprocessing.questions.scenes import (
    MIRROR,
    box,
    moved,
    rotation,
    scene,
    square,
    thing,
)


def drawn(outcomes: Iterator[Drawn | str]) -> tuple[dict[str, Drawn], list[str]]:
    """Questions by text, and reasons."""
    found = list(outcomes)
    questions = [one for one in found if isinstance(one, Drawn)]
    return {one.text: one for one in questions}, [one for one in found if isinstance(one, str)]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def flipped(text: str) -> str:
    """An answer in the mirrored room."""
    for word, other in (("left", "right"), ("Left", "Right")):
        text = text.replace(word, "#").replace(other, word).replace("#", other)
    return text


# --- numbers --------------------------------------------------------------------------------------


def test_counts_are_of_categories_with_several() -> None:
    chairs = [thing("chair", x, 0, number=x) for x in (1, 2, 3)]
    questions, reasons = drawn(numbers.counting(scene(*chairs, thing("bed", 0, 3)), rng()))
    assert {text: one.truth for text, one in questions.items()} == {
        "How many chair(s) are in this room?": "3"
    }
    assert reasons == [numbers.ALONE]


@pytest.mark.parametrize("other", ["office chair", "Chair"])
def test_no_counts_where_another_name_may_mean_the_same(other: str) -> None:
    things = [thing(name, x, 0, number=x) for name in ("chair", other) for x in (1, 2)]
    questions, reasons = drawn(numbers.counting(scene(*things), rng()))
    assert (questions, reasons) == ({}, [SIMILAR, SIMILAR])


def test_every_counted_thing_must_be_seen() -> None:
    chairs = [thing("chair", x, 0, number=x) for x in (1, 2)]
    seen = scene(*chairs, sight=Sight(share_FT=np.array([[0.1, 0], [0, 0.1]]), seconds_F=None))
    hidden = scene(*chairs, sight=Sight(share_FT=np.array([[0.1, 0.001]]), seconds_F=None))
    assert len(drawn(numbers.counting(seen, rng()))[0]) == 1
    assert drawn(numbers.counting(hidden, rng())) == ({}, [UNSEEN])


def test_sizes_are_longest_sides_in_centimetres() -> None:
    couch = Thing(category="couch", instance=1, box=box(0, 0, 0.4, (0.9, 1.876, 0.8), yaw=20))
    questions, _ = drawn(numbers.size(scene(couch), rng()))
    assert [one.truth for one in questions.values()] == ["188"]
    assert "dimension (length, width, or height) of the couch, measured" in next(iter(questions))


def test_room_sizes_are_square_metres_to_a_tenth() -> None:
    questions, _ = drawn(numbers.room_size(scene(room_size=20.648), rng()))
    assert [one.truth for one in questions.values()] == ["20.6"]
    assert drawn(numbers.room_size(scene(room_size=None), rng())) == ({}, [numbers.NO_ROOM_SIZE])


def test_no_truth_is_zero() -> None:
    """Scores divide by it."""
    point = Thing(category="couch", instance=1, box=box(0, 0, 0.4, (0.004, 0, 0.009)))
    assert drawn(numbers.size(scene(point), rng())) == ({}, [numbers.TOO_SHORT])
    for square_metres in (0.0, 0.04):
        facts = scene(room_size=square_metres)
        assert drawn(numbers.room_size(facts, rng())) == ({}, [numbers.TOO_SMALL])


def test_distances_are_between_closest_points() -> None:
    facts = scene(thing("bed", 0, 0), thing("chair", 2, 0), thing("lamp", 0, 0.55))
    questions, reasons = drawn(numbers.far_apart(facts, rng()))
    assert {one.truth for one in questions.values()} == {"1.6"}
    assert len(questions) == 2, "chair to bed and to lamp"
    assert reasons == [numbers.TOO_CLOSE], "bed to lamp: 0.15 m"


def test_one_name_for_two_things_names_neither() -> None:
    facts = scene(thing("bed", 0, 0), thing("bed", 3, 0, number=2), thing("chair", 2, 0))
    for family in (numbers.size, numbers.far_apart, relations.closest, routes.routes):
        questions, _ = drawn(family(facts, rng()))
        assert not any("the bed" in text for text in questions)


# --- relations ------------------------------------------------------------------------------------


def test_the_closest_is_ahead_of_all_others() -> None:
    facts = square()
    questions, reasons = drawn(relations.closest(facts, rng()))
    closest = {"bed": "chair", "chair": "bed", "door": "bed", "lamp": "bed", "plant": "bed"}
    asked = {text.rpartition(" the ")[2].rstrip("?"): one for text, one in questions.items()}
    assert {name: one.truth for name, one in asked.items()}.items() <= closest.items()
    assert len(asked) >= 3
    for one in asked.values():
        assert len({one.truth, *one.wrong}) == 4
    assert not reasons


@pytest.mark.parametrize(
    ("away", "reason"),
    [(2.25, relations.NO_LEAD), (3.85, relations.TOO_ALIKE), (3.2, None)],
)
def test_margins_between_the_options(away: float, reason: str | None) -> None:
    """Seen from the bed: 2, `away`, 3.9 and 5 metres."""
    facts = scene(
        thing("bed", 0, 0), thing("chair", 2, 0), thing("door", 0, away), thing("lamp", -3.9, 0),
        thing("plant", 0, -5),
    )  # fmt: skip
    named = ["bed", "chair", "door", "lamp", "plant"]

    class First:
        """A draw that judges the bed first."""

        permutation = staticmethod(np.arange)

    outcome = next(relations.closest(facts, First()))  # pyright: ignore[reportArgumentType]
    assert facts.things[0].category == named[0]
    assert (outcome if isinstance(outcome, str) else None) == reason


def directions(facts: SceneFacts, level: str) -> tuple[dict[tuple[str, ...], str], list[str]]:
    """Truths by (standing, facing, query)."""
    questions, reasons = drawn(relations.direction(level, facts, rng()))
    found = {}
    for text, one in questions.items():
        words = text.replace("?", "").replace(",", "").split()
        found[words[6], words[10], words[13]] = one.truth
        assert {one.truth, *one.wrong} == set(LEVELS[level][1])
    return found, reasons


def test_directions_of_a_known_scene() -> None:
    """By the bed, facing the chair in the east: north is left, west behind, south right."""
    easy, _ = directions(square(), DIRECTION_EASY)
    medium, _ = directions(square(), DIRECTION_MEDIUM)
    hard, _ = directions(square(), DIRECTION_HARD)
    assert easy["bed", "chair", "door"] == "left"
    assert easy["bed", "chair", "plant"] == "right"
    assert medium["bed", "chair", "door"] == "left"
    assert medium["bed", "chair", "lamp"] == "back"
    assert medium["bed", "chair", "plant"] == "right"
    assert ("bed", "chair", "door") not in hard, "86 degrees: nearly between front and back"
    assert hard["chair", "door", "lamp"] == "front-left"
    assert hard["plant", "lamp", "chair"] == "front-right"
    assert hard["chair", "plant", "door"] == "back-right"


def test_a_direction_near_a_border_is_not_asked() -> None:
    for degrees, level, asked in (
        (79, DIRECTION_HARD, True), (81, DIRECTION_HARD, False), (99, DIRECTION_HARD, False),
        (101, DIRECTION_HARD, True), (9, DIRECTION_EASY, False), (11, DIRECTION_EASY, True),
        (124, DIRECTION_MEDIUM, True), (126, DIRECTION_MEDIUM, False),
        (144, DIRECTION_MEDIUM, False), (146, DIRECTION_MEDIUM, True),
        (179, DIRECTION_MEDIUM, True), (175, DIRECTION_EASY, False),
    ):  # fmt: skip
        x, y = 3 * np.cos(np.radians(degrees)), 3 * np.sin(np.radians(degrees))
        facts = scene(thing("bed", 0, 0), thing("chair", 2, 0), thing("door", x, y))
        found, _ = directions(facts, level)
        assert (("bed", "chair", "door") in found) is asked, (degrees, level)


def test_no_direction_from_a_place_too_near_or_under() -> None:
    near = scene(thing("bed", 0, 0), thing("chair", 0.45, 0), thing("door", 0, 3))
    assert set(directions(near, DIRECTION_EASY)[1]) == {relations.TOO_NEAR}
    rug = Thing(category="rug", instance=1, box=box(0, 0, 0.01, (3, 3, 0.02)))
    over = scene(rug, thing("chair", 1, 0), thing("door", 0, 3))
    found, reasons = directions(over, DIRECTION_EASY)
    assert not any(names[0] == "rug" for names in found)
    assert relations.INSIDE in reasons


@pytest.mark.parametrize("level", list(LEVELS))
def test_mirrored_rooms_change_left_and_right_and_rotated_ones_nothing(level: str) -> None:
    plain, _ = directions(square(), level)
    assert plain
    assert directions(moved(square(), rotation(123)), level)[0] == plain
    mirrored, _ = directions(moved(square(), MIRROR), level)
    assert mirrored == {names: flipped(truth) for names, truth in plain.items()}
    assert mirrored != plain


# --- routes ---------------------------------------------------------------------------------------


def corridor() -> SceneFacts:
    """From the bed east to the chair, then north to the door, then east to the lamp."""
    return scene(thing("bed", 0, 0), thing("chair", 4, 0), thing("door", 4, 4), thing("lamp", 8, 4))


def route(facts: SceneFacts, *names: str, turn_first: bool = False) -> tuple[str, ...] | str:
    by_name = {one.category: one for one in facts.things}
    start, facing, *stops = (by_name[name] for name in names)
    stops = stops if turn_first else [facing, *stops]
    return routes.turns_of(facts, start, facing, stops, turn_first=turn_first)


def test_turns_of_a_known_route() -> None:
    facts = corridor()
    assert route(facts, "bed", "chair", "door", "lamp") == ("Turn Left", "Turn Right")
    assert route(facts, "door", "chair", "bed") == ("Turn Right",)
    assert route(facts, "chair", "door", "bed", turn_first=True) == ("Turn Left",)
    assert route(facts, "chair", "bed", "door", "lamp", turn_first=True) == (
        "Turn Right", "Turn Right",
    )  # fmt: skip
    assert route(facts, "bed", "chair", "bed") == ("Turn Back",)
    assert route(facts, "bed", "door", "lamp") == routes.NO_TURN, "45 degrees"


def test_a_turn_is_one_by_both_readings_within_30_degrees() -> None:
    """Degrees as the far door is seen from the chair's middle; from where the robot halts before
    it, 0.5 m back, they are a degree less, and to a near door ten less."""
    for degrees, away, found in (
        (64, 40, ("Turn Left",)), (57, 40, routes.NO_TURN), (123, 40, routes.NO_TURN),
        (116, 40, ("Turn Left",)), (64, 3, routes.NO_TURN), (74, 3, ("Turn Left",)),
    ):  # fmt: skip
        x, y = away * np.cos(np.radians(degrees)), away * np.sin(np.radians(degrees))
        facts = scene(thing("bed", 0, 0), thing("chair", 4, 0), thing("door", 4 + x, y))
        assert route(facts, "bed", "chair", "door") == found, (degrees, away)


def test_mirrored_routes_turn_the_other_way() -> None:
    plain, _ = drawn(routes.routes(corridor(), rng()))
    mirrored, _ = drawn(routes.routes(moved(corridor(), MIRROR), rng()))
    rotated, _ = drawn(routes.routes(moved(corridor(), rotation(77)), rng()))
    assert len(plain) > 5
    assert {t: q.truth for t, q in rotated.items()} == {t: q.truth for t, q in plain.items()}
    assert {t: q.truth for t, q in mirrored.items()} == {
        t: flipped(q.truth) for t, q in plain.items()
    }


def test_a_thing_in_the_way_ends_a_route_unless_it_is_flat_or_high() -> None:
    def with_one(size: tuple[float, float, float], z: float, y: float = 0.1) -> SceneFacts:
        one = Thing(category="box", instance=1, box=box(2, y, z, size))
        return scene(*corridor().things, one)

    assert route(with_one((0.3, 0.3, 0.3), 0.15), "bed", "chair", "door") == routes.BLOCKED
    assert route(with_one((0.3, 0.3, 0.3), 0.15, y=0.5), "bed", "chair", "door") == ("Turn Left",)
    assert route(with_one((1, 1, 0.02), 0.01), "bed", "chair", "door") == ("Turn Left",)
    assert route(with_one((1, 1, 0.5), 1.5), "bed", "chair", "door") == ("Turn Left",)


def test_a_straight_wall_ends_a_route_and_a_box_around_all_walls_does_not() -> None:
    for size, found in (((0.1, 9, 2.5), routes.BLOCKED), ((20, 20, 2.5), ("Turn Left",))):
        wall = Thing(category="wall", instance=9, box=box(2, 0, 1.25, size))
        facts = scene(*corridor().things, structure=(wall,))
        assert route(facts, "bed", "chair", "door") == found


def test_options_of_a_route_are_all_turns_or_four_of_them() -> None:
    questions, _ = drawn(routes.routes(corridor(), rng()))
    for text, one in questions.items():
        turns = text.count("[please fill in]") - 1  # the note names it too
        options = [one.truth, *one.wrong]
        assert len(set(options)) == len(options) == (3 if turns == 1 else 4)
        assert all(len(option.split(", ")) == turns for option in options)
    assert {text.count("[please fill in]") - 1 for text in questions} >= {1, 2}


# --- order ----------------------------------------------------------------------------------------


def seen_at(*rows: tuple[float, ...], seconds: tuple[float, ...] | None = None) -> SceneFacts:
    """Four things and their shares in each frame, a frame a second."""
    things = [thing(name, x, 0) for x, name in enumerate(("bed", "chair", "door", "lamp"))]
    share_FT = np.array(rows)
    times = np.arange(len(rows)) * 1.0 if seconds is None else np.array(seconds)
    return scene(*things, sight=Sight(share_FT=share_FT, seconds_F=times))


INTO_VIEW = ((0, 0, 0.1, 0), (0.1, 0, 0, 0), (0, 0, 0, 0.1), (0.1, 0.1, 0, 0))


def test_order_of_first_appearance() -> None:
    questions, reasons = drawn(order.appearance_order(seen_at(*INTO_VIEW), rng()))
    (one,) = questions.values()
    assert one.truth == "door, bed, lamp, chair"
    assert len({one.truth, *one.wrong}) == 4
    assert all(sorted(wrong.split(", ")) == ["bed", "chair", "door", "lamp"] for wrong in one.wrong)
    assert not reasons


def test_order_of_things_a_second_apart_only() -> None:
    apart = seen_at(*INTO_VIEW, seconds=(0, 1.0, 2.0, 2.9))
    assert drawn(order.appearance_order(apart, rng())) == ({}, [order.TOO_SOON])
    glimpsed = ((0, 0.002, 0.1, 0), *INTO_VIEW[1:])  # a corner of the chair, from the start
    assert drawn(order.appearance_order(seen_at(*glimpsed), rng())) == ({}, [order.TOO_SOON])
    unseen = seen_at(*((a, 0.004 if b else 0, c, d) for a, b, c, d in INTO_VIEW))
    assert drawn(order.appearance_order(unseen, rng())) == ({}, [UNSEEN, order.TOO_FEW])


def test_order_needs_frames_that_are_known() -> None:
    blind = scene(*seen_at(*INTO_VIEW).things)
    assert drawn(order.appearance_order(blind, rng())) == ({}, [order.NO_SIGHT])
    timeless = scene(*blind.things, sight=Sight(share_FT=np.array(INTO_VIEW), seconds_F=None))
    assert drawn(order.appearance_order(timeless, rng())) == ({}, [order.NO_TIMES])


def test_routes_read_as_published() -> None:
    assert wording.route("bed", "tv", ["tv", "shower", "toilet"], turn_first=False) == (
        "You are a robot beginning at the bed and facing the tv. You want to navigate to the"
        " toilet. You will perform the following actions (Note: for each [please fill in], choose"
        " either 'turn back,' 'turn left,' or 'turn right.'): 1. Go forward until the tv 2."
        " [please fill in] 3. Go forward until the shower 4. [please fill in] 5. Go forward until"
        " the toilet. You have reached the final destination."
    )
    assert "): 1. [please fill in] 2. Go forward until the door. You have" in wording.route(
        "sink", "heater", ["door"], turn_first=True
    )
