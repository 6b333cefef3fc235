"""The table: rows, intervals by scene, differences to the controls."""

import json
import math

import numpy as np
import pytest

from spa3r.eval.bootstrap import paired_interval
from spa3r.eval.score_table import own_overall
from spa3r.eval.suite import Method, Prediction, Question
from spa3r.eval.vlm_scores import VlmScores, table
from tests.suite_makers import vsi_doc
from tests.unit.eval.test_suites import questions

TASKS = ("object_counting", "object_abs_distance", "object_rel_direction_easy", "route_planning")
SHARES: dict[Method, float] = {"model": 0.8, "blind": 0.4}


def asked(scenes: int) -> list[Question]:
    docs = [
        vsi_doc(len(TASKS) * scene + n, task, scene_name=f"scene{scene:04d}_00")
        for scene in range(scenes)
        for n, task in enumerate(TASKS)
    ]
    return questions("vsi-bench", docs)


def answers(some: list[Question], method: Method, right: float) -> list[Prediction]:
    """Right ones at a fixed share of the scenes, and wrong ones."""
    rng = np.random.default_rng(len(method))
    lucky = {scene: rng.random() < right for scene in sorted({q.scene for q in some})}
    return [
        Prediction(
            question=q.id, method=method, raw=q.doc["ground_truth"] if lucky[q.scene] else ""
        )
        for q in some
    ]


def scores_of(scenes: int, shares: dict[Method, float]) -> VlmScores:
    some = asked(scenes)
    return table("vsi-bench", some, {m: answers(some, m, share) for m, share in shares.items()})


def test_rows_intervals_and_differences() -> None:
    found = scores_of(40, {"model": 0.9, "blind": 0.2, "no_geometry": 0.9})
    names = [row.name for row in found.rows]
    assert names[:2] == ["overall", "numerical"]
    assert set(TASKS) <= set(names)
    overall = found.rows[0]
    assert (overall.questions, overall.scenes) == (160, 40)
    assert overall.scores["model"].low < overall.scores["model"].mean < overall.scores["model"].high
    blind = overall.differences["blind"]
    assert blind.low > 0
    assert blind.mean == pytest.approx(overall.scores["model"].mean - overall.scores["blind"].mean)
    assert overall.scores["model"].mean == pytest.approx(found.methods["model"].overall)
    assert found.unparsed["blind"] == sum(not q.scores["blind"] for q in found.questions)
    assert "shuffled" not in overall.differences


def test_the_scorers_own_overall_is_told_where_it_is_another() -> None:
    docs = [vsi_doc(0), vsi_doc(1, "object_rel_direction_hard"),
            vsi_doc(2, "object_rel_direction_medium", ground_truth="A")]  # fmt: skip
    some = questions("vsi-bench", docs)
    said: dict[Method, list[Prediction]] = {
        "model": [Prediction(question=q.id, method="model", raw="B") for q in some]
    }
    assert own_overall(table("vsi-bench", some, said, "strict")) == ""
    # the easy kind is missing: the benchmark's own code takes the others for tasks of their own
    apart = own_overall(table("vsi-bench", some, said, "official"))
    assert apart == "the scorer's own overall is 33.3333 of 100"
    raised = own_overall(table("vsi-bench", some, said, "lmms-eval"))
    assert raised.startswith("the reference gives no overall: KeyError: ")


def test_equal_answers_differ_by_nothing() -> None:
    some = asked(10)
    same = answers(some, "model", 0.5)
    twin = [Prediction(question=p.question, method="shuffled", raw=p.raw) for p in same]
    row = table("vsi-bench", some, {"model": same, "shuffled": twin}).rows[0]
    difference = row.differences["shuffled"]
    assert (difference.low, difference.mean, difference.high) == (0, 0, 0)


def test_the_same_bytes_every_time() -> None:
    first, second = (scores_of(12, {"model": 0.6, "blind": 0.3}).to_json() for _ in range(2))
    assert json.dumps(first) == json.dumps(second)


def test_one_scene_has_no_bounds() -> None:
    found = scores_of(1, {"model": 1.0, "blind": 0.0})
    assert found.rows[0].scores["model"].low == -math.inf
    assert found.to_json()["rows"][0]["scores"]["model"]["low"] is None
    json.dumps(found.to_json(), allow_nan=False)


def test_one_question_a_scene_gives_the_interval_over_scenes() -> None:
    some = questions("vsi-bench", [vsi_doc(n, scene_name=f"s{n:02d}") for n in range(30)])
    given: dict[Method, list[Prediction]] = {
        m: answers(some, m, share) for m, share in SHARES.items()
    }
    found = table("vsi-bench", some, given).rows[0].differences["blind"]
    ours, theirs = ([100.0 * bool(p.raw) for p in given[m]] for m in SHARES)
    wanted = paired_interval(ours, theirs, seed=1)
    assert found.mean == pytest.approx(wanted.mean)
    assert found.low == pytest.approx(wanted.low, abs=2.0)
    assert found.high == pytest.approx(wanted.high, abs=2.0)


def test_a_scene_is_drawn_with_all_its_questions() -> None:
    """Ten answers about one scene know as much as one."""
    one, ten = (
        questions("vsi-bench", [vsi_doc(n, scene_name=f"s{n % 8}") for n in range(8 * copies)])
        for copies in (1, 10)
    )
    widths = [
        (found := table("vsi-bench", some, {"model": answers(some, "model", 0.5)}).rows[0].scores)[
            "model"
        ].high
        - found["model"].low
        for some in (one, ten)
    ]
    assert widths[1] == pytest.approx(widths[0])
