"""Curves of a tuning run as one SVG: the same bytes for the same numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from spa3r.viz.curves import GRID, INK, MUTED, STYLE, draw_smoothed, svg

_LOSSES: Final = ("text", "total")
"""Names of the loss in nats a supervised token, the first one that is there."""
_VALIDATION: Final = "validation/"
"""Prefix of held-out measurements in metrics.jsonl."""


def tuning_curves(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """SVG: the loss over optimizer steps (held-out loss dashed where it was measured) beside the
    learning rate. b"" where no loss was logged.

    Args:
        rows: lines of metrics.jsonl, each with "step".
    """
    loss = next((name for name in _LOSSES if any(name in row for row in rows)), None)
    if loss is None:
        return b""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(2.6, 1))
        draw_smoothed(left, _points(rows, loss), "training", INK)
        if len(held_out := _points(rows, f"{_VALIDATION}{loss}")):
            left.plot(*held_out.T, "o--", color="#0b6e99", linewidth=1.3, markersize=3,
                      label="held out")  # fmt: skip
            left.legend(frameon=False, fontsize=7.5)
        if len(rate := _points(rows, "lr")):
            right.plot(*rate.T, color=MUTED, linewidth=1.4)
        right.set_ylim(bottom=0)
        right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        for panel, title in ((left, "Loss, nats a learnt token"), (right, "Learning rate")):
            panel.set_title(title, loc="left", fontsize=9, fontweight="bold")
            panel.set_xlabel("step")
            panel.tick_params(length=0, color=GRID)
        return svg(figure)


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """(P, 2) of step and value."""
    points = [(row["step"], row[name]) for row in rows if name in row]
    return np.array(points, dtype=np.float64).reshape(-1, 2)
