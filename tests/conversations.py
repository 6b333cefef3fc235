"""Small conversations for tests."""

from dataclasses import replace
from typing import Any

from spa3r.instructions import Instruction, Turn


def said(*texts: str) -> tuple[Turn, ...]:
    """Turns; the user speaks first."""
    roles = ("user", "assistant")
    return tuple(Turn(role=roles[i % 2], text=text) for i, text in enumerate(texts))


def conversation(number: int, **changes: Any) -> Instruction:
    """About a video."""
    scene = f"clip{number:04d}"
    one = Instruction(
        id=str(number), source="test", media_kind="video", media=(f"clips/{scene}.mp4",),
        turns=said(f"<video>How many chairs are there? ({number})", "4"),
        question_type="object_counting", dataset="made", scene=scene,
    )  # fmt: skip
    return replace(one, **changes)
