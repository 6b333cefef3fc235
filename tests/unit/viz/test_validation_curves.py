"""Held-out scores over the steps of a run, where it was validated."""

from dataclasses import replace

from spa3r.eval.controls import CONTROLS
from spa3r.eval.field_report import MODEL
from spa3r.viz.curves import validation_curves
from spa3r.viz.report import render_report
from tests.unit.viz.fakes import metrics_rows, report_data

METHODS = (MODEL, *CONTROLS)


def validated(metrics: tuple[str, ...]) -> list[dict[str, float]]:
    """Lines of a run's metrics with a validation after every hundredth step."""
    rows = metrics_rows(300)
    for step in (100, 200, 300):
        scores = {f"field/{m}/{name}": 0.1 * i + step / 1000
                  for i, m in enumerate(METHODS) for name in metrics}  # fmt: skip
        rows.append({"step": step, **scores})
    return sorted(rows, key=lambda row: row["step"])


def test_one_panel_a_metric_and_the_same_bytes_again() -> None:
    one, two = (validated(metrics) for metrics in (("geo/r2",), ("geo/r2", "depth/abs_rel")))
    assert validation_curves(two) == validation_curves(two) != validation_curves(one)
    assert b"<svg" in validation_curves(one)


def test_without_validation_there_is_no_picture() -> None:
    assert validation_curves(metrics_rows(100)) == b""
    page = "Held-out scores over optimizer steps"
    data = report_data(clips=0)
    assert page not in render_report(data)
    assert page in render_report(replace(data, metrics=validated(("geo/r2", "sem/r2"))))
