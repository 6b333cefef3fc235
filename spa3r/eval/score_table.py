"""The table of an evaluation as text, for a terminal."""

import math
from collections.abc import Sequence

from spa3r.eval.bootstrap import Interval
from spa3r.eval.suite import METHODS, Method
from spa3r.eval.vlm_scores import Row, VlmScores


def text_table(rows: Sequence[Row]) -> str:
    """One line a task: questions, each method's score (0 to 100), and the model minus each control
    with its 95 % interval."""
    methods: list[Method] = [m for m in METHODS if m in rows[0].scores]
    controls: list[Method] = [m for m in methods if m in rows[0].differences]
    cells = [
        ["task", "questions", *methods, *(f"model - {control}" for control in controls)],
        *(
            [
                row.name,
                str(row.questions),
                *(f"{row.scores[m].mean:.1f}" for m in methods),
                *(_told(row.differences[c]) for c in controls),
            ]
            for row in rows
        ),
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  "
        + "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )


def summary(scores: VlmScores) -> str:
    """The overall score of every method, on one line that begins with the suite's name."""
    overall = scores.rows[0]
    against = ", ".join(f"{m} {found.mean:.1f}" for m, found in overall.scores.items())
    return f"{scores.suite} by scorer {scores.scorer}: {against} on {overall.scenes} scenes"


def own_overall(scores: VlmScores) -> str:
    """What the scorer itself gives the model, where that is not the table's overall; else "".

    The two part where questions of a kind are missing: the table is the mean over what questions
    there are, references raise, or leave tasks apart.
    """
    found, ours = scores.methods["model"], scores.rows[0].scores["model"].mean
    if found.overall is None:
        return f"the reference gives no overall: {found.errors[0]}"
    if math.isclose(100 * found.overall / found.scale, ours, abs_tol=1e-6):
        return ""
    return f"the scorer's own overall is {found.overall:.6g} of {found.scale:g}"


def _told(found: Interval) -> str:
    if not math.isfinite(found.low):
        return f"{found.mean:+.1f} (one scene)"
    return f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})"
