"""Instruction data: conversations about images, videos or scans, in one form whoever wrote them.

A set is a folder with `instructions.parquet`, one row a conversation, and `manifest.json`. Texts
hold one `<image>` for each image, in order, or one `<video>` for the frames of a video or scan;
`spa3r instruct` brings every published form to this one (preprocessing/instructions/).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

FORMAT: Final = "spa3r-instructions-1"
IMAGE: Final = "<image>"
VIDEO: Final = "<video>"

Role = Literal["user", "assistant"]
MediaKind = Literal["images", "video", "scan", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one side said. Only the assistant's turns are learnt."""

    role: Role
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A point or box drawn on an image before any tower sees it (SPAR)."""

    kind: Literal["point", "box"]
    colour: str
    """"red", "blue", "green" ..."""
    image: int
    """Index of the image in the conversation."""
    xy: tuple[float, ...]
    """x, y of a point or x1, y1, x2, y2 of a box; 0-1000 over the image's width and height."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruction:
    """One conversation."""

    id: str
    """Unique in its set."""
    source: str
    """Name of the set's origin: "vsi-590k", "spar", "llava-hound", "vlm-3r", "vg-llm", "rooms"."""
    media_kind: MediaKind
    media: tuple[str, ...]
    """Paths or URLs, relative ones from the set's media root: the images; the one video file, or
    folder of its frames; or the one scene of a folder of frame shards."""
    turns: tuple[Turn, ...]
    question_type: str = ""
    dataset: str = ""
    """Of the scene, for the leakage guard: "scannet", "scannetpp", "arkitscenes" ...; "": unknown.
    """
    scene: str = ""
    marks: tuple[Mark, ...] = ()


def user_text(turns: Sequence[Turn]) -> str:
    """The first question."""
    return next(turn.text for turn in turns if turn.role == "user")
