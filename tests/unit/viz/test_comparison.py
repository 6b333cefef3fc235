"""The comparison of recipes: what may be compared, and a page that says so and loads nothing."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from spa3r.eval.comparison import ABS_REL, Evaluated, compare, same_measure
from spa3r.eval.field_report import MODEL, FieldReport, summarise
from spa3r.recipes.ablations import TABLE_4_ASSUMED, paper_row
from spa3r.viz.comparison import (
    Comparison,
    Line,
    interval_picture,
    render_page,
    text_table,
    to_json,
)
from tests.unit.viz.fakes import field_report
from tests.unit.viz.test_report import Loads

BASE = field_report()


def shifted(
    by: float, *, without: tuple[str, ...] = (), noise: float = 0.0, control: float = 0.0
) -> FieldReport:
    """BASE with the student's R2 moved and its depth error moved the other way, some scores taken
    away, and one control's R2 moved, as other training statistics do."""
    rng = np.random.default_rng(1)
    rows = []
    for row in BASE.scenes:
        step = by + noise * rng.normal()
        moved = {
            name: value - step if name == ABS_REL else value + step * name.endswith("r2")
            for name, value in row.scores[MODEL].items()
            if not name.startswith(without or "-")
        }
        nearest = row.scores["nearest_context"]
        other = {name: value + control * name.endswith("r2") for name, value in nearest.items()}
        scores = row.scores | {MODEL: moved, "nearest_context": other}
        rows.append(replace(row, scores=scores))
    return summarise(rows, {}, BASE.space, 0)


def evaluated(recipe: str, report: FieldReport, target_hash: str = "aaaa") -> Evaluated:
    return Evaluated(recipe=recipe, field=report, own=report, target_hash=target_hash)


EVALUATED = [
    evaluated("tiny", BASE),
    evaluated("tiny-geometric", shifted(0.02, without=("sem",))),
    evaluated("tiny-mask25", shifted(-0.05, noise=0.02, control=0.01)),
    evaluated("tiny-plucker", shifted(0.001, noise=0.05)),
    evaluated("debug", shifted(0.1), target_hash="bbbbbbbbbb"),
]


def comparison(**changes: object) -> Comparison:
    rows = compare(EVALUATED, "tiny")
    lines = [
        Line(
            recipe=name,
            changed=("clips.mask_ratio = 0.25",) if "mask25" in name else (),
            row=row,
            error="",
            paper=paper_row(name),
            steps=600,
            seconds=171.0,
            report=f"/home/lab/spa3r-home/reports/{name}/report.html",
        )
        for name, row in rows.items()
    ]
    lines.append(
        Line(
            recipe="tiny-mask75", changed=("clips.mask_ratio = 0.75",), row=None,
            error="scene0003_00 is <broken>", paper=paper_row("tiny-mask75"), steps=600,
            seconds=None, report="",
        )
    )  # fmt: skip
    made = Comparison(
        title="Table 6: share of views that are targets (mask ratio); tiny on rooms",
        dataset="rooms", lines=tuple(lines),
        target_hash="60303ae22b998861bce3", remarks=(TABLE_4_ASSUMED,),
        command="spa3r sweep --table 6 --base tiny --dataset rooms",
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(comparison())


def test_differences_are_paired_and_only_of_what_both_predict() -> None:
    rows = compare(EVALUATED, "tiny")
    assert rows["tiny"].differences == {} and rows["tiny"].note == ""
    geometric = rows["tiny-geometric"]
    assert "sem/r2" not in geometric.scores and set(geometric.differences) == {"geo/r2", ABS_REL}
    moved = geometric.differences["geo/r2"]
    # Every scene moved by as much, so nothing is left to draw: the scenes are paired.
    assert moved.low == pytest.approx(0.02) == moved.high
    assert geometric.differences[ABS_REL].mean == pytest.approx(-0.02)


def test_other_questions_give_no_interval_and_say_why() -> None:
    row = compare(EVALUATED, "tiny")["debug"]
    assert row.differences == {} and "other held-out targets (bbbbbbbb" in row.note


def test_kinds_that_the_reference_lacks_are_shown_from_the_own_space() -> None:
    first = evaluated("geometric", shifted(0, without=("sem",)))
    other = replace(evaluated("both", shifted(0.1, without=("sem",))), own=shifted(0.2))
    row = compare([first, other], "geometric")["both"]
    assert row.differences.keys() == {"geo/r2", ABS_REL}
    assert row.scores["geo/r2"] == pytest.approx(BASE.mean[MODEL]["geo/r2"] + 0.1)
    assert row.scores["sem/r2"] == pytest.approx(BASE.mean[MODEL]["sem/r2"] + 0.2)
    assert "sem/r2" in row.controls


def test_another_measure_of_r2_widens_the_interval_by_what_it_does_to_a_control() -> None:
    row = compare(EVALUATED, "tiny")["tiny-mask25"]
    same = evaluated("same measure", shifted(-0.05, noise=0.02))
    sharp = compare([EVALUATED[0], same], "tiny")["same measure"]
    for metric, by in (("geo/r2", 0.01), ("sem/r2", 0.01), (ABS_REL, 0.0)):
        wide, narrow = row.differences[metric], sharp.differences[metric]
        assert (wide.mean, wide.low, wide.high) == pytest.approx(
            (narrow.mean, narrow.low - by, narrow.high + by)
        )
    assert sharp.note == ""
    assert not same_measure(BASE, EVALUATED[2].field) and same_measure(BASE, same.field)
    assert "other training clips" in row.note and "up to 0.010" in row.note


def test_scenes_that_one_recipe_lacks_do_not_count() -> None:
    fewer = summarise(BASE.scenes[:5], {}, BASE.space, 0)
    rows = compare([EVALUATED[0], evaluated("less", fewer)], "tiny")
    assert rows["less"].scenes == 5 and rows["less"].differences["geo/r2"].mean == 0.0


def test_without_the_reference_there_are_no_differences() -> None:
    rows = compare(EVALUATED[1:], "tiny")
    assert list(rows) == [one.recipe for one in EVALUATED[1:]]
    assert all(row.differences == {} and row.note == "" for row in rows.values())


def test_the_hardest_control_is_the_best_one_of_each_metric() -> None:
    row = compare(EVALUATED, "tiny")["tiny"]
    assert row.controls["geo/r2"] == ("nearest_context", BASE.mean["nearest_context"]["geo/r2"])
    scores = [m[ABS_REL] for name, m in BASE.mean.items() if name != MODEL and ABS_REL in m]
    assert row.controls[ABS_REL][1] == min(scores)


def test_the_page_loads_nothing_and_is_well_formed(page: str) -> None:
    loads = Loads(page)
    assert loads.open == []
    assert loads.urls and all(url.startswith("data:image/png") for url in loads.urls)
    assert loads.ids == ["table", "differences", "reading", "places"]


def test_the_page_says_what_failed_and_what_cannot_be_compared(page: str) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL))
    for said in (
        "the same 12 held-out scenes", "scene0003_00 is &lt;broken&gt;", "cannot be compared",
        "other held-out targets", "60303ae22b998861", "check marks", "clips.mask_ratio = 0.25",
        "nearest context", "VSI-Bench", "57.5", "2.9 min", "--table 6",
    ):  # fmt: skip
        assert said in text, said


def test_colours_follow_what_is_better(page: str) -> None:
    assert 'class="better">+0.020' in page  # R2 up
    assert 'class="better">\u22120.020' in page  # depth error down
    assert 'class="worse">\u22120.0' in page
    assert 'class="">' in page  # an interval around zero


def test_without_the_reference_the_page_says_so() -> None:
    lines = comparison().lines
    failed = replace(lines[-1], recipe="tiny")
    rows = compare(EVALUATED[1:], "tiny")
    rest = [replace(line, row=rows[line.recipe]) for line in lines[1:-1]]
    alone = comparison(lines=(failed, *rest), target_hash="")
    assert interval_picture(alone) == b""
    page = render_page(alone)
    assert "there is nothing to take differences to" in page and 'id="differences"' not in page


def test_json_and_terminal_have_the_same_numbers() -> None:
    made = comparison()
    plain = json.loads(json.dumps(to_json(made)))
    row = plain["lines"][1]["row"]
    assert row["differences"]["geo/r2"]["mean"] == pytest.approx(0.02)
    assert plain["lines"][2]["paper"]["average"] == 57.5 and "VSI-Bench" in plain["paper"]
    assert plain["remarks"] == [TABLE_4_ASSUMED]
    head, label, *lines, remark = text_table(made).splitlines()
    at = head.index("Geometric R²")
    assert label[at:].startswith("[difference to tiny, 95 %]") and remark == TABLE_4_ASSUMED
    assert [line.split()[0] for line in lines] == [line["recipe"] for line in plain["lines"]]
    assert lines[1][at:].startswith(f"{row['scores']['geo/r2']:.3f} [+0.020, +0.020]")
    assert "failed" in lines[-1]
    alone = text_table(comparison(lines=made.lines[:1]))
    assert "difference" not in alone.removesuffix(TABLE_4_ASSUMED)


def test_the_same_lines_give_the_same_bytes(page: str) -> None:
    assert render_page(comparison()) == page
