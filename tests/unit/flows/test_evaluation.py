"""Evaluation asks only with the student's own teachers, on the device of the settings."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import evaluation
from flows.settings import Settings
from spa3r.errors import ConfigError
from spa3r.hub import Spa3REncoder
from spa3r.recipes import catalogue
from tests.untrained import save_untrained

RECIPE = catalogue.get("debug")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Taught by rgbd and, as its recipe says, by labels."""
    student = Spa3REncoder.from_pretrained(save_untrained(tmp_path_factory.mktemp("bare")))
    student.card.references["semantic"] = {
        "kind": "labels", "uri": "builtin", "variant": "one_hot", "hash": "4567",
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("encoder")
    student.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path, shards_root="s", targets_root="t", workers=1, train_workers=0, gpu=False,
        mlflow_uri="postgresql://lab:hunter2@db/mlflow",
    )  # fmt: skip


@pytest.fixture
def stored(encoder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """References of the stored targets by split; a test may change them."""
    own = Spa3REncoder.from_pretrained(encoder).card.references
    found = {s: {role: dict(ref) for role, ref in own.items()} for s in ("train", "val")}

    def cached(split: str) -> SimpleNamespace:
        return SimpleNamespace(folder=f"t/{split}", references=found[split], clips=[], stats={})

    monkeypatch.setattr(evaluation, "require_targets", lambda _s, _d, _r, split: split)
    monkeypatch.setattr(evaluation, "CachedTargets", cached)
    return found


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_field_is_asked_where_the_settings_say(
    gpu: bool, device: str, settings: Settings, encoder: Path, stored, monkeypatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(evaluation, "evaluate_field", lambda *_a, **options: asked.update(options))
    evaluation.field_of(replace(settings, gpu=gpu), "rooms", RECIPE, encoder)
    assert asked["device"] == device


@pytest.mark.parametrize("split", ["train", "val"])
def test_targets_of_another_teacher_are_refused(
    split: str, settings: Settings, encoder: Path, stored
) -> None:
    own = stored[split]["geometric"]["hash"]
    stored[split]["geometric"] |= {"kind": "vggt", "hash": "0123"}
    with pytest.raises(ConfigError) as caught:
        evaluation.field_of(settings, "rooms", RECIPE, encoder)
    text = str(caught.value)
    assert f"t/{split}" in text and "vggt 0123" in text and f"rgbd {own}" in text
    assert "--set" in text and "\n" not in text


def test_semantic_tokens_count_only_where_they_are_predicted(
    settings: Settings, encoder: Path, stored
) -> None:
    student: Any = SimpleNamespace(
        card=Spa3REncoder.from_pretrained(encoder).card,
        model=SimpleNamespace(config=SimpleNamespace(semantic=False, linguistic=False)),
    )
    stored["train"]["semantic"] = None
    evaluation._sources(settings, "rooms", RECIPE, student)
    student.model.config.semantic = True
    with pytest.raises(ConfigError, match="t/train is of the semantic teacher none"):
        evaluation._sources(settings, "rooms", RECIPE, student)


def test_no_place_of_the_report_shows_a_password(settings: Settings, tmp_path: Path) -> None:
    places = evaluation._places(settings, tmp_path, tmp_path / "report.html")
    assert "hunter2" not in str(places) and "postgresql://lab:***@db/mlflow" in str(places)
