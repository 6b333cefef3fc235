"""What a Spa3-VLM must pass before it is promoted.

Two questions: do its answers need the geometry it was given (better than the three controls), and
is it better than the champion on the same questions. Both are asked of some tasks of a suite, by
default the numerical ones, and scenes are resampled: questions about one scene are not independent.
Differences are in percentage points.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from spa3r.errors import ConfigError
from spa3r.eval.bootstrap import Interval, expanded_tail
from spa3r.eval.field_report import MIN_SCENES
from spa3r.eval.gate import Comparison, GateVerdict
from spa3r.eval.suite import METHODS, Method, ScoredQuestion
from spa3r.eval.vlm_controls import CONTROLS
from spa3r.eval.vlm_scores import resampled

SCORE: Final = "score"
"""Name of the one compared number in a Comparison."""


def controls_gate(
    questions: Sequence[ScoredQuestion], tasks: Sequence[str], *, seed: int = 0
) -> GateVerdict:
    """Passes iff the lower 95 % bound of (model - control) exceeds 0 for all three controls.

    Refuses, whatever the numbers, on fewer than 8 scenes that have both scores, where a control
    was not run, where an asked task has no question, and where a score is not finite.
    """
    asked = [q for q in questions if q.task in tasks]
    if fault := _fault(asked, tasks):
        return GateVerdict(passed=False, reason=fault, margins={})
    found = {control: _against(asked, control, seed) for control in CONTROLS}
    margins = {control: interval.low for control, (interval, _) in found.items()}
    scenes = min(count for _, count in found.values())
    where = f"{scenes} scenes of {_tasks(tasks)}"
    if scenes < MIN_SCENES:
        reason = f"{where}, at least {MIN_SCENES} are needed"
        return GateVerdict(passed=False, reason=reason, margins=margins)
    lost = [c for c in CONTROLS if not margins[c] > 0]
    if lost:
        told = ", ".join(f"{c} ({margins[c]:+.1f})" for c in lost)
        reason = f"the lower 95 % bound of the margin is not above 0 for {told} on {where}"
        return GateVerdict(passed=False, reason=reason, margins=margins)
    hardest = min(CONTROLS, key=lambda control: margins[control])
    reason = (
        f"above all {len(CONTROLS)} controls on {where}; narrowest margin {margins[hardest]:+.1f}"
        f" (lower 95 % bound), against {hardest}"
    )
    return GateVerdict(passed=True, reason=reason, margins=margins)


def champion_answers_gate(
    questions: Sequence[ScoredQuestion],
    champion: Sequence[ScoredQuestion],
    tasks: Sequence[str],
    *,
    seed: int = 0,
) -> Comparison:
    """Passes iff the version answers better than the champion by more than the interval.

    The lower 95 % bound of the difference on the asked tasks must exceed 0, and on the suite's
    other tasks together it may not be worse with the upper bound below 0.

    Args:
        questions, champion: scores of method "model" on the same questions, by the same scorer.

    Raises:
        ConfigError: the two are of different questions.
    """
    ours, theirs = ({q.id: q for q in some} for some in (questions, champion))
    if ours.keys() != theirs.keys():
        odd = sorted(ours.keys() ^ theirs.keys())
        raise ConfigError(
            f"{len(odd)} questions were answered by one version only ({odd[0]}): evaluate both on"
            " the same questions"
        )
    pairs = [(q, q.scores["model"], theirs[q.id].scores["model"]) for q in questions]
    asked, rest = ([p for p in pairs if (p[0].task in tasks) is yes] for yes in (True, False))
    if not asked or not all(math.isfinite(x) for p in pairs for x in p[1:]):
        reason = f"no finite scores of {_tasks(tasks)} to compare"
        return Comparison(passed=False, reason=reason, differences={}, scenes=0)
    better, scenes = _interval(asked, seed)
    differences, reasons = {SCORE: better}, [
        f"{better.mean:+.1f} (95 % {better.low:+.1f} to {better.high:+.1f}) against the champion on"
        f" {scenes} scenes of {_tasks(tasks)}"
    ]  # fmt: skip
    if scenes < MIN_SCENES:
        reasons.append(f"at least {MIN_SCENES} are needed")
    if not better.low > 0:
        reasons.append("the lower bound is not above 0")
    if rest:
        differences["other tasks"] = other = _interval(rest, seed)[0]
        if not other.high >= 0:
            reasons.append(f"the other tasks are worse: {other.mean:+.1f}")
    passed = len(reasons) == 1
    return Comparison(
        passed=passed, reason="; ".join(reasons), differences=differences, scenes=scenes
    )


def _fault(asked: Sequence[ScoredQuestion], tasks: Sequence[str]) -> str:
    """Why nothing can be said, "" where something can."""
    empty = sorted(set(tasks) - {q.task for q in asked})
    if empty or not tasks:
        return f"no question of {', '.join(empty) or 'any asked task'}"
    missing = [m for m in METHODS if any(m not in q.scores for q in asked)]
    if missing:
        return (
            f"not all questions were answered by {', '.join(missing)}: evaluate with controls (a"
            " model without geometry has not all of them, and is not promoted)"
        )
    odd = [q.id for q in asked if not all(math.isfinite(q.scores[m]) for m in METHODS)]
    return f"{len(odd)} scores are not finite numbers (question {odd[0]})" if odd else ""


def _against(asked: Sequence[ScoredQuestion], control: Method, seed: int) -> tuple[Interval, int]:
    return _interval([(q, q.scores["model"], q.scores[control]) for q in asked], seed)


def _interval(
    pairs: Sequence[tuple[ScoredQuestion, float, float]], seed: int
) -> tuple[Interval, int]:
    """Of the mean difference, in points; and how many scenes. As the table of the report: a mean
    over tasks of means over questions, with scenes drawn again (spa3r/eval/vlm_scores.py)."""
    members = [((q.task,), replace(q, scores={"model": a - b})) for q, a, b in pairs]
    scenes = sorted({q.scene for q, _, _ in pairs})
    draws_R1, mean_1 = resampled(members, ["model"], scenes, seed)
    mean = float(mean_1[0])
    if len(scenes) == 1:
        return Interval(mean=mean, low=-math.inf, high=math.inf), 1
    tail = expanded_tail(len(scenes))
    low, high = np.quantile(draws_R1[:, 0], (tail, 1 - tail))
    return Interval(mean=mean, low=float(low), high=float(high)), len(scenes)


def _tasks(tasks: Sequence[str]) -> str:
    return ", ".join(tasks) if len(tasks) <= 2 else f"{len(tasks)} tasks"
