"""The report of one run: a single HTML file that loads nothing from anywhere.

The same data gives the same bytes: there is no clock in here; timings and versions are data.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from spa3r import storage
from spa3r.config import Recipe
from spa3r.eval.controls import CONTROLS
from spa3r.eval.examples import ClipExample
from spa3r.eval.field_report import COMPARED, MODEL, FieldReport
from spa3r.eval.gate import GateVerdict
from spa3r.plain import config_hash, to_dict
from spa3r.schema import KIND_NAMES
from spa3r.viz.curves import loss_curves, validation_curves
from spa3r.viz.strips import clip_strip, depth_gradient, fit_bases


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSummary:
    """What went in."""

    dataset: str
    scenes: Mapping[str, int]  # split -> scenes
    frames: int  # kept
    dropped: Mapping[str, int]  # reason -> frames
    clips: Mapping[str, int]  # split -> clips
    data_hash: str
    target_hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTime:
    """Wall-clock seconds of one stage."""

    stage: str
    seconds: float
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where something is, and the command that opens it."""

    what: str
    where: str
    command: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportData:
    """All a report shows. Teachers are their `reference()`: kind, uri, hash, variant, licence."""

    title: str
    recipe: Recipe
    geometric_teacher: Mapping[str, str]
    semantic_teacher: Mapping[str, str] | None
    linguistic_teacher: Mapping[str, str] | None = None
    data: DataSummary
    field: FieldReport
    verdict: GateVerdict
    metrics: Sequence[Mapping[str, Any]]  # rows of metrics.jsonl
    examples: Sequence[ClipExample]
    timings: Sequence[StageTime]
    places: Sequence[Place]
    versions: Mapping[str, str]


METHODS = {
    MODEL: ("This model", "context views encoded, target views decoded from their cameras"),
    "training_mean": ("Training mean", "the mean training token everywhere; R² is 0 by definition"),
    "shuffled_latents": ("Shuffled latents", "right cameras, latents of another scene"),
    "nearest_context": ("Nearest context view", "tokens of the context view nearest in pose"),
    "context_mean": ("Context mean", "mean of the clip's own context views, per patch position"),
    "wrong_camera": ("Wrong camera", "right latents, asked through another view's camera"),
}
FEATURE_COLUMNS = (  # (metric, heading, higher is better)
    ("r2", "R²", True),
    ("centred_cosine", "centred cos", True),
    ("cosine", "cos", True),
    ("l1", "L1", False),
)
DEPTH_COLUMNS = (("abs_rel", "abs-rel", False), ("delta1", "δ < 1.25", True))


def write_report(url: str | Path, data: ReportData) -> None:
    """Writes the report atomically, to any fsspec URL."""
    storage.write_bytes(url, render_report(data).encode())


def render_report(data: ReportData) -> str:
    """The report as one HTML document."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["duration"] = _duration
    environment.filters["thousands"] = lambda value: f"{value:,}".replace(",", "\u202f")
    source = resources.files("spa3r.viz").joinpath("report.html.j2").read_text(encoding="utf-8")
    bases = fit_bases(data.examples) if data.examples else {}
    return environment.from_string(source).render(
        data=data,
        methods=METHODS,
        table=_quality_table(data.field),
        forests=[_forest(data.field, metric) for metric in COMPARED if _has(data.field, metric)],
        tiles=_headline(data.field),
        strips=[(example, clip_strip(example, bases)) for example in data.examples],
        depth_colours=depth_gradient(),
        curves=loss_curves(data.metrics),
        validation=validation_curves(data.metrics),
        recipe_hash=config_hash(data.recipe),
        recipe_json=json.dumps(to_dict(data.recipe), indent=2, sort_keys=True),
        total_seconds=sum(t.seconds for t in data.timings),
        slowest=max((t.seconds for t in data.timings), default=1.0) or 1.0,
    )


def _has(report: FieldReport, metric: str) -> bool:
    return metric in report.differences


def _headline(report: FieldReport) -> list[dict[str, Any]]:
    """The numbers of the first screen, each with the best control beside it."""
    tiles = []
    for metric, name, higher in (
        ("geo/r2", "Geometric R²", True),
        ("sem/r2", "Semantic R²", True),
        ("lang/r2", "Linguistic R²", True),
        ("geo/centred_cosine", "Centred cosine", True),
        ("depth/abs_rel", "Depth abs-rel", False),
    ):
        ours = report.mean[MODEL].get(metric)
        theirs = {c: report.mean[c][metric] for c in CONTROLS if metric in report.mean[c]}
        if ours is None or not theirs:
            continue
        best = (max if higher else min)(theirs, key=lambda control: theirs[control])
        behind = ours <= theirs[best] if higher else ours >= theirs[best]
        note = f"{_number(theirs[best])} {METHODS[best][0].lower()}"
        note = f"behind the best control: {note}" if behind else f"best control: {note}"
        tiles.append({"name": name, "value": _number(ours), "note": note, "behind": behind})
    return tiles


def _quality_table(report: FieldReport) -> dict[str, Any]:
    """Column groups, and one row per method with its cells and which of them are the best."""
    groups = [
        (
            f"{title.capitalize()} features",
            [(f"{kind}/{name}", heading, up) for name, heading, up in FEATURE_COLUMNS],
        )
        for kind, title in KIND_NAMES.items()
    ]
    depth = [(f"depth/{name}", heading, up) for name, heading, up in DEPTH_COLUMNS]
    groups = [
        (title, columns)
        for title, columns in (*groups, ("Depth probe", depth))
        if columns[0][0] in report.mean[MODEL]
    ]
    best = {}
    for _, columns in groups:
        for metric, _, higher in columns:
            values = [row[metric] for row in report.mean.values() if metric in row]
            best[metric] = (max if higher else min)(values)
    rows = []
    for method in METHODS:
        scores = report.mean[method]
        cells = [
            (_number(scores.get(metric)), scores.get(metric) == best[metric], position == 0)
            for _, columns in groups
            for position, (metric, _, _) in enumerate(columns)
        ]
        rows.append({"method": method, "cells": cells})
    return {"groups": groups, "rows": rows}


def _forest(report: FieldReport, metric: str) -> dict[str, Any]:
    """A forest plot in percent of its width: zero always inside, a little air at both ends."""
    intervals = report.differences[metric]
    # An interval of one scene has no bounds: it goes from edge to edge.
    ends = [x for i in intervals.values() for x in (i.low, i.mean, i.high) if math.isfinite(x)]
    low, high = min(0.0, *ends), max(0.0, *ends)
    air = 0.06 * max(high - low, 1e-6)
    left, span = low - air, high - low + 2 * air

    def at(value: float) -> float:
        return round(min(max(100 * (value - left) / span, 0.0), 100.0), 2)

    rows = [
        {
            "control": control,
            "from": at(i.low),
            "width": round(at(i.high) - at(i.low), 2),
            "point": at(i.mean),
            "text": _number(i.mean, "+"),
            "bounds": f"{_number(i.low, '+')} to {_number(i.high, '+')}",
            "above": i.low > 0,
        }
        for control, i in intervals.items()
    ]
    kind = KIND_NAMES[metric.removesuffix("/r2")]
    return {"title": f"{kind.capitalize()} R²", "rows": rows, "zero": at(0.0)}


def _number(value: float | None, sign: str = "-") -> str:
    """Three decimals with a true minus sign, so that columns of figures line up."""
    return "n/a" if value is None else f"{value:{sign}.3f}".replace("-", "\u2212")


def _data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
