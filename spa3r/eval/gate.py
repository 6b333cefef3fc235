"""The one question a version must pass before it is promoted: does the field predict in space?"""

from dataclasses import dataclass

from spa3r.eval.controls import CONTROLS
from spa3r.eval.field_report import MIN_SCENES, FieldReport

METRIC = "geo/r2"


@dataclass(frozen=True, kw_only=True, slots=True)
class GateVerdict:
    """The verdict, one line of reason, and the lower 95 % bound of the margin per control."""

    passed: bool
    reason: str
    margins: dict[str, float]


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
