"""What an evaluation found: one row per held-out scene, means, and paired intervals."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from spa3r.errors import ShardError
from spa3r.eval.bootstrap import Interval, paired_interval
from spa3r.eval.controls import CONTROLS

MODEL = "model"
MIN_SCENES = 8  # fewer held-out scenes bound nothing: the gate refuses
COMPARED = ("geo/r2", "sem/r2", "lang/r2")

Scores = dict[str, dict[str, float]]  # method -> metric -> value


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneRow:
    """Scores of one held-out scene, all its clips together."""

    dataset: str
    scene: str
    clips: int
    tokens: int  # valid target tokens
    scores: Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldReport:
    """Held-out quality of one student against the five controls.

    Metrics are named "geo/r2", "sem/centred_cosine", "depth/abs_rel" and so on; one that cannot be
    computed (no semantic head, no depth) is absent rather than a number.
    """

    space: Literal["standardised", "teacher"]
    scenes: tuple[SceneRow, ...]
    left_out: dict[str, str]  # scene -> why it could not be scored
    mean: Scores  # over scenes
    differences: dict[str, dict[str, Interval]]  # metric -> control -> model minus control
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-ready dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "FieldReport":
        """Inverse of to_json. Raises ShardError where a field is missing or of another kind."""
        try:
            differences = {
                metric: {control: Interval(**interval) for control, interval in row.items()}
                for metric, row in values["differences"].items()
            }
            return cls(
                space=values["space"],
                scenes=tuple(SceneRow(**row) for row in values["scenes"]),
                left_out=dict(values["left_out"]),
                mean=dict(values["mean"]),
                differences=differences,
                seed=values["seed"],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ShardError(f"not a field report ({error!r}); run the evaluation again") from error


def summarise(
    rows: Sequence[SceneRow],
    left_out: Mapping[str, str],
    space: Literal["standardised", "teacher"],
    seed: int,
) -> FieldReport:
    """Means over scenes and 95 % intervals of model minus control, each scene weighing the same."""
    ordered = tuple(sorted(rows, key=lambda row: (row.dataset, row.scene)))
    differences: dict[str, dict[str, Interval]] = {}
    for metric in COMPARED:
        for control in CONTROLS:
            ours = [row.scores[MODEL].get(metric) for row in ordered]
            theirs = [row.scores[control].get(metric) for row in ordered]
            pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if None not in (a, b)]
            if pairs:
                a, b = zip(*pairs, strict=True)
                differences.setdefault(metric, {})[control] = paired_interval(a, b, seed=seed)
    return FieldReport(
        space=space,
        scenes=ordered,
        left_out=dict(left_out),
        mean=_mean([row.scores for row in ordered]),
        differences=differences,
        seed=seed,
    )


def _mean(scores: Sequence[Scores]) -> Scores:
    """Mean over the scenes in which a metric exists."""
    values: dict[str, dict[str, list[float]]] = {}
    for scene in scores:
        for method, metrics in scene.items():
            for metric, value in metrics.items():
                values.setdefault(method, {}).setdefault(metric, []).append(value)
    return {
        method: {metric: sum(v) / len(v) for metric, v in metrics.items()}
        for method, metrics in values.items()
    }
