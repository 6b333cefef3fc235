"""What is asked of a dataset, and one question as a family draws it, before letters and files."""

from dataclasses import dataclass
from typing import Final

from spa3r.loop_config import at_least
from spa3r.plain import require

# Bumped whenever the same spec and data would give other bytes.
GENERATOR_VERSION: Final = 1

COUNTING: Final = "object_counting"
DISTANCE: Final = "object_abs_distance"
SIZE: Final = "object_size_estimation"
ROOM_SIZE: Final = "room_size_estimation"
CLOSEST: Final = "object_rel_distance"
DIRECTION_EASY: Final = "object_rel_direction_easy"
DIRECTION_MEDIUM: Final = "object_rel_direction_medium"
DIRECTION_HARD: Final = "object_rel_direction_hard"
ROUTE: Final = "route_planning"
ORDER: Final = "obj_appearance_order"
NUMERIC: Final = (COUNTING, DISTANCE, SIZE, ROOM_SIZE)
FAMILIES: Final = (
    *NUMERIC,
    *(CLOSEST, DIRECTION_EASY, DIRECTION_MEDIUM, DIRECTION_HARD),
    *(ROUTE, ORDER),
)
"""VSI-Bench's question types: eight tasks, one of them at three levels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionSpec:
    """Options of the generator. The same spec and data give the same bytes."""

    per_family_per_scene: int = 4
    """Questions of one family about one scene, at most."""
    turns_per_conversation: int = 8
    """Questions about one scene that stand in one conversation of the training set, at most. Its
    images are the longest part of a prompt: so many questions pay for them once."""
    seed: int = 0
    families: tuple[str, ...] = FAMILIES

    def __post_init__(self) -> None:
        at_least(self, 1, "per_family_per_scene", "turns_per_conversation")
        at_least(self, 0, "seed")
        unknown = sorted(set(self.families) - set(FAMILIES))
        require(not unknown, f"unknown question families {unknown}; choose from {list(FAMILIES)}")
        require(bool(self.families), "families must name at least one question family")
        require(len(set(self.families)) == len(self.families), "a question family stands twice")


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A question whose truth is known; `wrong` is empty where a number is asked for."""

    text: str
    truth: str
    """The number, or the text of the right option."""
    wrong: tuple[str, ...] = ()
    """The other options, in no particular order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A question as it stands in a file."""

    scene: str
    dataset: str
    family: str
    text: str
    options: tuple[str, ...]
    """"A. left", "B. right"; () where a number is asked for."""
    answer: str
    """The number, or the letter of the right option."""
