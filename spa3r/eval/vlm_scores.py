"""The table of a suite: every row's score by method, with intervals, and the differences between
the model and its controls.

Intervals: paired bootstrap over scenes. Scenes are drawn with replacement, all their questions with
them, and the row (a mean of means over tasks) is worked out anew from the drawn questions, for all
methods from the same draw. The tail is widened for few scenes as in spa3r/eval/bootstrap.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spa3r.eval.bootstrap import RESAMPLES, Interval, expanded_tail
from spa3r.eval.suite import Method, Prediction, Question, ScoredQuestion
from spa3r.eval.suite_rules import Path, Scorer, Suite
from spa3r.eval.suites import SuiteScores, require_scorer, score, suite_of

_CHUNK = 500  # resamples at once: bounds memory at thousands of scenes


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of the table, 0 to 100."""

    name: str
    group: str
    """"numerical", "multiple choice"; "": a mean over several."""
    questions: int
    scenes: int
    scores: Mapping[Method, Interval]
    differences: Mapping[Method, Interval]
    """Control -> model minus control, on the same questions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VlmScores:
    """A whole evaluation by one scorer."""

    suite: str
    scorer: Scorer
    rows: tuple[Row, ...]
    """"overall" first."""
    methods: Mapping[Method, SuiteScores]
    """Each method's own summary; the model's is what is reported."""
    unparsed: Mapping[Method, int]
    """Answers in which the scorer found none."""
    questions: tuple[ScoredQuestion, ...]
    """Per question and method, 0 to 1: what gates compare."""

    def to_json(self) -> dict[str, Any]:
        """Plain data for scores.json; an interval without bounds has None there."""
        return {
            "suite": self.suite,
            "scorer": self.scorer,
            "scale": self.methods["model"].scale,
            "overall": {method: found.overall for method, found in self.methods.items()},
            "reference": {method: found.reference for method, found in self.methods.items()},
            "errors": {method: list(found.errors) for method, found in self.methods.items()},
            "unparsed": dict(self.unparsed),
            "rows": [_plain(row) for row in self.rows],
        }


def _plain(row: Row) -> dict[str, Any]:
    values = asdict(row)
    for part in ("scores", "differences"):
        values[part] = {
            method: {k: v if math.isfinite(v) else None for k, v in found.items()}
            for method, found in values[part].items()
        }
    return values


def table(
    name: str,
    questions: Sequence[Question],
    predictions: Mapping[Method, Sequence[Prediction]],
    scorer: str = "strict",
    *,
    seed: int = 0,
) -> VlmScores:
    """Scores every method.

    Args:
        predictions: of "model", and of what controls were run; each answers all questions.

    Raises:
        ConfigError: an unknown suite or scorer; a method that has not answered all questions.
    """
    suite = suite_of(name)
    chosen = require_scorer(suite, scorer)
    found: dict[Method, SuiteScores] = {
        method: score(name, questions, some, chosen) for method, some in predictions.items()
    }
    unparsed: dict[Method, int] = {
        method: sum(one in (None, "") for one in scores.parsed.values())
        for method, scores in found.items()
    }
    scored: list[ScoredQuestion] = []
    for q in questions:
        worth: dict[Method, float] = {m: one.per_question[q.id] for m, one in found.items()}
        scored.append(ScoredQuestion(id=q.id, task=q.task, scene=q.scene, scores=worth))
    return VlmScores(
        suite=name,
        scorer=chosen,
        rows=tuple(_rows(suite, chosen, questions, scored, seed)),
        methods=found,
        unparsed=unparsed,
        questions=tuple(scored),
    )


def _rows(
    suite: Suite,
    scorer: Scorer,
    questions: Sequence[Question],
    scored: Sequence[ScoredQuestion],
    seed: int,
) -> list[Row]:
    members: dict[str, list[tuple[Path, ScoredQuestion]]] = {}
    for question, values in zip(questions, scored, strict=True):
        for row, path in suite.rows(scorer, question.doc).items():
            members.setdefault(row, []).append((path, values))
    order = ["overall", *(row for row in suite.order if row in members)]
    return [_row(name, suite.groups.get(name, ""), members[name], seed) for name in order]


def _row(name: str, group: str, members: Sequence[tuple[Path, ScoredQuestion]], seed: int) -> Row:
    methods: list[Method] = list(members[0][1].scores)
    scenes = sorted({values.scene for _, values in members})
    draws_RM, point_M = resampled(members, methods, scenes, seed)
    scores: dict[Method, Interval] = {
        method: _interval(float(point_M[m]), draws_RM[:, m], len(scenes))
        for m, method in enumerate(methods)
    }
    ours = methods.index("model") if "model" in methods else 0
    differences: dict[Method, Interval] = {
        method: _interval(
            float(point_M[ours] - point_M[m]), draws_RM[:, ours] - draws_RM[:, m], len(scenes)
        )
        for m, method in enumerate(methods)
        if m != ours
    }
    return Row(
        name=name, group=group, questions=len(members), scenes=len(scenes), scores=scores,
        differences=differences,
    )  # fmt: skip


def resampled(
    members: Sequence[tuple[Path, ScoredQuestion]],
    methods: Sequence[Method],
    scenes: Sequence[str],
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """A row's mean of means, times 100: (R, M) of R draws of scenes, and (M,) of all questions.

    Legend: L leaves of the mean of means, S scenes, M methods, R draws.
    """
    paths = sorted({path for path, _ in members})
    leaf = {path: number for number, path in enumerate(paths)}
    place = {scene: number for number, scene in enumerate(scenes)}
    sums_LSM = np.zeros((len(paths), len(scenes), len(methods)))
    counts_LS = np.zeros((len(paths), len(scenes)))
    for path, values in members:
        at = leaf[path], place[values.scene]
        sums_LSM[at] += [values.scores[method] for method in methods]
        counts_LS[at] += 1

    def rows_of(weights_RS: np.ndarray) -> np.ndarray:
        counts_RL = weights_RS @ counts_LS.T
        sums_RLM = np.einsum("rs,lsm->rlm", weights_RS, sums_LSM, optimize=True)
        empty_RL = counts_RL == 0
        means_RLM = sums_RLM / np.where(empty_RL, np.nan, counts_RL)[..., None]
        return 100 * _mean_of_means(paths, means_RLM)

    rng = np.random.Generator(np.random.PCG64(seed))
    draws: list[np.ndarray] = []
    for _ in range(RESAMPLES // _CHUNK if len(scenes) > 1 else 0):
        drawn_RS = rng.multinomial(len(scenes), [1 / len(scenes)] * len(scenes), size=_CHUNK)
        draws.append(rows_of(drawn_RS.astype(np.float64)))
    whole_M = rows_of(np.ones((1, len(scenes))))[0]
    return (np.concatenate(draws) if draws else whole_M[None]), whole_M


def _mean_of_means(paths: Sequence[Path], means_RLM: np.ndarray) -> np.ndarray:
    """As suite_rules.mean_of_means, over leaves side by side; a leaf that a draw has no question of
    is left out of its mean."""
    if set(paths) == {()}:
        return means_RLM[:, 0]
    branches: dict[str, list[int]] = {}
    for at, path in enumerate(paths):
        branches.setdefault(path[0], []).append(at)
    inner_BRM = [
        _mean_of_means([paths[at][1:] for at in some], means_RLM[:, some])
        for some in branches.values()
    ]
    stacked_BRM = np.stack(inner_BRM)
    present_BRM = ~np.isnan(stacked_BRM)
    counts_RM = present_BRM.sum(axis=0)
    sums_RM = np.where(present_BRM, stacked_BRM, 0).sum(axis=0)
    return sums_RM / np.where(counts_RM == 0, np.nan, counts_RM)


def _interval(mean: float, draws_R: np.ndarray, scenes: int) -> Interval:
    """Of one scene it has no bounds."""
    if scenes < 2:
        return Interval(mean=mean, low=-math.inf, high=math.inf)
    tail = expanded_tail(scenes)
    low, high = np.quantile(draws_R, (tail, 1 - tail))
    return Interval(mean=mean, low=float(low), high=float(high))
