"""What a report of Spa3-VLM shows, as plain data that an evaluation or a demo fills in.

Scores are in percent, 0 to 100, higher is better; differences are in percentage points. Methods are
those of spa3r/eval/suite.py. Legend: V frames, H W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spa3r.eval.bootstrap import Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScores:
    """One row of the table: a task, or an average over tasks."""

    task: str
    """As the suite names it: "object_counting" ..."""
    questions: int
    scenes: int
    scores: Mapping[str, Interval]
    """Method -> score and its 95 % interval. A method that was not run has no entry."""
    differences: Mapping[str, Interval] = field(default_factory=dict)
    """Control -> the model minus this control on the same questions, with its 95 % interval."""
    group: str = ""
    """"numerical", "multiple choice" ...; "": an average over everything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedTable:
    """Scores that a paper prints, for comparison."""

    title: str
    source: str
    """Paper and number of the table."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]
    """(name of the model, score in percent for each column; None: not printed)."""
    same_questions: bool
    """Whether they are about the same questions as the scores of this report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionExample:
    """One question with what every method answered."""

    id: str
    task: str
    scene: str
    question: str
    """The user's turn as it was asked."""
    gold: str
    answers: Mapping[str, str]
    """Method -> what it wrote, unchanged."""
    scores: Mapping[str, float]
    """Method -> score of its answer in percent."""
    right: bool
    """The model's answer, by the scorer that the report names."""
    frames_VHW3: np.ndarray
    """uint8, what the model saw; (0, 1, 1, 3) without pictures."""
    frame_names: tuple[str, ...] = ()
    view_shares: tuple[float, ...] | None = None
    """How much of the model's answer came from each frame; sums to 1. None: not measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SupervisedText:
    """One training conversation as the tokenizer cuts it."""

    title: str
    """Where it is from: set, id."""
    tokens: Sequence[tuple[str, bool]]
    """(text of the token, whether it is learnt), in order, special tokens by name. Runs of one
    token, as placeholders of an image are, are shown once with their number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VlmReportData:
    """All a report shows. What a caller does not have stays empty, and its section away."""

    title: str
    suite: str
    """Name and origin of the questions: "vsi-bench questions about generated rooms"."""
    scorer: str
    """Named with what it is: "strict (this project's)"."""
    overall: TaskScores
    tasks: Sequence[TaskScores]
    frames: Mapping[int, int]
    """Number of frames -> how many questions were asked with so many."""
    prompt: str
    """Template of the whole prompt."""
    decoding: str
    """ "greedy, at most 64 new tokens"."""
    examples: Sequence[QuestionExample] = ()
    published: Sequence[PublishedTable] = ()
    remarks: Sequence[str] = ()
    """What has to be known to read the scores, a sentence or two each."""
    unparsed: Mapping[str, int] = field(default_factory=dict)
    """Method -> answers in which the scorer found none."""
    gate: tuple[bool, str] | None = None
    """Whether the gate passed, and its line of reason."""
    supervised: Sequence[SupervisedText] = ()
    curve: Sequence[Mapping[str, Any]] = ()
    """Rows of the tuning run's metrics.jsonl."""
    drops: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Where ("question generator", "mixture" ...) -> reason -> how many."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Base, encoder, hashes, what was trained ..., in the order in which they are shown."""
    timings: Sequence[tuple[str, float]] = ()
    """(stage, seconds of wall clock)."""
