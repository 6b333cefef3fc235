import math
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from spa3r.eval.bootstrap import Interval
from spa3r.eval.field_report import summarise
from spa3r.eval.gate import field_gate
from spa3r.viz.curves import loss_curves
from spa3r.viz.report import ReportData, render_report, write_report
from tests.unit.viz.fakes import field_report, metrics_rows, report_data


class Loads(HTMLParser):
    """Everything a browser would fetch, and whether every tag is closed."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        self.urls += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "data")]
        self.ids += [v or "" for k, v in attrs if k == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(report_data(clips=4))


def test_it_loads_nothing_and_is_well_formed(html: str) -> None:
    page = Loads(html)
    assert page.open == []
    assert page.urls and all(url.startswith("data:image/") for url in page.urls)
    assert not re.search(r"@import|url\(", html)


def test_every_section_is_there(html: str) -> None:
    assert Loads(html).ids == ["quality", "clips", "data", "curves", "timings", "places"]
    assert html.count('<figure class="clip">') == 4
    for text in ("This model", "Wrong camera", "Nearest context view", "invalid pose",
                 "9f86d081884c7d65", "mlflow ui", "torch 2.13.0", "2 min 51 s"):  # fmt: skip
        assert text in html


def test_the_first_lines_name_the_teacher_and_what_it_means(html: str) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html.split("</h1>")[1])).strip()
    assert text.startswith("Teacher: rgbd, which has no weights.")
    assert "say nothing about how well it would predict VGGT's features" in text


def test_other_teachers_are_named_as_well() -> None:
    teacher = {"kind": "vggt", "uri": "facebook/VGGT-1B", "hash": "ab", "variant": "layernorm"}
    page = render_report(replace(report_data(), geometric_teacher=teacher, semantic_teacher=None))
    assert "facebook/VGGT-1B" in page and "There are no semantic targets" in page
    assert "has no weights" not in page and "not recorded" in page


def spoken() -> ReportData:
    """With linguistic targets: the semantic numbers under another name."""
    data = report_data()
    scenes = tuple(
        replace(row, scores={method: with_lang(scores) for method, scores in row.scores.items()})
        for row in data.field.scenes
    )
    return replace(
        data,
        field=summarise(scenes, {}, "standardised", 0),
        linguistic_teacher={"kind": "clip", "uri": "openai/clip", "hash": "11", "variant": ""},
        metrics=[with_lang(row) for row in data.metrics],
    )


def with_lang(values: Mapping[str, float]) -> dict[str, float]:
    return {**values, **{k.replace("sem/", "lang/"): v for k, v in values.items()}}


def test_linguistic_features_are_shown_where_they_are(html: str) -> None:
    page = render_report(spoken())
    assert "Linguistic targets are patch tokens of clip (<code>openai/clip</code>)" in page
    assert ">Linguistic features</th>" in page
    assert "Linguistic R²: this model minus each control" in page
    assert Loads(page).open == []
    assert "inguistic" not in re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL)


def test_a_failed_gate_is_said(html: str) -> None:
    assert "Gate passed" in html
    field = field_report(scenes=5)
    page = render_report(replace(report_data(), field=field, verdict=field_gate(field)))
    assert "Gate not passed" in page and "5 held-out scenes, at least 8" in page


def test_a_number_behind_its_best_control_says_so(html: str) -> None:
    assert "behind the best control" not in html
    field = field_report()
    mean = {**field.mean, "model": {**field.mean["model"], "depth/abs_rel": 0.9}}
    page = render_report(replace(report_data(), field=replace(field, mean=mean)))
    assert page.count("behind the best control") == 1


def test_what_was_left_out_is_named_and_escaped() -> None:
    field = replace(field_report(), left_out={"rooms/<b>x": "no valid target token"})
    assert "rooms/&lt;b&gt;x (no valid target token)" in render_report(
        replace(report_data(), field=field)
    )


def test_a_report_without_clips_or_metrics_still_renders() -> None:
    page = render_report(replace(report_data(), examples=[], metrics=[], timings=[]))
    assert Loads(page).open == [] and '<figure class="clip">' not in page


def test_the_same_data_gives_the_same_bytes(tmp_path: Path, html: str) -> None:
    write_report(tmp_path / "report.html", report_data(clips=4))
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html


def test_curves_draw_what_was_logged_and_nothing_else() -> None:
    rows = [{k: v for k, v in row.items() if not k.startswith("sem")} for row in metrics_rows(200)]
    assert loss_curves(rows) == loss_curves(rows) != loss_curves(metrics_rows(200))
    more = [with_lang(row) for row in metrics_rows(200)]
    assert loss_curves(more) != loss_curves(metrics_rows(200))


def test_an_interval_without_bounds_goes_from_edge_to_edge() -> None:
    field = field_report()
    unbounded = Interval(mean=0.1, low=-math.inf, high=math.inf)
    rows = {**field.differences["geo/r2"], "wrong_camera": unbounded}
    field = replace(field, differences={**field.differences, "geo/r2": rows})
    page = render_report(replace(report_data(), examples=[], metrics=[], field=field))
    assert "\u2212inf to +inf" in page and "nan" not in page and "inf%" not in page
