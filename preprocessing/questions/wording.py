"""VSI-Bench's words: its question templates and the prompt around a question."""

from collections.abc import Sequence
from typing import Final

from spa3r.instructions import VIDEO

FRAMES: Final = "These are frames of a video."
PICK: Final = "Answer with the option's letter from the given choices directly."
CHOICES: Final = "{choices}"
"""Stands in a question for its options, which it lists in the order in which they are lettered."""
FREE: Final = "Please answer the question using a single word or phrase."


def prompt(text: str, options: Sequence[str], *, first: bool = True) -> str:
    """The user's turn; `first`: the one that shows the video."""
    lines = [FRAMES, text] if first else [text]
    lines += ["Options:", *options, PICK] if options else [FREE]
    return (VIDEO if first else "") + "\n".join(lines)


def count(category: str) -> str:
    """object_counting."""
    return f"How many {category}(s) are in this room?"


def size(category: str) -> str:
    """object_size_estimation."""
    return (
        "What is the length of the longest dimension (length, width, or height) of the"
        f" {category}, measured in centimeters?"
    )


def room_size() -> str:
    """room_size_estimation. The space before the line end is the benchmark's."""
    return (
        "What is the size of this room (in square meters)? \n"
        "If multiple rooms are shown, estimate the size of the combined space."
    )


def distance(a: str, b: str) -> str:
    """object_abs_distance."""
    return (
        "Measuring from the closest point of each object, what is the distance between the"
        f" {a} and the {b} (in meters)?"
    )


def closest(category: str) -> str:
    """object_rel_distance."""
    return (
        "Measuring from the closest point of each object, which of these objects"
        f" ({CHOICES}) is the closest to the {category}?"
    )


def _standing(at: str, facing: str, query: str) -> str:
    return f"If I am standing by the {at} and facing the {facing}, is the {query} to"


def direction_easy(at: str, facing: str, query: str) -> str:
    """object_rel_direction_easy."""
    return f"{_standing(at, facing, query)} the left or the right of the {facing}?"


def direction_medium(at: str, facing: str, query: str) -> str:
    """object_rel_direction_medium."""
    return (
        f"{_standing(at, facing, query)} my left, right, or back?\n"
        "An object is to my back if I would have to turn at least 135 degrees in order to face it."
    )


def direction_hard(at: str, facing: str, query: str) -> str:
    """object_rel_direction_hard."""
    return (
        f"{_standing(at, facing, query)} my front-left, front-right, back-left, or back-right?\n"
        "The directions refer to the quadrants of a Cartesian plane (if I am standing at the"
        " origin and facing along the positive y-axis)."
    )


def order(categories: Sequence[str]) -> str:
    """obj_appearance_order."""
    return (
        "What will be the first-time appearance order of the following categories in the video:"
        f" {', '.join(categories)}?"
    )


def route(start: str, facing: str, stops: Sequence[str], *, turn_first: bool) -> str:
    """route_planning: a turn to be filled in between every two stops.

    Args:
        stops: where the robot comes by, the destination last.
        turn_first: it does not begin by going to what it faces.
    """
    steps: list[str] = []
    for place, stop in enumerate(stops):
        if place or turn_first:
            steps.append("[please fill in]")
        steps.append(f"Go forward until the {stop}")
    actions = " ".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))
    return (
        f"You are a robot beginning at the {start} and facing the {facing}. You want to navigate to"
        f" the {stops[-1]}. You will perform the following actions (Note: for each [please fill"
        " in], choose either 'turn back,' 'turn left,' or 'turn right.'): "
        f"{actions}. You have reached the final destination."
    )
