"""The four suites: their questions, and what a scorer makes of a model's answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from spa3r.errors import ConfigError
from spa3r.eval import cv_bench, spar_bench, view_spatial, vsi_bench
from spa3r.eval.suite import Prediction, Question
from spa3r.eval.suite_rules import Parsed, Scorer, Suite, row_scores

SUITES: Final = {
    one.SUITE.name: one.SUITE for one in (vsi_bench, cv_bench, spar_bench, view_spatial)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteScores:
    """One method's scores by one scorer."""

    overall: float | None
    """On the scorer's own scale; None where the reference raises instead."""
    tasks: dict[str, float]
    """Rows of the table, 0 to 100, "overall" among them: means of what questions there are."""
    per_question: dict[str, float]
    """Question.id -> 0 to 1."""
    parsed: dict[str, Parsed]
    """Question.id -> the answer that the scorer found; None or "": none."""
    reference: dict[str, float]
    """The scorer's own summary under its own names."""
    scale: float
    """What a perfect overall is."""
    scorer: Scorer
    errors: tuple[str, ...]
    """What the reference would have raised: "KeyError: 'Omni3D'"."""


def suite_of(name: str) -> Suite:
    """Raises ConfigError for an unknown name."""
    if name not in SUITES:
        raise ConfigError(f"suite {name!r} is not known: choose one of {', '.join(SUITES)}")
    return SUITES[name]


def require_scorer(suite: Suite, scorer: str) -> Scorer:
    """Raises ConfigError for one that the suite does not have."""
    for one in suite.scorers:
        if one == scorer:
            return one
    raise ConfigError(
        f"scorer {scorer!r} is not known of {suite.name}: choose one of {', '.join(suite.scorers)}"
    )


def score(
    name: str,
    questions: Sequence[Question],
    predictions: Mapping[str, str] | Sequence[Prediction],
    scorer: str = "strict",
) -> SuiteScores:
    """Scores one method's answers to all the questions.

    Args:
        predictions: raw answers, of one method; by Question.id where they are a mapping.

    Raises:
        ConfigError: an unknown suite or scorer, a question without an answer, or answers of several
            methods.
    """
    suite = suite_of(name)
    chosen = require_scorer(suite, scorer)
    raw = predictions if isinstance(predictions, Mapping) else _of_one_method(predictions)
    missing = [q.id for q in questions if q.id not in raw]
    if missing:
        raise ConfigError(
            f"{len(missing)} questions have no answer ({missing[0]}): go on answering"
        )
    errors: list[str] = []
    scores: list[float] = []
    for question in questions:
        try:
            scores.append(suite.score(chosen, question.doc, raw[question.id]))
        except ZeroDivisionError as error:  # as the reference: then it has no summary
            errors.append(f"{question.id}: {type(error).__name__}: {error}")
            scores.append(0.0)
    docs = [question.doc for question in questions]
    reference: dict[str, float] = {}
    try:
        reference = {} if errors else suite.aggregate(chosen, docs, scores)
    except KeyError as error:
        errors.append(f"KeyError: {error}")
    return SuiteScores(
        overall=reference.get("overall"),
        tasks=row_scores(suite, chosen, docs, scores),
        per_question={q.id: s for q, s in zip(questions, scores, strict=True)},
        parsed={q.id: suite.parse(chosen, q.doc, raw[q.id]) for q in questions},
        reference=reference,
        scale=suite.scales[chosen],
        scorer=chosen,
        errors=tuple(errors),
    )


def _of_one_method(predictions: Sequence[Prediction]) -> dict[str, str]:
    methods = {one.method for one in predictions}
    if len(methods) > 1:
        raise ConfigError(f"answers of several methods ({', '.join(sorted(methods))}): score each")
    return {one.question: one.raw for one in predictions}
