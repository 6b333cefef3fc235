"""Several recipes on the same held-out scenes: their scores, and how far each is from one of them.

A difference is made scene by scene, and only between recipes that answered the same questions: on
the same held-out targets. Features have to be scored in one space, the reference's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from spa3r.eval.bootstrap import Interval, paired_interval
from spa3r.eval.controls import CONTROLS
from spa3r.eval.field_report import COMPARED, MODEL, FieldReport

ABS_REL = "depth/abs_rel"
METRICS = (*COMPARED, ABS_REL)  # the last one is better when it is lower
MODEL_FREE = ("nearest_context", "context_mean")
NOTED = 0.0005  # less is not seen in three decimals


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """A recipe that was trained and evaluated."""

    recipe: str
    target_hash: str
    """Of the held-out targets."""
    field: FieldReport
    """In the reference's space, as far as that has the kinds of features that the recipe has."""
    own: FieldReport
    """In its own space; the same object where that is the reference's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table. Metrics that the student cannot have are absent."""

    recipe: str
    scores: dict[str, float]
    """By name of METRICS, mean over scenes."""
    controls: dict[str, tuple[str, float]]
    """The best of the five controls, and its score."""
    differences: dict[str, Interval]
    """This recipe minus the reference, with the 95 % interval over scenes."""
    scenes: int
    note: str
    """Why there are no differences, or what they must be read with; "" where there is nothing."""


def compare(evaluated: Sequence[Evaluated], reference: str, *, seed: int = 0) -> dict[str, Row]:
    """One row a recipe. Where the reference is not among them, there are no differences."""
    first = {one.recipe: one for one in evaluated}.get(reference)
    return {one.recipe: _row(one, first, seed) for one in evaluated}


def _row(one: Evaluated, first: Evaluated | None, seed: int) -> Row:
    found, note = ({}, "")
    if first is not None and first is not one:
        found, note = _differences(one, first, seed)
    scores = one.own.mean[MODEL] | one.field.mean[MODEL]
    scores = {name: scores[name] for name in METRICS if name in scores}
    controls = {name: _hardest(one.field, name) or _hardest(one.own, name) for name in scores}
    return Row(
        recipe=one.recipe,
        scores=scores,
        controls={name: best for name, best in controls.items() if best},
        differences=found,
        scenes=len(one.field.scenes),
        note=note,
    )


def _hardest(report: FieldReport, metric: str) -> tuple[str, float] | None:
    found = {c: report.mean[c][metric] for c in CONTROLS if metric in report.mean.get(c, {})}
    if not found:
        return None
    best = (min if metric == ABS_REL else max)(found, key=lambda control: found[control])
    return best, found[best]


def _differences(one: Evaluated, first: Evaluated, seed: int) -> tuple[dict[str, Interval], str]:
    """By metric, over the scenes that both have; and the note of the row."""
    if one.target_hash != first.target_hash:
        return {}, (
            f"other held-out targets ({one.target_hash[:8]}, {first.recipe} has"
            f" {first.target_hash[:8]}): not comparable"
        )
    found: dict[str, Interval] = {}
    for metric in METRICS:
        if pairs := _pairs(one.field, first.field, MODEL, metric):
            ours, theirs = zip(*pairs, strict=True)
            interval = paired_interval(ours, theirs, seed=seed)
            shift = _shift(one.field, first.field, metric)
            found[metric] = Interval(
                mean=interval.mean, low=interval.low - shift, high=interval.high + shift
            )
    if not found:
        return {}, f"predicts nothing that {first.recipe} predicts"
    widened = max(_shift(one.field, first.field, metric) for metric in found)
    if widened < NOTED:
        return found, ""
    return found, (
        "other training clips, so another zero of R²: the same control scores up to"
        f" {widened:.3f} otherwise, and the intervals are wider by that"
    )


def same_measure(one: FieldReport, other: FieldReport) -> bool:
    """Whether both evaluations score the same answers alike.

    R2 is centred (and, in standardised features, scaled) by statistics of a recipe's own training
    targets. Two controls ask no model: they show what that alone does to a score.
    """
    return all(_shift(one, other, metric) == 0 for metric in METRICS)


def _shift(one: FieldReport, other: FieldReport, metric: str) -> float:
    """How far apart the two evaluations score the same answers."""
    shifts = [0.0]
    for control in MODEL_FREE:
        if pairs := _pairs(one, other, control, metric):
            shifts.append(abs(sum(a - b for a, b in pairs) / len(pairs)))
    return max(shifts)


def _pairs(
    one: FieldReport, other: FieldReport, method: str, metric: str
) -> list[tuple[float, float]]:
    """A method's scores in the scenes in which both evaluations have them."""
    theirs = {(row.dataset, row.scene): row.scores[method] for row in other.scenes}
    return [
        (row.scores[method][metric], theirs[row.dataset, row.scene][metric])
        for row in one.scenes
        if metric in row.scores[method] and metric in theirs.get((row.dataset, row.scene), {})
    ]
