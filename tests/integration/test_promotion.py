"""`promote` reads the logged evaluation of the candidate, decides, and tags the verdict."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows import judge_stages
from flows.judge_stages import EVALUATION, FIELD
from spa3r.errors import ShardError
from spa3r.eval.controls import CONTROLS
from spa3r.eval.field_report import MIN_SCENES, FieldReport, SceneRow, summarise
from spa3r.recipes import catalogue
from spa3r.train import tracking
from tests.untrained import save_untrained


def field_report(scenes: int, margin: float) -> FieldReport:
    """The model at R2 0.5 + margin, all controls at 0.5, in every scene."""
    rows = [
        SceneRow(
            dataset="rooms", scene=f"scene{s:04d}_00", clips=4, tokens=100,
            scores={"model": {"geo/r2": 0.5 + margin * (1 + 0.1 * (s % 3))}}
            | {control: {"geo/r2": 0.5} for control in CONTROLS},
        )
        for s in range(scenes)
    ]  # fmt: skip
    return summarise(rows, {}, "teacher", seed=0)


@dataclass
class Registry:
    """One registry in a temporary folder, and encoders registered in it."""

    uri: str
    folder: Path

    def register(self, seed: int) -> tracking.Registered:
        hashes = {"data_hash": "d", "target_hash": str(seed)}
        encoder = save_untrained(self.folder / f"encoder{seed}", seed=seed)
        with tracking.track(self.uri, catalogue.get("debug"), hashes) as tracker:
            tracking.register_encoder(tracker, encoder)
            return tracking.require(tracker.client, tracking.CANDIDATE)

    def log(self, version: tracking.Registered, report: FieldReport, encoder_hash: str) -> None:
        path = self.folder / FIELD
        path.write_text(json.dumps({
            "encoder_hash": encoder_hash, "dataset": "rooms", "target_hash": f"t{version.version}",
            "report": report.to_json(),
        }))  # fmt: skip
        tracker = tracking.Tracker(tracking.connect(self.uri), version.run_id)
        tracker.log_artifact(path, EVALUATION)

    def champion(self) -> str | None:
        found = tracking.find(tracking.connect(self.uri), tracking.CHAMPION)
        return found.version if found else None

    def candidate(self) -> tracking.Registered:
        return tracking.require(tracking.connect(self.uri), tracking.CANDIDATE)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return Registry(uri, tmp_path)


def test_champion_moves_to_a_better_field_and_stays_for_a_worse_one(registry: Registry) -> None:
    one = registry.register(1)
    registry.log(one, field_report(MIN_SCENES, 0.2), one.tags["encoder_hash"])
    result = judge_stages.promote()
    assert result.facts["promoted"] and registry.champion() == one.version
    assert "is champion" in result.line and f"{MIN_SCENES} held-out scenes" in result.line
    tags = registry.candidate().tags
    assert tags["field_gate"] == "passed"
    assert (tags["field_gate_dataset"], tags["field_gate_target_hash"]) == ("rooms", "t1")

    two = registry.register(2)
    assert (two.version, registry.champion()) == ("2", "1")
    for report, why in (
        (field_report(MIN_SCENES - 1, 0.2), f"{MIN_SCENES - 1} held-out scenes"),
        (field_report(MIN_SCENES, -0.1), "is not above 0"),
    ):
        registry.log(two, report, two.tags["encoder_hash"])
        result = judge_stages.promote()
        assert not result.facts["promoted"] and registry.champion() == "1"
        assert "champion stays at version 1" in result.line and why in result.line
        tags = registry.candidate().tags
        assert tags["field_gate"] == "failed" and why in tags["field_gate_reason"]


def test_an_encoder_without_its_own_evaluation_is_not_judged(registry: Registry) -> None:
    one = registry.register(1)
    with pytest.raises(ShardError, match="was not evaluated: run `spa3r evaluate`"):
        judge_stages.promote()
    registry.log(one, field_report(MIN_SCENES, 0.2), "0" * 16)
    with pytest.raises(ShardError, match="of another encoder; run `spa3r evaluate` again"):
        judge_stages.promote()
    assert registry.champion() is None and "field_gate" not in registry.candidate().tags
