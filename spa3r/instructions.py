"""Instruction data: conversations about images, videos or scans, in one form whoever wrote them.

A set is a folder with `instructions.parquet`, one row a conversation, and `manifest.json`. Texts
hold one `<image>` for each image, in order, or one `<video>` for the frames of a video or scan, and
the words follow without a line end, as chat templates put them. `spa3r instruct` brings every
published form to this one (preprocessing/instructions/).
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

FORMAT: Final = "spa3r-instructions-1"
IMAGE: Final = "<image>"
VIDEO: Final = "<video>"
COLOURS: Final = ("red", "blue", "green", "yellow")
MARK_SCALE: Final = 1000.0
"""Marks are placed in thousandths of an image's width and height."""
_SPECIAL: Final = re.compile(r"<\|[a-z_]+\|>")
_LONE: Final = re.compile("[\ud800-\udfff]")
_NUMBERS: Final = {"point": 2, "box": 4}
_LONGEST_PATH: Final = 1024  # bytes
_LONGEST_NAME: Final = 255  # bytes, of a file or folder

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
    """One of COLOURS."""
    image: int
    """Index of the image in the conversation."""
    xy: tuple[float, ...]
    """x, y of a point or x1, y1, x2, y2 of a box; 0-1000 over the image's width and height."""
    label: str = ""
    """Written beside it ("object0")."""


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
    folder of its frames; or the one scene of a folder of frame shards. None has a part "..", so
    that relative ones stay under their root."""
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


# --- what is wrong with one -----------------------------------------------------------------------


class Fault(NamedTuple):
    """Why a conversation cannot be learnt from."""

    reason: str
    """Short and the same for all of its kind: what drops are counted by."""
    detail: str


def fault_of(instruction: Instruction) -> Fault | None:
    """The first thing that is wrong with a conversation by itself; None: nothing.

    Media are not looked at.
    """
    if not instruction.id:
        return Fault("no_id", "id is empty")
    if _LONE.search("".join(_texts(instruction))):
        return Fault("not_unicode", "a text holds half a character (a lone surrogate)")
    return (
        _fault_of_media(instruction)
        or fault_of_turns(instruction.turns)
        or _fault_of_markers(instruction)
        or next((f for mark in instruction.marks if (f := _fault_of_mark(mark, instruction))), None)
    )


def _texts(one: Instruction) -> Iterator[str]:
    yield from (one.id, one.source, one.question_type, one.dataset, one.scene, *one.media)
    yield from (turn.text for turn in one.turns)
    yield from (mark.label for mark in one.marks)


def fault_of_turns(turns: Sequence[Turn]) -> Fault | None:
    """What is wrong with who speaks when, and with the words; None: nothing."""
    if not turns:
        return Fault("no_turns", "the conversation is empty")
    if turns[0].role != "user":
        return Fault("assistant_first", "the assistant speaks first")
    for place, turn in enumerate(turns):
        if turn.role != ("user", "assistant")[place % 2]:
            return Fault(
                "turns_not_alternating", f"turns {place - 1} and {place} are {turn.role}'s"
            )
        if not turn.text.replace(IMAGE, "").replace(VIDEO, "").strip():
            return Fault("empty_text", f"turn {place} says nothing")
        if found := _SPECIAL.search(turn.text):
            return Fault("special_token", f"turn {place} holds the special token {found[0]}")
    if turns[-1].role == "user":
        return Fault("no_answer", "the last question has no answer")
    return None


def _fault_of_media(instruction: Instruction) -> Fault | None:
    count = len(instruction.media)
    if instruction.media_kind not in get_args(MediaKind):
        return Fault("malformed_media", f"media of kind {instruction.media_kind!r}")
    wanted = {"images": count >= 1, "none": count == 0}.get(instruction.media_kind, count == 1)
    if not wanted or not all(instruction.media):
        return Fault("media_count", f"{count} media of kind {instruction.media_kind}")
    return next((f for path in instruction.media if (f := _fault_of_path(path))), None)


def _fault_of_path(path: str) -> Fault | None:
    parts, size = path.split("/"), len(path.encode())
    if ".." in parts:
        return Fault("media_outside_root", f"{path[:80]!r} leads out of its root")
    too_long = size > _LONGEST_NAME and (
        size > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in parts)
    )
    if too_long or "\0" in path:
        return Fault("malformed_media", f"{path[:80]!r} names no file: too long, or with a NUL")
    return None


def _fault_of_markers(instruction: Instruction) -> Fault | None:
    """Every image and video is named once, where the user speaks."""
    said = {"user": "", "assistant": ""}
    for turn in instruction.turns:
        said[turn.role] += turn.text
    if IMAGE in said["assistant"] or VIDEO in said["assistant"]:
        return Fault("marker_in_answer", f"an answer holds {IMAGE} or {VIDEO}")
    images = len(instruction.media) if instruction.media_kind == "images" else 0
    videos = int(instruction.media_kind in ("video", "scan"))
    found = said["user"].count(IMAGE), said["user"].count(VIDEO)
    if found != (images, videos):
        return Fault(
            "image_count", f"{found[0]} {IMAGE} and {found[1]} {VIDEO} for {images} and {videos}"
        )
    return None


def _fault_of_mark(mark: Mark, instruction: Instruction) -> Fault | None:
    if instruction.media_kind != "images" or not 0 <= mark.image < len(instruction.media):
        return Fault("marker_image", f"a marker on image {mark.image}, which there is not")
    numbers = len(mark.xy) == _NUMBERS.get(mark.kind) and all(math.isfinite(x) for x in mark.xy)
    if not numbers or mark.colour not in COLOURS:
        return Fault("malformed_marker", f"a {mark.colour} {mark.kind} at {list(mark.xy)}")
    if not all(0 <= x <= MARK_SCALE for x in mark.xy):
        return Fault("marker_outside", f"a {mark.kind} at {list(mark.xy)}, outside the picture")
    if mark.kind == "box" and not (mark.xy[0] <= mark.xy[2] and mark.xy[1] <= mark.xy[3]):
        return Fault("malformed_marker", f"a box from {mark.xy[:2]} to {mark.xy[2:]}")
    return None
