"""What a version must pass before it is promoted.

Two questions: does its field predict in space (better than five controls), and is it better than
the champion on the same held-out scenes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spa3r.errors import ConfigError
from spa3r.eval.bootstrap import Interval, paired_interval
from spa3r.eval.controls import CONTROLS
from spa3r.eval.field_report import COMPARED, MIN_SCENES, MODEL, FieldReport
from spa3r.schema import KIND_NAMES

METRIC = "geo/r2"


@dataclass(frozen=True, kw_only=True, slots=True)
class GateVerdict:
    """The verdict, one line of reason, and the lower 95 % bound of the margin per control."""

    passed: bool
    reason: str
    margins: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Whether a version is better than the champion, and by how much per metric."""

    passed: bool
    reason: str
    differences: dict[str, Interval]
    """Metric -> version minus champion, mean over scenes and 95 % interval."""
    scenes: int


def field_gate(report: FieldReport) -> GateVerdict:
    """Passes iff the lower 95 % bound of (model - control) geometric R2 exceeds 0 for all five.

    Refuses, whatever the numbers, on fewer than 8 held-out scenes that have both scores, without
    geometric features, and where a score is not finite.
    """
    rows = report.differences.get(METRIC, {})
    margins = {control: rows[control].low for control in CONTROLS if control in rows}
    passed, reason = _field_gate(report, margins)
    return GateVerdict(passed=passed, reason=reason, margins=margins)


def _field_gate(report: FieldReport, margins: dict[str, float]) -> tuple[bool, str]:
    missing = [control for control in CONTROLS if control not in margins]
    if missing:
        return False, f"no geometric R2 against {', '.join(missing)}"
    if odd := _not_finite(report, (MODEL, *CONTROLS)):
        return False, odd
    counts = [_counted(report, control) for control in CONTROLS]
    scenes = min(counts)
    if scenes < MIN_SCENES:
        return False, f"{_scenes(scenes, len(report.scenes))}, at least {MIN_SCENES} are needed"
    lost = [control for control in CONTROLS if not margins[control] > 0]
    if lost:
        found = ", ".join(f"{control} ({margins[control]:+.3f})" for control in lost)
        return False, (
            f"the lower 95 % bound of the geometric R2 margin is not above 0 for {found}"
        )
    hardest = min(CONTROLS, key=lambda control: margins[control])
    return True, (
        f"geometric R2 above all {len(CONTROLS)} controls on"
        f" {_scenes(scenes, len(report.scenes))}; narrowest margin {margins[hardest]:+.3f} (lower"
        f" 95 % bound), against {hardest}"
    )


def _counted(report: FieldReport, control: str) -> int:
    """Scenes in which the model and a control have the metric."""
    return sum(
        METRIC in row.scores[MODEL] and METRIC in row.scores.get(control, {})
        for row in report.scenes
    )


def _scenes(paired: int, scenes: int, name: str = "geometric") -> str:
    """How many held-out scenes count, and how many have no such score."""
    missing = f" ({scenes - paired} more have no {name} R2)" if paired < scenes else ""
    return f"{paired} held-out scenes{missing}"


def _not_finite(report: FieldReport, methods: Sequence[str]) -> str:
    """Which scores are infinite or not a number; "" where all are finite."""
    found = [
        f"{method} {metric} in {row.dataset}/{row.scene}"
        for row in report.scenes
        for method in methods
        for metric in COMPARED
        if not math.isfinite(row.scores.get(method, {}).get(metric, 0.0))
    ]
    return f"{len(found)} scores are not finite numbers ({found[0]})" if found else ""


def champion_gate(report: FieldReport, champion: FieldReport) -> Comparison:
    """Passes iff the version is better than the champion by more than its interval.

    Scene by scene: the lower 95 % bound of the difference in geometric R2 must exceed 0, and no
    other kind of feature that the champion predicts may be lost, or be worse with its upper bound
    below 0. Refuses where a score is not finite, and on fewer than 8 scenes that have both scores
    of a kind.

    Args:
        report, champion: of the same held-out clips, scored in the same space.

    Raises:
        ConfigError: the two are of different scenes.
    """
    pairs = _paired(report, champion)
    for name, one in (("this version", report), ("the champion", champion)):
        if odd := _not_finite(one, (MODEL,)):
            reason = f"{name}: {odd}"
            return Comparison(passed=False, reason=reason, differences={}, scenes=len(pairs))
    scores = {
        metric: [p for a, b in pairs if None not in (p := (a.get(metric), b.get(metric)))]
        for metric in COMPARED
    }
    differences = {
        metric: paired_interval(*zip(*found, strict=True), seed=report.seed)
        for metric, found in scores.items()
        if found
    }
    counts = {metric: len(scores[metric]) for metric in differences}
    better = differences.get(METRIC)
    if better is None:
        passed, reason = False, "no geometric R2 to compare"
    else:
        worse = _worse(report, champion, differences) + _too_few(counts, len(pairs))
        passed = better.low > 0 and not worse
        where = _scenes(counts[METRIC], len(pairs))
        found = f"geometric R2 {_told(better)} against the champion on {where}"
        if not better.low > 0:
            worse.insert(0, "the lower bound is not above 0")
        reason = "; ".join([found, *worse])
    scenes = counts.get(METRIC, 0)
    return Comparison(passed=passed, reason=reason, differences=differences, scenes=scenes)


def _too_few(counts: dict[str, int], scenes: int) -> list[str]:
    """Kinds of features that too few scenes compare, one phrase each."""
    named = {metric: KIND_NAMES[metric.partition("/")[0]] for metric in counts}
    return [
        f"{named[metric]} R2 of both versions in {_scenes(count, scenes, named[metric])}, at least"
        f" {MIN_SCENES} are needed"
        for metric, count in counts.items()
        if count < MIN_SCENES
    ]


def _worse(
    report: FieldReport, champion: FieldReport, differences: dict[str, Interval]
) -> list[str]:
    """What else the champion is better at, one phrase each."""
    said = []
    for metric in COMPARED:
        name = KIND_NAMES[metric.partition("/")[0]]
        if metric in champion.mean[MODEL] and metric not in report.mean[MODEL]:
            said.append(f"the champion predicts {name} features, this version does not")
        elif metric != METRIC and metric in differences and not differences[metric].high >= 0:
            said.append(f"{name} R2 is worse: {_told(differences[metric])}")
    return said


def _told(interval: Interval) -> str:
    return f"{interval.mean:+.3f} (95 % {interval.low:+.3f} to {interval.high:+.3f})"


def _paired(
    report: FieldReport, champion: FieldReport
) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Scores of both models, scene by scene."""
    ours, theirs = (
        {(row.dataset, row.scene): row.scores[MODEL] for row in one.scenes}
        for one in (report, champion)
    )
    if ours.keys() != theirs.keys():
        odd = sorted("/".join(scene) for scene in ours.keys() ^ theirs.keys())
        raise ConfigError(
            f"{len(odd)} held-out scenes were scored for one version only ({odd[0]}): evaluate both"
            " on the same targets"
        )
    return [(ours[scene], theirs[scene]) for scene in sorted(ours)]
