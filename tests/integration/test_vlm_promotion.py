"""`promote spa3-vlm` judges answers: against the controls, then question by question the champion.

The versions are made by hand: what a model is does not matter here, only what it answered.
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient

from flows import judge_stages, suite_stage
from flows.answers import ANSWERS, Answers, log_answers
from spa3r.errors import ConfigError, ShardError, WeightsError
from spa3r.eval.field_report import MIN_SCENES
from spa3r.eval.suite import Method, ScoredQuestion
from spa3r.eval.vlm_controls import CONTROLS
from spa3r.train import champion, registry, tracking
from spa3r.train.registry import VLM_HASH, Registered

VLM = "spa3-vlm"
NUMERICAL = ("object_counting", "object_abs_distance")


def hash_of(number: str) -> str:
    return number * 16


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two versions, to be copied."""
    folder = tmp_path_factory.mktemp("store")
    client = tracking.connect(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("e", artifact_location=(folder / "files").as_uri())
    client.create_registered_model(VLM)
    for number in ("1", "2"):
        run = client.create_run(experiment).info.run_id
        client.create_model_version(VLM, "models", run, tags={VLM_HASH: hash_of(number)})
    return folder / "mlflow.db"


@pytest.fixture
def client(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    shutil.copy(filled, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return tracking.connect(uri)


def version(client: MlflowClient, number: str) -> Registered:
    found = registry.find_version(client, number, name=VLM)
    assert found is not None
    return found


def answers(number: str, model: float, *, other: float = 0.5, **of: Any) -> Answers:
    """Numerical tasks at `model`, the others at `other`, all controls at 0.5, in every scene."""
    scored = []
    for s in range(of.pop("scenes", MIN_SCENES)):
        for task in (*NUMERICAL, "route_planning"):
            worth: dict[Method, float] = dict.fromkeys(CONTROLS, 0.5)
            worth["model"] = (model if task in NUMERICAL else other) + 0.01 * (s % 3 - 1)
            scored.append(ScoredQuestion(id=f"{s}-{task}", task=task, scene=f"s{s}", scores=worth))
    values: dict[str, Any] = {
        "model_hash": hash_of(number), "suite": "vsi-bench", "questions_hash": "q" * 64,
        "scorer": "strict", "places": {"questions": "asked.jsonl", "media": "shards"},
    }  # fmt: skip
    return Answers(**(values | of), questions=scored)


def candidate(client: MlflowClient, number: str, found: Answers, folder: Path) -> None:
    """Makes it the candidate, with these answers logged."""
    client.set_registered_model_alias(VLM, registry.CANDIDATE, number)
    found.write(folder / ANSWERS)
    line = f"{found.suite} by scorer strict: {number}"
    log_answers(client, version(client, number), found, [folder / ANSWERS], line)


def test_the_first_champion_is_above_the_controls(client: MlflowClient, tmp_path: Path) -> None:
    for found, why in (
        (answers("1", 0.5), "margin is not above 0 for blind"),
        (answers("1", 0.7, scenes=MIN_SCENES - 1), f"at least {MIN_SCENES} are needed"),
        (answers("1", 0.3, other=0.9), "margin is not above 0"),  # only the numerical tasks count
    ):
        candidate(client, "1", found, tmp_path)
        result = judge_stages.promote(VLM)
        assert not result.facts["promoted"] and why in result.line, result.line
        assert "spa3-vlm version 1 not promoted, there is no champion" in result.line
        tags = version(client, "1").tags
        assert (tags["verdict"], tags["answers_gate"]) == ("not promoted", "failed")
        assert why in tags["verdict_reason"]
    assert judge_stages.promote(VLM, tasks=("route_planning",)).facts["promoted"]
    tags = version(client, "1").tags
    assert (tags["verdict"], tags["answers_gate"], tags["verdict_against"]) == (
        "promoted", "passed", "none",
    )  # fmt: skip
    assert (tags["answers_gate_dataset"], tags["answers_gate_target_hash"]) == (
        "vsi-bench", "q" * 64,
    )  # fmt: skip
    assert set(json.loads(tags["verdict_margins"])) == set(CONTROLS)
    assert tags["suite_scores"] == "vsi-bench by scorer strict: 1"
    assert judge_stages.promote(VLM).line.endswith("version 1 is champion already")


def test_a_champion_is_replaced_by_better_answers_only(
    client: MlflowClient, tmp_path: Path
) -> None:
    candidate(client, "1", answers("1", 0.6), tmp_path)
    assert judge_stages.promote(VLM).facts["promoted"]
    for found, why in (
        (answers("2", 0.6), "the lower bound is not above 0"),
        (answers("2", 0.7, other=0.3), "the other tasks are worse: -20.0"),
    ):
        candidate(client, "2", found, tmp_path)
        result = judge_stages.promote(VLM)
        assert "champion stays at version 1" in result.line and why in result.line, result.line
    candidate(client, "2", answers("2", 0.7), tmp_path)
    result = judge_stages.promote(VLM)
    assert "version 2 is champion in place of version 1: +10.0" in result.line
    assert result.facts["margins"]["champion"] == pytest.approx(10)
    run = version(client, "2").run_id
    files = [item.path for item in client.list_artifacts(run, "verdicts")]
    evidence = [json.loads(Path(client.download_artifacts(run, f)).read_text()) for f in files]
    (last,) = [e for e in evidence if e["outcome"] == "promoted"]
    assert last["tasks"] == sorted(NUMERICAL) and last["vlm_hash"] == hash_of("2")
    assert last["differences"]["score"]["mean"] == pytest.approx(10)

    assert "version 1 is champion again" in judge_stages.rollback(model=VLM).line
    result = judge_stages.promote(VLM)  # the candidate is still version 2, and still better
    assert not result.facts["promoted"] and "spa3r rollback --to 2 spa3-vlm" in result.line
    assert "version 2 is champion again" in judge_stages.rollback("2", VLM).line
    moves = [(m["how"], m["version"]) for m in champion.history(client, name=VLM)]
    assert moves == [("promote", "1"), ("promote", "2"), ("rollback", "1"), ("rollback", "2")]


def test_a_champion_that_was_asked_other_questions_is_asked_now(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate(client, "1", answers("1", 0.6), tmp_path)
    judge_stages.promote(VLM)
    asked: list[Any] = []

    def run_suite(_settings: Any, vlm: str, what: Any, **of: Any) -> Any:
        asked.append((vlm, what.questions, what.media, of["scorer"], of["controls"]))
        return SimpleNamespace(answers=answers("1", 0.6, questions_hash=now))

    monkeypatch.setattr(suite_stage, "load", lambda model, _settings: model)
    monkeypatch.setattr(suite_stage, "run_suite", run_suite)
    now = "n" * 64
    candidate(client, "2", answers("2", 0.7, questions_hash="n" * 64), tmp_path)
    assert judge_stages.promote(VLM).facts["promoted"]
    assert asked == [("models:/spa3-vlm/1", ("asked.jsonl",), "shards", "strict", False)]

    client.set_registered_model_alias(VLM, registry.CHAMPION, "1")
    now = "z" * 64  # the question file has changed since
    result = judge_stages.promote(VLM)
    assert "not comparable: champion version 1 cannot be asked these questions" in result.line
    assert version(client, "2").tags["verdict"] == "not comparable" and "\n" not in result.line


def test_without_its_own_answers_nothing_is_judged(client: MlflowClient, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="spa3-vlm has no version with alias candidate"):
        judge_stages.promote(VLM)
    client.set_registered_model_alias(VLM, registry.CANDIDATE, "1")
    with pytest.raises(ShardError, match=r"has not answered vsi-bench: run `spa3r evaluate models"):
        judge_stages.promote(VLM)
    candidate(client, "1", answers("2", 0.7), tmp_path)
    with pytest.raises(ShardError, match="logged answers are of another model"):
        judge_stages.promote(VLM)
    with pytest.raises(ConfigError, match="suite 'mmlu' is not known"):
        judge_stages.promote(VLM, suite="mmlu")
    candidate(client, "1", answers("1", 0.7), tmp_path)
    with pytest.raises(ConfigError, match="vsi-bench has no task cooking"):
        judge_stages.promote(VLM, tasks=("object_counting", "cooking"))
    assert "verdict" not in version(client, "1").tags
