import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spa3r.eval.bootstrap import Interval
from spa3r.viz.token_mask import learnt_share, supervised_tokens, token_runs
from spa3r.viz.tuning_curves import tuning_curves
from spa3r.viz.vlm_pictures import frame_pictures
from spa3r.viz.vlm_report import (
    QuestionExample,
    VlmReportData,
    render_vlm_report,
    tone,
    write_vlm_report,
)
from tests.unit.viz.test_report import Loads
from tests.unit.viz.vlm_fakes import TASKS, conversation, curve, example, vlm_report_data


@pytest.fixture(scope="module")
def html() -> str:
    return render_vlm_report(vlm_report_data())


class Page(Loads):
    VOID = frozenset({"meta", "img", "br"})


def words(html: str) -> str:
    """What a reader sees, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL))


def test_it_loads_nothing_is_well_formed_and_the_same_twice(html: str, tmp_path: Path) -> None:
    page = Page(html)
    assert page.open == []
    assert page.urls and all(url.startswith("data:image/") for url in page.urls)
    assert not re.search(r"@import|url\(", html)
    write_vlm_report(tmp_path / "r.html", vlm_report_data())
    assert (tmp_path / "r.html").read_text() == html


def test_every_section_is_there(html: str) -> None:
    sections = ["scores", "published", "examples", "supervised", "curve", "drops", "run"]
    assert Page(html).ids == sections


def test_scorer_frames_prompt_and_decoding_are_named(html: str) -> None:
    seen = words(html)
    assert "Scorer: strict (this project's)" in seen.replace("&#39;", "'")
    assert "Frames a question: 4 (2 questions), 6 (190 questions)" in seen
    assert "Decoding: greedy, at most 64 new tokens" in seen
    assert "You are a helpful assistant." in seen
    assert "Tiny, and tuned for seconds" in seen


def test_every_task_has_a_score_an_interval_and_its_controls(html: str) -> None:
    rows = re.findall(r"<tr[^>]*><td>(?:.(?!</tr>))*", html.split('class="scores"')[1], re.DOTALL)
    assert len(rows) >= 1 + len(TASKS)
    data = vlm_report_data()
    for row in (data.overall, *data.tasks):
        for method, found in row.scores.items():
            assert f">{found.mean:.1f}<small>{found.low:.1f} to {found.high:.1f}</small>" in html, (
                row.task, method,
            )  # fmt: skip
        for found in row.differences.values():
            assert f"{found.low:+.1f} to {found.high:+.1f}".replace("-", "\u2212") in html
    assert html.count('class="against"') == 3 * (1 + len(TASKS))
    assert "Spa3-VLM 2, Blind 0" in words(html)


def test_an_interval_is_coloured_only_where_it_excludes_zero() -> None:
    def told(mean: float, low: float, high: float) -> str:
        return tone(Interval(mean=mean, low=low, high=high))

    assert told(2, 1, 3) == "above" and told(-2, -3, -1) == "below"
    assert told(2, -1, 5) == told(0, 0, 0) == told(1, -math.inf, math.inf) == ""


def test_the_gate_says_what_it_said(html: str) -> None:
    assert "Gate not passed" in words(html) and "lower bound -1.2" in html
    assert "Gate" not in words(render_vlm_report(replace(vlm_report_data(), gate=None)))


def test_published_scores_of_other_questions_are_marked(html: str) -> None:
    assert "Not the questions of this report" in html and "58.6" in html
    same = replace(vlm_report_data().published[0], same_questions=True)
    page = render_vlm_report(replace(vlm_report_data(), published=[same]))
    assert "Not the questions" not in page


def test_examples_are_escaped_and_show_frames_answers_and_shares(html: str) -> None:
    assert html.count('<article class="example right">') == 2
    assert html.count('<article class="example">') == 1
    assert "&lt;b&gt;2&lt;/b&gt;" in html and "<b>2</b>" not in html
    assert "(nothing)" in html
    shares = example(0).view_shares
    assert shares is not None
    for share in shares:
        assert f"{100 * share:.1f} %" in html
    pictures = frame_pictures(example(0))
    assert max(picture.bar for picture in pictures) == 100
    assert len({picture.jpeg for picture in pictures}) == 6


def test_an_example_without_pictures_or_with_too_few_names() -> None:
    bare = replace(
        example(0), frames_VHW3=np.zeros((0, 1, 1, 3), np.uint8), frame_names=(), view_shares=None
    )
    assert frame_pictures(bare) == []
    page = render_vlm_report(replace(vlm_report_data(), examples=[bare]))
    assert '<div class="frames">' not in page
    odd: QuestionExample = replace(example(0), view_shares=(1.0,))
    with pytest.raises(ValueError, match="q000: 6 frames, but 6 names and 1 shares"):
        frame_pictures(odd)


def test_what_is_not_there_has_no_section() -> None:
    data = vlm_report_data()
    least = VlmReportData(
        title=data.title, suite=data.suite, scorer=data.scorer, tasks=[], frames={}, prompt="",
        overall=replace(data.overall, differences={}, scores={"model": one_scene()}), decoding="",
    )  # fmt: skip
    page = render_vlm_report(least)
    assert Page(page).ids == ["scores", "run"] and Page(page).open == []
    assert "no interval" in page


def one_scene() -> Interval:
    return Interval(mean=50.0, low=-math.inf, high=math.inf)


# --- what is learnt -------------------------------------------------------------------------------


def test_the_picture_of_tokens_marks_the_assistants_words_alone(html: str) -> None:
    learnt = re.findall(r'<span class="learnt (?:special)?">([^<]*)</span>', html)
    assert learnt == ["1", "1", "&lt;|im_end|&gt;"]
    assert "&lt;|image_pad|&gt; \u00d7 126" in html
    assert "3 of 145 tokens are learnt" in html
    assert html.count("\u21b5</span><br>") == 4


def test_runs_gather_placeholders_and_nothing_else() -> None:
    tokens = [("<|image_pad|>", False)] * 3 + [("a", True), ("a", True), ("<|im_end|>", False)]
    runs = token_runs(tokens)
    assert [(run.text, run.times) for run in runs] == [
        ("<|image_pad|>", 3), ("a", 1), ("a", 1), ("<|im_end|>", 1),
    ]  # fmt: skip
    assert learnt_share(conversation().tokens) == (3, 145)


def test_tokens_and_labels_that_do_not_fit_are_refused() -> None:
    assert supervised_tokens([5, 6], [-100, 6], str) == [("5", False), ("6", True)]
    with pytest.raises(ValueError, match="labels are shifted"):
        supervised_tokens([5, 6], [6, -100], str)
    with pytest.raises(ValueError, match="2 tokens, but 1 labels"):
        supervised_tokens([5, 6], [-100], str)


# --- the curve ------------------------------------------------------------------------------------


def test_the_curve_shows_training_and_held_out_loss() -> None:
    rows = curve()
    whole, bare = tuning_curves(rows), tuning_curves([r for r in rows if "text" in r])
    assert whole == tuning_curves(rows) and b"held out" in whole and b"held out" not in bare
    assert tuning_curves([{"step": 1, "lr": 0.1}]) == b""
