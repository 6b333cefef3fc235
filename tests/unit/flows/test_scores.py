"""Evaluations are made once, and a champion is scored in the candidate's space."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flows import evaluation, judge_stages, scores
from flows.evaluation import OtherTargetsError
from flows.settings import Settings
from spa3r.errors import ShardError
from spa3r.hub import Spa3REncoder
from spa3r.recipes import catalogue
from spa3r.train import registry, tracking
from tests.box_rooms import BoxRooms
from tests.registered import field_report
from tests.untrained import save_untrained

RECIPE = catalogue.get("debug")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path, shards_root="s", targets_root="t", workers=1, train_workers=0, gpu=False,
        mlflow_uri="sqlite:///none.db",
    )  # fmt: skip


@pytest.fixture
def held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Box rooms stand where the held-out targets would."""
    clips = replace(RECIPE.clips, clips_per_scene=1, mirror=False)
    rooms = BoxRooms(replace(RECIPE, clips=clips), rooms=2)
    train: Any = SimpleNamespace(stats={})
    monkeypatch.setattr(evaluation, "_sources", lambda *_: (train, rooms))
    monkeypatch.setattr(scores, "held_out_hash", lambda *_: "t" * 16)


def standardised(folder: Path, *, seed: int, scale: float) -> Path:
    """An encoder whose space has channels of that spread."""
    student = Spa3REncoder.from_pretrained(save_untrained(folder, seed=seed))
    state = student.model.state_dict()
    state["geo_std"] = torch.full_like(state["geo_std"], scale)
    student.model.load_state_dict(state)
    student.save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("held_out")
def test_scores_are_kept_and_never_mixed(settings: Settings, tmp_path: Path) -> None:
    ours = standardised(tmp_path / "ours", seed=1, scale=1.0)
    theirs = standardised(tmp_path / "theirs", seed=2, scale=2.0)
    first, out, reused = scores.evaluate_once(settings, "rooms", RECIPE, ours)
    assert not reused and first.dataset == "rooms" and first.recipe == RECIPE
    again, _, reused = scores.evaluate_once(settings, "rooms", RECIPE, ours)
    assert reused and again == first and "geo/r2 " in first.summary
    own, own_out, _ = scores.evaluate_once(settings, "rooms", RECIPE, theirs)
    judged, judged_out, reused = scores.evaluate_once(settings, "rooms", RECIPE, theirs, like=ours)
    assert not reused and len({out, own_out, judged_out}) == 3
    assert judged.space_hash == first.space_hash != own.space_hash
    mean, means = judged.field.mean["model"], own.field.mean["model"]
    assert mean["geo/cosine"] == pytest.approx(means["geo/cosine"], abs=1e-5)
    assert mean["geo/l1"] == pytest.approx(2 * means["geo/l1"], rel=1e-4)
    assert judged.field.mean["nearest_context"] == pytest.approx(
        first.field.mean["nearest_context"]
    )
    (out / "field.json").write_text('{"report": {}}')
    with pytest.raises(ShardError, match=r"field\.json: not an evaluation of this version"):
        scores.Evaluation.read(out / "field.json")
    assert scores.evaluate_once(settings, "rooms", RECIPE, ours)[0] == first


def test_images_of_another_size_are_refused(settings: Settings, tmp_path: Path) -> None:
    encoder = save_untrained(tmp_path / "encoder")
    wide = replace(RECIPE, ingest=replace(RECIPE.ingest, width=RECIPE.ingest.width * 2))
    with pytest.raises(OtherTargetsError, match=r"images of width 448 .*, the encoder 224"):
        evaluation.space_of(settings, "rooms", wide, encoder)


def test_a_student_without_geometric_features_has_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = field_report(0.2, scenes=2, sem=0.4)
    mean = {**whole.mean, "model": {"sem/r2": 0.4}}
    found: Any = SimpleNamespace(field=replace(whole, mean=mean), encoder_hash="e", summary="s")
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path))
    monkeypatch.setattr(scores, "evaluate_once", lambda *_: (found, tmp_path, False))
    monkeypatch.setattr(scores, "report_name", lambda *_: "report")
    monkeypatch.setattr(evaluation, "report_of", lambda *_: None)
    monkeypatch.setattr(tracking, "connect", lambda _: None)
    monkeypatch.setattr(registry, "find_by_hash", lambda *_: None)
    result = judge_stages.evaluate("encoder", recipe="debug")
    assert "no geometric features on 2 held-out scenes; gate not passed" in result.line
    assert "nan" not in result.line and result.facts["geometric R2"] == "none"
