"""Questions of a benchmark and a model's answers, in one form for every suite."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Method = Literal["model", "blind", "no_geometry", "shuffled"]
"""The model; and the controls: no images at all; images without geometry; another scene's geometry.
"""
METHODS: tuple[Method, ...] = ("model", "blind", "no_geometry", "shuffled")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One item of a suite."""

    id: str
    task: str
    """As the suite names it: "object_counting", "Depth" ..."""
    prompt: str
    """Whole text of the user's turn, as the suite's own evaluation writes it."""
    media_kind: Literal["images", "video", "scan"]
    media: tuple[str, ...]
    """As Instruction.media, relative to the suite's media root."""
    scene: str
    """What bootstrap resampling and shuffling treat as one: questions about one scene are not
    independent."""
    doc: dict[str, Any] = field(default_factory=dict)
    """The item as published: what scorers read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One answer."""

    question: str
    """Question.id."""
    method: Method
    raw: str
    """What the model wrote, unchanged."""
    frames: tuple[str, ...] = ()
    """Names of the frames it saw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredQuestion:
    """One question and what each method's answer is worth, 0..1."""

    id: str
    task: str
    scene: str
    scores: Mapping[Method, float]
