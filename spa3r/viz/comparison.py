"""The comparison of a sweep's recipes: one HTML page that loads nothing, and the same as JSON.

The same lines give the same bytes: there is no clock in here; times are data.
"""

import base64
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import jinja2
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spa3r.eval.bootstrap import Interval
from spa3r.eval.comparison import ABS_REL, METRICS, Row
from spa3r.recipes.ablations import PaperRow

_INK, _MUTED, _GRID, _GOOD, _BAD = "#1d2733", "#66717e", "#e3e6ea", "#1f7a45", "#b23a2a"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.edgecolor": _GRID,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.grid": True, "axes.grid.axis": "x", "grid.color": _GRID, "grid.linewidth": 0.7,
    "axes.axisbelow": True, "xtick.color": _MUTED, "ytick.color": _INK, "text.color": _INK,
}  # fmt: skip
PAPER_REMARK: Final = (
    "The last column is the paper's own ablation: accuracy in percent on VSI-Bench, of a language"
    " model tuned on top of the encoder. It is another measure of another model on other data. It"
    " stands there to see whether the order agrees; its figures cannot be compared with any other"
    " column."
)
HEADINGS: Final = {
    "geo/r2": "Geometric R²",
    "sem/r2": "Semantic R²",
    "lang/r2": "Linguistic R²",
    ABS_REL: "Depth abs-rel",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One recipe of a sweep."""

    recipe: str
    changed: tuple[str, ...]
    """Settings in which it differs from the first recipe, as "clips.mask_ratio 0.25"."""
    row: Row | None
    """None: it failed."""
    error: str
    paper: PaperRow
    steps: int
    seconds: float | None
    """Wall clock of its training on this machine; None: not recorded."""
    report: str
    """Place of its own report; "" where it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All that the page shows."""

    title: str
    dataset: str
    lines: tuple[Line, ...]
    """The first one is what the others are compared with."""
    target_hash: str
    """Of the first recipe's held-out targets; "" where it failed."""
    remarks: tuple[str, ...]
    """What has to be known to read the table."""
    command: str
    """Makes this page again, and continues what is not finished."""

    @property
    def first(self) -> Line:
        return self.lines[0]

    @property
    def metrics(self) -> list[str]:
        """Those that any recipe has."""
        rows = [line.row for line in self.lines if line.row]
        return [name for name in METRICS if any(name in row.scores for row in rows)]


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Plain JSON-ready dictionary."""
    return dataclasses.asdict(comparison) | {"paper": PAPER_REMARK}


def render_page(comparison: Comparison) -> str:
    """The page as one HTML document."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "time": _time, "tone": _tone}
    source = resources.files("spa3r.viz").joinpath("comparison.html.j2").read_text(encoding="utf-8")
    picture = interval_picture(comparison)
    return environment.from_string(source).render(
        page=comparison,
        headings=HEADINGS,
        abs_rel=ABS_REL,
        paper_remark=PAPER_REMARK,
        done=[line for line in comparison.lines if line.row],
        failed=[line for line in comparison.lines if line.error],
        best=_best(comparison),
        picture=base64.b64encode(picture).decode() if picture else "",
    )


def text_table(comparison: Comparison) -> str:
    """The table for a terminal: means, and in brackets the 95 % interval of the difference; below
    it the remarks."""
    metrics = comparison.metrics
    rows = [["recipe", *(HEADINGS[name] for name in metrics), "steps", "time"]]
    if any(_differences(line) for line in comparison.lines):
        label = f"[difference to {comparison.first.recipe}, 95 %]"
        rows.append(["", *(label for _ in metrics), "", ""])
    for line in comparison.lines:
        cells = [_cell(line.row, name) for name in metrics]
        rows.append([line.recipe, *cells, str(line.steps), _time(line.seconds)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*table, *comparison.remarks])


def interval_picture(comparison: Comparison) -> bytes:
    """PNG: per metric, each recipe's difference to the first and its 95 % interval.

    Returns:
        b"" where there is no difference to show.
    """
    lines = [line for line in comparison.lines if line.row and line.row.differences]
    metrics = [name for name in METRICS if any(name in _differences(line) for line in lines)]
    if not metrics:
        return b""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 1.0 + 0.36 * len(lines)), layout="constrained", dpi=200)
        panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for panel, metric in zip(panels, metrics, strict=True):
            _draw(panel, lines, metric)
        panels[0].set_yticks(range(len(lines)), [line.recipe for line in lines])
        panels[0].set_ylim(len(lines) - 0.5, -0.5)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw(axes: Axes, lines: Sequence[Line], metric: str) -> None:
    """One panel; it has no mark where a recipe has not the metric."""
    lower = metric == ABS_REL
    title = f"{HEADINGS[metric]} {'(lower is better)' if lower else ''}"
    axes.set_title(title.strip(), loc="left", fontsize=9, fontweight="bold")
    axes.axvline(0, color=_MUTED, linewidth=1)
    axes.tick_params(length=0)
    axes.locator_params(axis="x", nbins=5)
    for y, line in enumerate(lines):
        if found := _differences(line).get(metric):
            colour = {"better": _GOOD, "worse": _BAD, "": _MUTED}[_tone(found, metric)]
            axes.plot([found.low, found.high], [y, y], color=colour, linewidth=2)
            axes.plot([found.mean], [y], "o", color=colour, markersize=5.5)


def _differences(line: Line) -> dict[str, Interval]:
    return line.row.differences if line.row else {}


def _best(comparison: Comparison) -> dict[str, float]:
    """The best score of each metric, over recipes that may be compared; none of one alone."""
    first = comparison.first.row
    rows = [line.row for line in comparison.lines if line.row]
    rows = [row for row in rows if row is first or row.differences]
    best: dict[str, float] = {}
    for name in comparison.metrics:
        values = [row.scores[name] for row in rows if name in row.scores]
        if len(values) > 1:
            best[name] = (min if name == ABS_REL else max)(values)
    return best


def _tone(interval: Interval, metric: str) -> str:
    """ "better" or "worse" where the whole interval lies on one side of zero, else ""."""
    if interval.low <= 0 <= interval.high:
        return ""
    return "better" if (interval.low > 0) != (metric == ABS_REL) else "worse"


def _cell(row: Row | None, metric: str) -> str:
    if row is None:
        return "failed"
    text = _number(row.scores.get(metric))
    found = row.differences.get(metric)
    return f"{text} [{_number(found.low, '+')}, {_number(found.high, '+')}]" if found else text


def _number(value: float | None, sign: str = "-") -> str:
    """Three decimals with a true minus sign, so that columns of figures line up."""
    return "-" if value is None else f"{value:{sign}.3f}".replace("-", "\u2212")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
