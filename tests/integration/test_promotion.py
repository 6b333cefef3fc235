"""`promote` judges the candidate by its logged scores and against the champion; `rollback`."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import evaluation, judge_stages, promotion
from flows.settings import Settings
from spa3r.errors import ShardError, WeightsError
from spa3r.eval.controls import CONTROLS
from spa3r.eval.field_report import MIN_SCENES
from spa3r.recipes import catalogue
from spa3r.train import champion, registry, tracking
from spa3r.train.provenance import encoder_hash
from tests.registered import Registry, field_report, register_untrained

VERSIONS = ("1", "2", "3")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the three versions, to be copied."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    for number in VERSIONS:
        assert register_untrained(uri, folder, int(number)) == number
    return folder / "mlflow.db"


@pytest.fixture
def store(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    shutil.copy(filled, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return Registry(tmp_path, tracking.connect(uri))


@pytest.fixture
def never_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logged scores must do."""
    monkeypatch.setattr(promotion, "evaluate_once", None)


def promoted(store: Registry, number: str, margin: float) -> None:
    store.candidate(number, field_report(margin))
    assert judge_stages.promote().facts["promoted"] and store.champion() == number


def verdict_of(store: Registry, number: str) -> dict[str, str]:
    tags = store.version(number).tags
    return {key: value for key, value in tags.items() if key.startswith(("verdict", "field_gate"))}


@pytest.mark.usefixtures("never_scored")
def test_the_first_champion_passes_the_guards(store: Registry) -> None:
    for report, why in (
        (field_report(0.2, scenes=MIN_SCENES - 1), f"{MIN_SCENES - 1} held-out scenes"),
        (field_report(-0.1), "is not above 0"),
    ):
        store.candidate("1", report)
        result = judge_stages.promote()
        assert not result.facts["promoted"] and store.champion() is None
        assert "version 1 not promoted, there is no champion" in result.line and why in result.line
        found = verdict_of(store, "1")
        assert (found["verdict"], found["field_gate"]) == ("not promoted", "failed")
        assert why in found["verdict_reason"] and why in found["field_gate_reason"]
    promoted(store, "1", 0.2)
    found = verdict_of(store, "1")
    assert (found["verdict"], found["verdict_against"]) == ("promoted", "none")
    assert (found["field_gate_dataset"], found["field_gate_target_hash"]) == ("rooms", "t" * 16)
    assert set(json.loads(found["verdict_margins"])) == set(CONTROLS)


@pytest.mark.usefixtures("never_scored")
def test_a_champion_is_replaced_by_a_better_field_only(store: Registry) -> None:
    promoted(store, "1", 0.2)
    noisy = field_report(0.21, noise=0.06)
    no_geometry = replace(field_report(0.3), differences={})
    for report, why in (
        (noisy, "the lower bound is not above 0"),
        (field_report(0.15), "geometric R2 -0.050"),
        (no_geometry, "no geometric R2 against"),
    ):
        store.candidate("2", report)
        result = judge_stages.promote()
        assert why in result.line and "champion stays at version 1" in result.line, result.line
        found = verdict_of(store, "2")
        assert (found["verdict"], found["verdict_against"]) == ("not promoted", "1")
    store.candidate("2", field_report(0.25))
    result = judge_stages.promote()
    assert "version 2 is champion in place of version 1: geometric R2 +0.050" in result.line
    found = verdict_of(store, "2")
    assert (found["verdict"], found["verdict_against"]) == ("promoted", "1")
    assert json.loads(found["verdict_margins"])["champion"] == pytest.approx(0.05)
    run = store.version("2").run_id
    files = [item.path for item in store.client.list_artifacts(run, "verdicts")]
    evidence = [
        json.loads(Path(store.client.download_artifacts(run, f)).read_text()) for f in files
    ]
    (last,) = [e for e in evidence if e["outcome"] == "promoted"]
    assert last["differences"]["geo/r2"]["mean"] == pytest.approx(0.05)
    assert len(last["champion_field"]["scenes"]) == len(last["field"]["scenes"]) == MIN_SCENES


@pytest.mark.usefixtures("never_scored")
def test_other_features_must_not_get_lost_or_worse(store: Registry) -> None:
    store.candidate("1", field_report(0.2, sem=0.4))
    judge_stages.promote()
    for report, why in (
        (field_report(0.3), "the champion predicts semantic features, this version does not"),
        (field_report(0.3, sem=0.3), "semantic R2 is worse: -0.100"),
    ):
        store.candidate("2", report)
        assert why in judge_stages.promote().line
    assert store.champion() == "1"
    store.candidate("2", field_report(0.3, sem=0.4))
    assert judge_stages.promote().facts["promoted"]


@pytest.mark.usefixtures("never_scored")
def test_the_champion_itself_is_champion_already(store: Registry) -> None:
    promoted(store, "1", 0.2)
    before = verdict_of(store, "1")
    result = judge_stages.promote()
    assert result.line.endswith("version 1 is champion already") and result.reused
    assert verdict_of(store, "1") == before
    assert len(champion.history(store.client)) == 1


def test_a_champion_without_fitting_scores_is_scored_now(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(store, "1", 0.2)
    asked: list[tuple[str, str]] = []
    number_of = {store.version(v).tags["encoder_hash"]: v for v in VERSIONS}

    def scored(_settings: Any, dataset: str, recipe: Any, encoder: Path, *, like: Path) -> Any:
        assert (dataset, recipe) == ("rooms", catalogue.get("debug"))
        asked.append((number_of[encoder_hash(encoder)], number_of[encoder_hash(like)]))
        return replace(promotion.logged_evaluation(store.client, store.version("1")),
                       field=field_report(0.1)), Path(), False  # fmt: skip

    monkeypatch.setattr(promotion, "evaluate_once", scored)
    monkeypatch.setattr(promotion, "present_hash", lambda *_: "u" * 16)
    for other in ({"target_hash": "u" * 16}, {"target_hash": "u" * 16, "space_hash": "z"}):
        store.candidate("2", field_report(0.15), **other)
        result = judge_stages.promote()
        assert "version 2 is champion in place of version 1: geometric R2 +0.050" in result.line
        assert "uuuuuuuu of rooms, the champion was judged on tttttttt" in result.line
        assert asked.pop() == ("1", "2")
        store.client.set_registered_model_alias(registry.ENCODER_NAME, registry.CHAMPION, "1")
    store.candidate("2", field_report(0.15), target_hash="v" * 16)
    with pytest.raises(ShardError, match=r"have changed since .* version 2 was evaluated"):
        judge_stages.promote()
    assert store.champion() == "1" and not asked


@pytest.mark.usefixtures("never_scored")
def test_other_targets_than_those_of_the_evaluation_are_not_judged(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing has to be scored; where they are gone, the logged scores must do."""
    monkeypatch.setattr(promotion, "present_hash", lambda *_: "u" * 16)
    store.candidate("1", field_report(0.2))
    with pytest.raises(ShardError, match=r"of rooms have changed since .* version 1 was"):
        judge_stages.promote()
    assert store.champion() is None and not verdict_of(store, "1")


@pytest.mark.usefixtures("never_scored")
def test_a_champion_that_was_judged_on_another_dataset_is_not_comparable(store: Registry) -> None:
    on_rooms = {"field_gate_dataset": "rooms", "field_gate_target_hash": "r" * 16}
    before = store.version("1")
    before = replace(before, tags=before.tags | on_rooms)
    store.candidate("2", field_report(0.3), dataset="easy")
    settings = Settings.from_environment()
    found = promotion.judge(settings, store.client, store.version("2"), before)
    assert (found.outcome, found.dataset) == ("not comparable", "easy")
    assert "2 was evaluated on easy, champion version 1 was judged on rooms" in found.reason
    assert found.evidence["champion_judged_on"] == {"dataset": "rooms", "target_hash": "r" * 16}


def test_a_champion_of_another_teacher_is_not_comparable(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(store, "1", 0.2)

    def other(*_args: object, **_options: object) -> None:
        raise evaluation.OtherTargetsError("t/val is of the geometric teacher vggt 0123")

    monkeypatch.setattr(promotion, "evaluate_once", other)
    monkeypatch.setattr(promotion, "present_hash", lambda *_: "u" * 16)
    store.candidate("2", field_report(0.3), target_hash="u" * 16)
    result = judge_stages.promote()
    assert "not promoted, champion stays at version 1: not comparable: " in result.line
    assert "vggt 0123" in result.line and "\n" not in result.line
    assert verdict_of(store, "2")["verdict"] == result.facts["verdict"] == "not comparable"


def test_an_encoder_without_its_own_evaluation_is_not_judged(store: Registry) -> None:
    store.client.set_registered_model_alias(registry.ENCODER_NAME, registry.CANDIDATE, "3")
    with pytest.raises(ShardError, match="version 3 was not evaluated: run `spa3r evaluate`"):
        judge_stages.promote()
    store.candidate("3", field_report(0.2), encoder_hash="0" * 16)
    with pytest.raises(ShardError, match="of another encoder; run `spa3r evaluate` again"):
        judge_stages.promote()
    assert store.champion() is None and not verdict_of(store, "3")


@pytest.mark.usefixtures("never_scored")
def test_a_verdict_against_a_champion_that_moved_does_not_count(
    store: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(store, "1", 0.2)
    judge = promotion.judge

    def slowly(*arguments: Any) -> Any:
        verdict = judge(*arguments)
        store.client.set_registered_model_alias(registry.ENCODER_NAME, registry.CHAMPION, "3")
        return verdict

    monkeypatch.setattr(promotion, "judge", slowly)
    store.candidate("2", field_report(0.3))
    with pytest.raises(WeightsError, match="champion moved to version 3 while version 2 was"):
        judge_stages.promote()
    assert store.champion() == "3" and not verdict_of(store, "2")


@pytest.mark.usefixtures("never_scored")
def test_rollback_goes_back_the_way_it_came(store: Registry) -> None:
    for number, margin in (("1", 0.2), ("2", 0.3), ("3", 0.4)):
        promoted(store, number, margin)
    line = judge_stages.rollback().line
    assert "version 2 is champion again in place of version 3" in line
    assert store.champion() == "2"
    judge_stages.rollback()
    assert store.champion() == "1", "it went forward again"
    with pytest.raises(WeightsError, match="nothing to roll back to") as caught:
        judge_stages.rollback()
    assert "--to" in str(caught.value) and "\n" not in str(caught.value)
    moves = champion.history(store.client)
    assert [(m["how"], m["before"], m["version"]) for m in moves] == [
        ("promote", "", "1"), ("promote", "1", "2"), ("promote", "2", "3"),
        ("rollback", "3", "2"), ("rollback", "2", "1"),
    ]  # fmt: skip
    assert all(m["time"].endswith("Z") for m in moves)


@pytest.mark.usefixtures("never_scored")
def test_what_was_rolled_back_is_not_promoted_again_by_itself(store: Registry) -> None:
    promoted(store, "1", 0.2)
    promoted(store, "2", 0.3)
    judge_stages.rollback()
    result = judge_stages.promote()  # the candidate is still version 2, and still better
    assert not result.facts["promoted"] and store.champion() == "1"
    assert "was rolled back at" in result.line and "spa3r rollback --to 2" in result.line
    assert "version 2 is champion again" in judge_stages.rollback("2").line
    assert champion.ROLLED_BACK not in store.version("2").tags
    assert champion.ROLLED_BACK in store.version("1").tags
    for never, why in (("3", "never was champion"), ("2", "is champion"), ("99", "or is gone")):
        with pytest.raises(WeightsError, match=f"version {never} .*{why}.*: choose of 1"):
            judge_stages.rollback(never)
    assert store.champion() == "2"


def test_rollback_without_a_champion_is_one_line(store: Registry) -> None:
    with pytest.raises(WeightsError, match="no version with alias champion"):
        judge_stages.rollback()
    store.client.set_registered_model_alias(registry.ENCODER_NAME, registry.CHAMPION, "2")
    with pytest.raises(WeightsError, match="no champion before it is recorded"):
        judge_stages.rollback()
    assert store.champion() == "2"
