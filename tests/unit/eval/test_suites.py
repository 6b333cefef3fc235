"""Scores of a whole suite by each scorer; the references themselves are in tests/parity."""

from typing import Any

import pytest

from spa3r import suite_commands
from spa3r.errors import ConfigError
from spa3r.eval import spar_bench, vsi_bench
from spa3r.eval.suite import Prediction, Question
from spa3r.eval.suite_rules import SCORERS
from spa3r.eval.suites import SUITES, score
from tests.suite_makers import cv_doc, spar_doc, view_doc, vsi_doc


def questions(name: str, docs: list[dict[str, Any]]) -> list[Question]:
    suite = SUITES[name]
    return [
        Question(
            id=suite.identity(doc, n), task=suite.task_of(doc), prompt=suite.prompt(doc),
            media_kind="images", media=suite.media(doc), scene=suite.scene(doc), doc=doc,
        )
        for n, doc in enumerate(docs)
    ]  # fmt: skip


def overall(name: str, docs: list[dict[str, Any]], answers: list[str], scorer: str) -> float | None:
    asked = questions(name, docs)
    raw = {q.id: a for q, a in zip(asked, answers, strict=True)}
    return score(name, asked, raw, scorer).overall


def test_vsi_bench_is_the_mean_of_tasks_with_directions_as_one() -> None:
    tasks = ("object_counting", *vsi_bench.DIRECTIONS, "object_counting")
    docs = [vsi_doc(n, task) for n, task in enumerate(tasks)]
    found = score(
        "vsi-bench", (asked := questions("vsi-bench", docs)),
        {q.id: a for q, a in zip(asked, ["3", "B", "A", "A", "3"], strict=True)},
    )  # fmt: skip
    assert found.overall == pytest.approx(100 * (1 + 1 / 3) / 2)
    assert found.tasks["object_rel_direction"] == pytest.approx(100 / 3)
    assert found.tasks["object_rel_direction_easy"] == 100
    assert found.tasks["overall"] == pytest.approx(found.overall)
    assert (found.scale, found.errors) == (100, ())


def test_published_run_of_vsi_bench() -> None:
    """Real run (mengxyokok, qwen3.6-27b): its overall is the mean of its eight tasks."""
    eight = (62.372, 48.993, 75.435, 62.361, 69.718, 79.289, 56.186, 80.097)
    assert sum(eight) / 8 == pytest.approx(66.806, abs=1e-3)
    tasks = [vsi_bench.DIRECTION, *vsi_bench.NUMBER_TASKS, *vsi_bench.OPTION_TASKS[3:]]
    assert len(tasks) == len(eight)


def test_a_missing_direction_raises_in_the_references_only() -> None:
    docs = [vsi_doc(0), vsi_doc(1, "object_rel_direction_easy")]
    for scorer in ("official", "lmms-eval"):
        asked = questions("vsi-bench", docs)
        found = score("vsi-bench", asked, {"0": "3", "1": "B"}, scorer)
        assert found.overall is None
        assert found.errors == ("KeyError: 'object_rel_direction_medium_accuracy'",)
        assert found.tasks["overall"] == 100
    assert overall("vsi-bench", docs, ["3", "B"], "strict") == 100
    assert overall("vsi-bench", docs, ["3", "B"], "vlmevalkit") == 1


def test_a_truth_of_zero() -> None:
    docs = [vsi_doc(0, ground_truth="0")]
    asked = questions("vsi-bench", docs)
    found = score("vsi-bench", asked, {"0": "0"}, "official")
    assert found.overall is None
    assert found.errors == ("0: ZeroDivisionError: float division by zero",)
    assert overall("vsi-bench", docs, ["0"], "strict") == 100
    assert overall("vsi-bench", docs, ["0.3"], "strict") == pytest.approx(50)


def test_cv_bench_by_formula_and_by_share() -> None:
    docs = [cv_doc(0), cv_doc(1), cv_doc(2, "COCO"), cv_doc(3, "Omni3D")]
    answers = ["B", "A", "B", "B"]
    assert overall("cv-bench", docs, answers, "strict") == 100 * ((0.5 + 1) / 2 + 1) / 2
    assert overall("cv-bench", docs, answers, "official") == ((0.5 + 1) / 2 + 1) / 2
    assert overall("cv-bench", docs, answers, "lmms-eval") == 0.75
    assert overall("cv-bench", docs[:2], answers[:2], "official") is None
    assert overall("cv-bench", docs[:2], answers[:2], "strict") == 50


def test_view_spatial_is_the_share_of_right_answers() -> None:
    docs = [view_doc(0), view_doc(1), view_doc(2)]
    assert overall("view-spatial", docs, ["B", "It is a B", ""], "official") == 1 / 3
    assert overall("view-spatial", docs, ["B", "It is a B", ""], "strict") == pytest.approx(200 / 3)


def test_an_empty_answer_is_right_for_spar_bench_and_never_for_us() -> None:
    docs = [spar_doc(0, "position_matching")]
    assert overall("spar-bench", docs, [""], "official") == 1
    assert overall("spar-bench", docs, [""], "strict") == 0
    sentence = [spar_doc(0, "obj_spatial_relation_oo", answer="right, , closer")]
    assert overall("spar-bench", sentence, [" "], "vlmevalkit") == 1
    assert overall("spar-bench", sentence, ["Right, , closer."], "strict") == 100


def test_view_change_is_divided_by_the_truth_and_stands_in_the_middle() -> None:
    docs = [spar_doc(0, "view_change_infer", answer="move_right:0.5"), spar_doc(1)]
    asked = questions("spar-bench", docs)
    raw = {q.id: a for q, a in zip(asked, ["Move_Right: 1.0", "-2.0"], strict=True)}
    found = score("spar-bench", asked, raw)
    assert found.tasks["middle"] == pytest.approx(80)
    assert found.tasks["low"] == 0
    official = score("spar-bench", asked, raw | {asked[0].id: "move_right:1.0"}, "official")
    assert official.tasks["view_change_infer"] == pytest.approx(82)
    assert "middle" not in official.tasks
    assert official.reference["middle"] == 0
    means = spar_bench.task_means(docs, [0.8, 1.0])
    assert spar_bench.level_means(means, with_view_change=True)["middle"] == 0.8


def test_lmms_eval_scores_no_number_of_spar_bench() -> None:
    assert overall("spar-bench", [spar_doc(0)], ["2.0"], "lmms-eval") == 0
    assert overall("spar-bench", [spar_doc(0)], ["2.0"], "official") == 1


def test_what_is_asked_for_wrongly() -> None:
    asked = questions("vsi-bench", [vsi_doc(0)])
    with pytest.raises(ConfigError, match="suite 'vsi' is not known: choose one of vsi-bench"):
        score("vsi", asked, {})
    with pytest.raises(ConfigError, match="scorer 'gpt' is not known of vsi-bench"):
        score("vsi-bench", asked, {"0": "3"}, "gpt")
    with pytest.raises(ConfigError, match=r"1 questions have no answer \(0\)"):
        score("vsi-bench", asked, {})
    with pytest.raises(ConfigError, match="several methods"):
        both = [Prediction(question="0", method=m, raw="3") for m in ("model", "blind")]
        score("vsi-bench", asked, both)


@pytest.mark.parametrize("name", SUITES)
def test_every_task_has_a_row_and_a_place_in_the_table(name: str) -> None:
    suite = SUITES[name]
    assert set(suite.numerical) <= set(suite.tasks)
    assert set(suite.tasks) <= set(suite.order)
    assert set(suite.groups) <= set(suite.order)


def test_the_command_knows_the_same_suites_and_scorers() -> None:
    assert set(suite_commands.SUITES) == set(SUITES)
    assert suite_commands.SCORERS == SCORERS
    assert all(suite.scorers == SCORERS for suite in SUITES.values())
