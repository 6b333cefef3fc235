"""What a version must pass before it is promoted.

Two questions: does its field predict in space (better than five controls), and is it better than
the champion on the same held-out scenes.
"""

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

    Refuses, whatever the numbers, on fewer than 8 held-out scenes and without geometric features.
    """
    rows = report.differences.get(METRIC, {})
    margins = {control: rows[control].low for control in CONTROLS if control in rows}
    missing = [control for control in CONTROLS if control not in margins]
    if missing:
        reason = f"no geometric R2 against {', '.join(missing)}"
        return GateVerdict(passed=False, reason=reason, margins=margins)
    scenes = len(report.scenes)
    if not report.enough_scenes:
        reason = f"{scenes} held-out scenes, at least {MIN_SCENES} are needed"
        return GateVerdict(passed=False, reason=reason, margins=margins)
    lost = [control for control in CONTROLS if not margins[control] > 0]
    if lost:
        found = ", ".join(f"{control} ({margins[control]:+.3f})" for control in lost)
        reason = f"the lower 95 % bound of the geometric R2 margin is not above 0 for {found}"
        return GateVerdict(passed=False, reason=reason, margins=margins)
    hardest = min(CONTROLS, key=lambda control: margins[control])
    reason = (
        f"geometric R2 above all {len(CONTROLS)} controls on {scenes} held-out scenes;"
        f" narrowest margin {margins[hardest]:+.3f} (lower 95 % bound), against {hardest}"
    )
    return GateVerdict(passed=True, reason=reason, margins=margins)


def champion_gate(report: FieldReport, champion: FieldReport) -> Comparison:
    """Passes iff the version is better than the champion by more than its interval.

    Scene by scene: the lower 95 % bound of the difference in geometric R2 must exceed 0, and no
    other kind of feature that the champion predicts may be lost, or be worse with its upper bound
    below 0.

    Args:
        report, champion: of the same held-out clips, scored in the same space.

    Raises:
        ConfigError: the two are of different scenes.
    """
    pairs = _paired(report, champion)
    differences = {
        metric: paired_interval(*zip(*scores, strict=True), seed=report.seed)
        for metric in COMPARED
        if (scores := [p for a, b in pairs if None not in (p := (a.get(metric), b.get(metric)))])
    }
    better = differences.get(METRIC)
    if better is None:
        passed, reason = False, "no geometric R2 to compare"
    else:
        worse = _worse(report, champion, differences)
        passed = better.low > 0 and not worse
        found = f"geometric R2 {_told(better)} against the champion on {len(pairs)} held-out scenes"
        if not better.low > 0:
            worse.insert(0, "the lower bound is not above 0")
        reason = "; ".join([found, *worse])
    return Comparison(passed=passed, reason=reason, differences=differences, scenes=len(pairs))


def _worse(
    report: FieldReport, champion: FieldReport, differences: dict[str, Interval]
) -> list[str]:
    """What else the champion is better at, one phrase each."""
    said = []
    for metric in COMPARED:
        name = KIND_NAMES[metric.partition("/")[0]]
        if metric in champion.mean[MODEL] and metric not in report.mean[MODEL]:
            said.append(f"the champion predicts {name} features, this version does not")
        elif metric != METRIC and metric in differences and differences[metric].high < 0:
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
