"""answers.json: what promote compares."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.answers import Answers, answers_folder, tag_of
from flows.vlm_promotion import asked_tasks
from spa3r import storage
from spa3r.errors import ConfigError, ShardError
from spa3r.eval.suite import ScoredQuestion


def answers() -> Answers:
    scored = [
        ScoredQuestion(id=f"q{i}", task="object_counting", scene=f"s{i}", scores={"model": i / 2})
        for i in range(3)
    ]
    return Answers(
        model_hash="m" * 16, suite="vsi-bench", questions_hash="q" * 64, scorer="strict",
        places={"questions": "a.jsonl", "media": "shards"}, questions=scored,
    )  # fmt: skip


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = answers()
    found.write(tmp_path / "answers.json")
    assert Answers.read(tmp_path / "answers.json") == found
    assert found.folder == "evaluation/vsi-bench-qqqqqqqq-strict-mmmmmmmm"
    assert found.folder == answers_folder("vsi-bench", "q" * 64, "strict", "m" * 16)
    assert tag_of("cv-bench") == "answers.cv-bench"


def test_numerical_tasks_decide_where_there_are_any() -> None:
    def of(suite: str, *tasks: str) -> Answers:
        scored = [ScoredQuestion(id=t, task=t, scene="s", scores={}) for t in tasks]
        return replace(answers(), suite=suite, questions=scored)

    vsi = of("vsi-bench", "route_planning", "room_size_estimation", "object_counting")
    assert set(asked_tasks(vsi)) == {"room_size_estimation", "object_counting"}
    assert asked_tasks(vsi, ("route_planning",)) == ("route_planning",)
    assert asked_tasks(of("vsi-bench", "route_planning")) == ("route_planning",)
    assert asked_tasks(of("cv-bench", "Depth", "Relation")) != ()
    assert set(asked_tasks(of("cv-bench", "Depth", "Relation"))) <= {"Depth", "Relation"}
    assert asked_tasks(of("vsi-bench")) == ()
    with pytest.raises(ConfigError, match="cv-bench has no task cooking: choose of "):
        asked_tasks(of("cv-bench", "Depth"), ("cooking",))


NAMES = ("model_hash", "suite", "questions_hash", "scorer")


@pytest.mark.parametrize(
    "damaged",
    [
        {},
        [],
        {"model_hash": "m"},
        dict.fromkeys(NAMES, "x") | {"places": {}, "questions": [["q"]]},
        dict.fromkeys(NAMES, "x") | {"places": [], "questions": []},
    ],
)
def test_anything_else_is_refused_in_one_line(damaged: object, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    storage.write_json(path, damaged)
    with pytest.raises(ShardError, match=r"answers.json: not answers .* `spa3r evaluate` again"):
        Answers.read(path)
