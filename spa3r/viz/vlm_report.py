"""The report of one Spa3-VLM: its scores beside the controls', its answers, what it learnt from.

One HTML file that loads nothing from anywhere. The same data gives the same bytes: there is no
clock in here; timings are data.
"""

import base64
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import jinja2

from spa3r import storage
from spa3r.eval.bootstrap import Interval
from spa3r.eval.suite import METHODS
from spa3r.viz.token_mask import learnt_share, token_runs
from spa3r.viz.tuning_curves import tuning_curves
from spa3r.viz.vlm_pictures import frame_pictures
from spa3r.viz.vlm_report_data import (
    PublishedTable,
    QuestionExample,
    SupervisedText,
    TaskScores,
    VlmReportData,
)

__all__ = [
    "PublishedTable",
    "QuestionExample",
    "SupervisedText",
    "TaskScores",
    "VlmReportData",
    "render_vlm_report",
    "write_vlm_report",
]

METHOD_NAMES: Final = {
    "model": ("Spa3-VLM", "pictures and the scene's geometry"),
    "blind": ("Blind", "the question alone, no pictures"),
    "no_geometry": ("No geometry", "the same weights, the fusion skipped"),
    "shuffled": ("Shuffled", "the geometry of another scene"),
}
CONTROLS: Final = METHODS[1:]


def write_vlm_report(url: str | Path, data: VlmReportData) -> None:
    """Writes the report atomically, to any fsspec URL."""
    storage.write_bytes(url, render_vlm_report(data).encode())


def render_vlm_report(data: VlmReportData) -> str:
    """The report as one HTML document."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"data_uri": _data_uri, "duration": _duration, "percent": _percent}
    environment.filters["task"] = title
    source = resources.files("spa3r.viz").joinpath("vlm_report.html.j2").read_text(encoding="utf-8")
    rows = [data.overall, *data.tasks]
    return environment.from_string(source).render(
        data=data,
        names=METHOD_NAMES,
        methods=[m for m in METHODS if any(m in row.scores for row in rows)],
        controls=[c for c in CONTROLS if any(c in row.differences for row in rows)],
        tiles=_tiles(data.overall),
        table=[_table_row(row) for row in rows],
        forest=_forest(rows),
        examples=[(example, frame_pictures(example)) for example in data.examples],
        supervised=[
            (text, token_runs(text.tokens), learnt_share(text.tokens)) for text in data.supervised
        ],
        curve=tuning_curves(data.curve),
        dropped=sum(sum(reasons.values()) for reasons in data.drops.values()),
        total_seconds=sum(seconds for _, seconds in data.timings),
    )


def _tiles(overall: TaskScores) -> list[dict[str, Any]]:
    """The numbers of the first screen: the score, and how far above each control it is."""
    tiles = []
    if ours := overall.scores.get("model"):
        tiles.append({"name": "Score", "value": _percent(ours.mean), "note": _bounds(ours),
                      "tone": ""})  # fmt: skip
    for control in CONTROLS:
        if found := overall.differences.get(control):
            tiles.append({
                "name": f"minus {METHOD_NAMES[control][0].lower()}",
                "value": _percent(found.mean, "+"),
                "note": _bounds(found, "+"),
                "tone": tone(found),
            })  # fmt: skip
    return tiles


def _table_row(row: TaskScores) -> dict[str, Any]:
    """A task with a cell for each method: score, interval, whether none is better."""
    means = [interval.mean for interval in row.scores.values()]
    best = max(means) if len(set(means)) > 1 else math.nan
    cells = {
        method: {
            "text": _percent(found.mean),
            "bounds": _bounds(found),
            "best": found.mean == best,
        }
        for method, found in row.scores.items()
    }
    return {"row": row, "title": title(row.task), "cells": cells}


def _forest(rows: Sequence[TaskScores]) -> dict[str, Any]:
    """The differences of every task to every control, all on one scale of percentage points: zero
    always inside, a little air at both ends."""
    found = [interval for row in rows for interval in row.differences.values()]
    # An interval of one scene has no bounds: it goes from edge to edge.
    ends = [x for i in found for x in (i.low, i.mean, i.high) if math.isfinite(x)]
    low, high = min(0.0, *ends, 0.0), max(0.0, *ends, 0.0)
    air = 0.06 * max(high - low, 1e-6)
    left, span = low - air, high - low + 2 * air

    def at(value: float) -> float:
        return round(min(max(100 * (value - left) / span, 0.0), 100.0), 2)

    def cell(interval: Interval) -> dict[str, Any]:
        return {
            "from": at(interval.low),
            "width": round(at(interval.high) - at(interval.low), 2),
            "point": at(interval.mean),
            "text": _percent(interval.mean, "+"),
            "bounds": _bounds(interval, "+"),
            "tone": tone(interval),
        }

    lines = [
        (title(row.task), {control: cell(i) for control, i in row.differences.items()})
        for row in rows
        if row.differences
    ]
    return {"rows": lines, "zero": at(0.0)}


def title(task: str) -> str:
    """ "object_counting" -> "Object counting"."""
    return (task[:1].upper() + task[1:]).replace("_", " ")


def tone(interval: Interval) -> str:
    """ "above" or "below" where the whole interval lies on one side of zero, else ""."""
    if interval.low <= 0 <= interval.high:
        return ""
    return "above" if interval.low > 0 else "below"


def _percent(value: float, sign: str = "-") -> str:
    """One decimal with a true minus sign, so that columns of figures line up."""
    return "n/a" if math.isnan(value) else f"{value:{sign}.1f}".replace("-", "\u2212")


def _bounds(interval: Interval, sign: str = "-") -> str:
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return "no interval"
    return f"{_percent(interval.low, sign)} to {_percent(interval.high, sign)}"


def _data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
