"""Curves of a run, losses and validation, each as one SVG: the same bytes for the same numbers."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spa3r.eval.controls import CONTROLS
from spa3r.eval.field_report import MODEL

INK, MUTED, GRID = "#1d2733", "#66717e", "#e3e6ea"
_PARTS = {  # loss part -> (panel, name, colour)
    "total": (0, "total", INK),
    "geo/l1": (1, "geometric, L1", "#0b6e99"),
    "sem/l1": (1, "semantic, L1", "#c2571a"),
    "lang/l1": (1, "linguistic, L1", "#6a4c93"),
    "geo/cos": (2, "geometric, 1 - cosine", "#0b6e99"),
    "sem/cos": (2, "semantic, 1 - cosine", "#c2571a"),
    "lang/cos": (2, "linguistic, 1 - cosine", "#6a4c93"),
    "depth_prob": (3, "depth probe", "#5b7f2b"),
}
_VALIDATED = {  # metric -> (title, the better control is)
    "geo/r2": ("Geometric R²", max),
    "sem/r2": ("Semantic R²", max),
    "lang/r2": ("Linguistic R²", max),
    "depth/abs_rel": ("Depth abs-rel, lower is better", min),
}
_TITLES = ("Total loss", "Feature error", "Feature angle", "Depth probe")
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 8.5, "svg.hashsalt": "spa3r",
    "axes.edgecolor": GRID, "axes.labelcolor": MUTED, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.7,
    "axes.axisbelow": True, "xtick.color": MUTED, "ytick.color": MUTED, "text.color": INK,
}  # fmt: skip


def loss_curves(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """SVG of the loss parts over optimizer steps: faint raw values, solid running mean.

    Args:
        rows: lines of metrics.jsonl (spa3r/train/metrics.py), each with "step" and any of the loss
            parts of spa3r/models/losses.py.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.5), layout="constrained")
        axes = figure.subplots(1, len(_TITLES))
        for panel, title in zip(axes, _TITLES, strict=True):
            panel.set_title(title, loc="left", fontsize=9, fontweight="bold")
            panel.set_xlabel("step")
            panel.tick_params(length=0)
        for part, (index, name, colour) in _PARTS.items():
            points = [(row["step"], row[part]) for row in rows if part in row]
            if points:
                draw_smoothed(axes[index], np.array(points, dtype=np.float64), name, colour)
        for panel in axes[1:3]:
            if panel.lines:
                panel.legend(frameon=False, fontsize=7.5, handlelength=1.2)
        return svg(figure)


def validation_curves(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """SVG of the held-out scores over optimizer steps: the student solid, the hardest of the five
    controls dashed. b"" where a run has no validation.

    Args:
        rows: lines of metrics.jsonl; those of a validation have "field/<method>/<metric>".
    """
    student = f"field/{MODEL}/"
    shown = [name for name in _VALIDATED if any(f"{student}{name}" in row for row in rows)]
    if not shown:
        return b""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.3), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            title, hardest = _VALIDATED[name]
            axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
            axes.set_xlabel("step")
            axes.tick_params(length=0)
            measured = [row for row in rows if f"{student}{name}" in row]
            steps = [row["step"] for row in measured]
            controls = [
                hardest(row[key] for c in CONTROLS if (key := f"field/{c}/{name}") in row)
                for row in measured
            ]
            axes.plot(steps, controls, "--", color=MUTED, linewidth=1.2, label="hardest control")
            axes.plot(steps, [row[f"{student}{name}"] for row in measured], "o-", color=INK,
                      linewidth=1.6, markersize=3, label="student")  # fmt: skip
        figure.axes[0].legend(frameon=False, fontsize=7.5, handlelength=1.6)
        return svg(figure)


def svg(figure: Figure) -> bytes:
    """The figure, without the time of drawing."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def draw_smoothed(axes: Axes, points_P2: np.ndarray, name: str, colour: str) -> None:
    """Values over steps, faint, and their running mean, solid."""
    step_P, value_P = points_P2.T
    width = max(1, len(value_P) // 20)
    kernel = np.ones(width)
    # Ends are averaged over the part of the window that exists, not padded.
    smooth_P = np.convolve(value_P, kernel, "same") / np.convolve(
        np.ones_like(value_P), kernel, "same"
    )
    if width > 1:
        axes.plot(step_P, value_P, color=colour, alpha=0.22, linewidth=0.8)
    axes.plot(step_P, smooth_P, color=colour, linewidth=1.6, label=name)
    axes.set_ylim(bottom=0)
