"""Answers on disk."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spa3r.errors import ConfigError, ShardError
from spa3r.eval import prediction_files as files
from spa3r.eval.published import published_tables
from spa3r.eval.suite import METHODS, Prediction
from spa3r.eval.suites import SUITES
from spa3r.eval.vlm_controls import scene_cycle
from tests.suite_makers import cv_doc, spar_doc, view_doc, vsi_doc
from tests.unit.eval.test_suites import questions

META = {"suite": "vsi-bench", "key": "a", "versions": {"torch": "1"}}
DOCS = {"vsi-bench": vsi_doc, "cv-bench": cv_doc, "spar-bench": spar_doc, "view-spatial": view_doc}


def some_answers(first: int) -> list[Prediction]:
    return [
        Prediction(question=str(n), method=method, raw=f"{n}\n\u200b", frames=("a", "b"))
        for n in range(first, first + 2)
        for method in METHODS
    ]


@pytest.mark.parametrize("suite", SUITES)
def test_questions_come_back_whole(tmp_path: Path, suite: str) -> None:
    asked = questions(suite, [DOCS[suite](n) for n in range(3)])
    files.start(str(tmp_path / "x"), META, asked)
    assert files.read_questions(str(tmp_path / "x")) == asked


def test_parts_become_one_file_in_order(tmp_path: Path) -> None:
    folder = str(tmp_path)
    files.start(folder, META, questions("vsi-bench", [vsi_doc(0)]))
    for number in (1, 0):
        assert not files.has_part(folder, number)
        files.write_part(folder, number, some_answers(2 * number))
        assert files.has_part(folder, number)
    assert not files.is_finished(folder)
    with pytest.raises(ShardError, match="the evaluation did not end, start it again"):
        files.read_predictions(folder)
    files.finish(folder, 2)
    found = files.read_predictions(folder)
    assert [one.question for one in found["blind"]] == ["0", "1", "2", "3"]
    assert found["model"][0] == Prediction(
        question="0", method="model", raw="0\n\u200b", frames=("a", "b")
    )
    assert not (tmp_path / files.PARTS).exists()


def test_another_evaluation_is_not_mixed_in(tmp_path: Path) -> None:
    asked = questions("vsi-bench", [vsi_doc(0)])
    files.start(str(tmp_path), META, asked)
    files.start(str(tmp_path), {**META, "versions": {"torch": "2"}}, asked)
    with pytest.raises(ConfigError, match="holds answers with other settings"):
        files.start(str(tmp_path), {**META, "key": "b"}, asked)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "no answers of the method model"),
        ([("0", "blind", "3")], "no answers of the method model"),
        ([("0", "model", "3"), ("0", "oracle", "3")], "method 'oracle' answers question '0'"),
        ([("0", "model", None)], "answers question '0' by None"),
        ([("0", "model", "3"), ("0", "model", "4")], "two answers of model to question '0'"),
    ],
)
def test_predictions_that_are_none(
    tmp_path: Path, rows: list[tuple[str, str, str]], told: str
) -> None:
    table = [{"question": q, "method": m, "raw": raw, "frames": []} for q, m, raw in rows]
    place = tmp_path / files.PREDICTIONS
    pq.write_table(pa.Table.from_pylist(table, schema=files.SCHEMA), place)
    with pytest.raises(ShardError, match=told):
        files.read_predictions(str(tmp_path))


def test_what_is_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no meta.json in it; name a folder"):
        files.read_meta(str(tmp_path))
    (tmp_path / files.META).write_text('{"format": "other"}')
    with pytest.raises(ShardError, match="not of this version"):
        files.read_meta(str(tmp_path))
    (tmp_path / files.PREDICTIONS).write_bytes(b"PAR1")
    with pytest.raises(ShardError, match="not a whole Parquet file"):
        files.read_predictions(str(tmp_path))


@pytest.mark.parametrize("scenes", [2, 3, 50])
def test_no_scene_is_given_its_own_geometry(scenes: int) -> None:
    asked = questions("vsi-bench", [vsi_doc(n, scene_name=f"s{n % scenes}") for n in range(100)])
    cycle = scene_cycle(asked)
    assert sorted(cycle) == sorted({q.scene for q in asked})
    assert cycle == scene_cycle(list(reversed(asked)))
    assert all(a != b for a, b in zip(cycle, [*cycle[1:], *cycle[:1]], strict=True))


@pytest.mark.parametrize("suite", SUITES)
def test_published_tables_have_the_rows_of_ours(suite: str) -> None:
    for table in published_tables(suite, same_questions=True):
        assert set(table.columns) <= {"overall", *SUITES[suite].order}
        assert all(len(scores) == len(table.columns) for _, scores in table.rows)
        ours = dict(table.rows).get("Spa3-VLM-4B") or dict(table.rows)["Spa3R"]
        assert None not in ours


def test_the_papers_averages_are_means_of_its_tasks_but_for_three() -> None:
    (tasks, by_geometry) = published_tables("vsi-bench", same_questions=True)
    other = {
        name
        for name, (overall, *eight) in tasks.rows
        if abs(sum(x or 0 for x in eight) / 8 - (overall or 0)) > 0.1
    }
    assert other == {"Qwen2.5-VL-3B", "Qwen2.5-VL-7B", "Spatial-MLLM-4B"}
    for name, (numerical, choice, overall) in by_geometry.rows:
        assert ((numerical or 0) + (choice or 0)) / 2 == pytest.approx(overall, abs=0.15), name
