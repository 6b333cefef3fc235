"""What a suite of questions is: how an item becomes a question, and how answers are scored."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Scorer = Literal["strict", "official", "lmms-eval", "vlmevalkit"]
"""Ours; the benchmark's own code; lmms-eval 0.7.3; VLMEvalKit (spatial_bench)."""
SCORERS: tuple[Scorer, ...] = ("strict", "official", "lmms-eval", "vlmevalkit")

Doc = Mapping[str, Any]
Parsed = str | float | None
Path = tuple[str, ...]
"""Where a question stands in a mean of means: ("object_rel_direction", "easy")."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The rules of one suite. All are pure functions of a published item and an answer."""

    name: str
    tasks: tuple[str, ...]
    """Every task that an item may be of."""
    task_of: Callable[[Doc], str]
    prompt: Callable[[Doc], str]
    """The user's whole turn. Raises KeyError naming what the item lacks."""
    template: str
    """The prompt, for a reader of a report."""
    identity: Callable[[Doc, int], str]
    """Unique name of an item; its position in the files helps where it has none of its own."""
    check: Callable[[Doc], None]
    """Raises ValueError for an item that cannot be asked or scored."""
    media: Callable[[Doc], tuple[str, ...]]
    """Paths below the media root."""
    media_field: str
    """Field that names the images; "": they follow from other fields."""
    video: bool
    """Whether media is one video; else images."""
    scene: Callable[[Doc], str]
    gold: Callable[[Doc], str]
    """The answer, for a reader."""
    required: tuple[str, ...]
    """What every item must have."""
    max_new_tokens: int
    parse: Callable[[Scorer, Doc, str], Parsed]
    """The answer that a scorer finds; None or "" where it finds none."""
    score: Callable[[Scorer, Doc, str], float]
    """0 to 1. Raises what the reference raises (ZeroDivisionError)."""
    rows: Callable[[Scorer, Doc], dict[str, Path]]
    """Rows of the table that a question counts in, "overall" first, and its place in each."""
    aggregate: Callable[[Scorer, Sequence[Doc], Sequence[float]], dict[str, float]]
    """The reference's own summary of all scores under its own names, "overall" among them. Raises
    what it raises (KeyError)."""
    scales: Mapping[Scorer, float]
    """What a perfect overall is: 1 or 100. Its keys are the suite's scorers."""
    order: tuple[str, ...]
    """Rows below "overall", in the order of the table."""
    groups: Mapping[str, str]
    """Row -> "numerical" or "multiple choice"; a mean over several rows has none."""
    numerical: tuple[str, ...]
    """Tasks answered by a number that geometry tells."""

    @property
    def scorers(self) -> tuple[Scorer, ...]:
        """Those that the suite has."""
        return tuple(self.scales)


def mean_of_means(leaves: Mapping[Path, float]) -> float:
    """Unweighted mean at each level, from the leaves up: ("a", "x"), ("a", "y") and ("b",) give
    ((x + y) / 2 + b) / 2."""
    if set(leaves) == {()}:
        return leaves[()]
    branches: dict[str, dict[Path, float]] = defaultdict(dict)
    for path, value in leaves.items():
        branches[path[0]][path[1:]] = value
    return float(np.mean([mean_of_means(branch) for branch in branches.values()]))


def row_scores(
    suite: Suite, scorer: Scorer, docs: Sequence[Doc], scores: Sequence[float]
) -> dict[str, float]:
    """Every row of the table, 0 to 100: means of means over what questions there are."""
    found: dict[str, dict[Path, list[float]]] = defaultdict(lambda: defaultdict(list))
    for doc, score in zip(docs, scores, strict=True):
        for row, path in suite.rows(scorer, doc).items():
            found[row][path].append(score)
    return {
        row: 100 * mean_of_means({path: float(np.mean(some)) for path, some in leaves.items()})
        for row, leaves in found.items()
    }
