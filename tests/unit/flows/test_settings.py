"""The environment table of flows/settings.py: honoured, checked, and never written over."""

import os
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from flows import settings as module
from flows.settings import Settings
from spa3r.config import IngestSpec
from spa3r.errors import ConfigError
from spa3r.recipes import catalogue, vlm_catalogue


@pytest.fixture(autouse=True)
def environment(tmp_path: Path):
    """An environment that names nothing of ours; the real one returns afterwards."""
    ours = ("SPA3R_", "MLFLOW_", "PREFECT_", *module.QUIET)
    bare = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    with mock.patch.dict(os.environ, bare, clear=True):
        yield


def test_defaults_stay_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    found = Settings.from_environment()
    assert found.home == tmp_path / "spa3r-home"
    assert (found.workers, found.train_workers) == (8, 8)
    assert found.mlflow_uri == f"sqlite:///{tmp_path}/spa3r-home/mlflow.db"
    assert found.prefect_database == tmp_path / "spa3r-home/prefect/prefect.db"
    assert not list(tmp_path.iterdir()), "reading the environment wrote something"


def test_every_variable_of_the_table_is_honoured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "SPA3R_HOME": str(tmp_path / "h"), "SPA3R_WORKERS": "3", "SPA3R_TRAIN_WORKERS": "0",
        "SPA3R_SHARDS": "s3://lab/shards", "SPA3R_TARGETS": "s3://lab/targets",
        "SPA3R_INSTRUCTIONS": "s3://lab/sets", "SPA3R_FEATURES": "s3://lab/features",
        "SPA3R_GPU": "1", "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "PREFECT_HOME": str(tmp_path / "p"),
    }  # fmt: skip
    assert all(name in (module.__doc__ or "") for name in values), "the table lacks a variable"
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    found = Settings.from_environment()
    assert found == Settings(
        home=tmp_path / "h", shards_root="s3://lab/shards", targets_root="s3://lab/targets",
        workers=3, train_workers=0, gpu=True, mlflow_uri="http://mlflow:5000",
        instructions_root="s3://lab/sets", features_root="s3://lab/features",
    )  # fmt: skip
    assert found.instruction_set("vsi-590k") == "s3://lab/sets/vsi-590k"
    assert found.features == "s3://lab/features"
    assert found.shards("rooms", catalogue.get("debug").ingest).startswith("s3://lab/shards/rooms-")
    assert found.prefect_database == tmp_path / "p/prefect.db"


def test_training_workers_follow_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPA3R_WORKERS", "5")
    assert Settings.from_environment().train_workers == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPA3R_WORKERS", "0"),
        ("SPA3R_WORKERS", "two"),
        ("SPA3R_TRAIN_WORKERS", "-1"),
        ("SPA3R_TRAIN_WORKERS", "1.5"),
        ("SPA3R_GPU", "yes"),
        ("SPA3R_GPU", ""),
    ],
)
def test_a_bad_value_is_one_line_naming_the_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        Settings.from_environment()
    text = str(caught.value)
    assert name in text and repr(value) in text and "\n" not in text


def test_other_settings_lie_in_other_folders() -> None:
    found = Settings.from_environment()
    base = catalogue.get("debug")

    def folders(**overrides: object) -> tuple[str | Path, ...]:
        recipe = catalogue.get("debug", {k.replace("__", "."): v for k, v in overrides.items()})
        return (
            found.shards("rooms", recipe.ingest),
            found.targets("rooms", recipe, "train"),
            found.targets("rooms", recipe, "val"),
            found.run("rooms", recipe),
        )

    plain = folders()
    assert plain == folders() and len(set(plain)) == 4
    assert all(found.home in Path(folder).parents for folder in plain)
    changed = {
        "train__steps": [False, False, False, True],
        "clips__seed": [False, True, False, True],
        "eval_clips__seed": [False, False, True, False],  # training does not look at them
        "ingest__stride": [True, True, True, True],
        "train__keep_best": [False] * 4,  # may change when a run goes on
    }
    for name, expected in changed.items():
        value = {"train__steps": 13}.get(name, 7)
        other = folders(**{name: value})
        assert [a != b for a, b in zip(plain, other, strict=True)] == expected, name
    assert found.shards("scannet", base.ingest) != found.shards("rooms", base.ingest)


@pytest.mark.parametrize(
    ("source", "train"), [("online", True), ("hybrid", True), ("cached", False)]
)
def test_statistics_of_fewer_clips_lie_in_another_folder(source: str, train: bool) -> None:
    """Where a draw gives the statistics; held-out targets are whole."""
    found = Settings.from_environment()

    def folders(count: int) -> list[str]:
        overrides = {"data.source": source, "data.statistics_clips": count}
        recipe = catalogue.get("debug", overrides)
        return [found.targets("rooms", recipe, split) for split in ("train", "val")]

    pairs = zip(folders(256), folders(64), strict=True)
    assert [a != b for a, b in pairs] == [train, False]


def test_a_tuning_run_is_named_by_recipe_encoder_and_sets(tmp_path: Path) -> None:
    found = Settings.from_environment()
    base = vlm_catalogue.get("vlm-debug")
    made = {"encoder_hash": "e", "set.rooms": "r"}
    run = found.tuning_run(base, made)
    assert run.parent == found.home / "runs" and run.name.startswith("vlm-debug-")
    assert run == found.tuning_run(base, dict(reversed(made.items())))
    others = [
        found.tuning_run(base, made | {"encoder_hash": "f"}),
        found.tuning_run(base, made | {"set.rooms": "s"}),
        found.tuning_run(vlm_catalogue.get("vlm-debug", {"train.steps": 5}), made),
        found.tuning_run(vlm_catalogue.get("vlm-debug-none"), made),
    ]
    assert len({run, *others}) == 5
    free = vlm_catalogue.get("vlm-debug", {"train.keep_best": 7})
    assert found.tuning_run(free, made) == run, "it may change when a run goes on"
    assert found.instruction_set("rooms") == str(found.home / "instructions/rooms")
    assert found.features == str(found.home / "features")
    assert found.tuning_checkpoints(run) == ""
    away = replace(found, checkpoints_root="s3://lab/checkpoints")
    assert away.tuning_checkpoints(run) == f"s3://lab/checkpoints/{run.name}"


def test_prepare_environment_sends_nothing_and_respects_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    found = Settings.from_environment()
    found.prepare_environment()
    assert (tmp_path / "home").is_dir()
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "home/prefect")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1", "the user's value was overridden"
    for name, value in module.QUIET.items():
        if name != "RAY_USAGE_STATS_ENABLED":
            assert os.environ[name] == value
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "mine"))
    found.prepare_environment()
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "mine")


@pytest.mark.parametrize("name", ["../evil", "a/b", "/tmp/x", "x\ny", "", "..", "a b"])
def test_a_dataset_name_stays_a_name(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path))
    settings = Settings.from_environment()
    for place in (
        lambda: settings.shards(name, IngestSpec()),
        lambda: settings.targets(name, catalogue.get("tiny"), "train"),
        lambda: settings.run(name, catalogue.get("tiny")),
        lambda: settings.instruction_set(name),
    ):
        with pytest.raises(ConfigError, match=r"(dataset|instruction set) .*: use letters"):
            place()
