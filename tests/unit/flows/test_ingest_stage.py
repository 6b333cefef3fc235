"""What the stage `ingest` says of a run, and where it runs."""

from pathlib import Path
from typing import Any

import pytest

from flows import ingest_stage
from preprocessing import ray_runner, runners
from preprocessing.manifests import Manifest
from preprocessing.space import Room
from spa3r.errors import ConfigError, ShardError

FOUND: dict[str, Any] = {
    "folder": "/shards/scannet-1", "dataset": "scannet", "data_hash": "abc", "scenes": 12,
    "announced": 500, "frames": 480, "dropped": {"blur": 20, "stride": 0}, "failures": {},
    "kept_out": {}, "removed": [], "reused": 0, "changed": {"new": [], "scan changed": []},
}  # fmt: skip


def line(**values: Any) -> str:
    return ingest_stage._line(FOUND | values)


def test_only_what_there_is_is_said() -> None:
    assert line(reused=12) == "12 scenes, 480 of 500 frames (20 blur), in /shards/scannet-1"
    assert line(scenes=1, dropped={}).startswith("1 scene, 480 of 500 frames, in")
    everything = line(
        changed={"new": ["a", "b", "c"], "scan changed": ["d"]}, reused=8, removed=["x", "y"],
        failures={"f": "too short"}, kept_out={"g": "is in the list of ScanNet's val scenes"},
    )  # fmt: skip
    assert everything == (
        "12 scenes (3 new, 1 scan changed, 8 re-used), 480 of 500 frames (20 blur),"
        " 1 that cannot be used, 2 removed, 1 kept out of training, in /shards/scannet-1"
    )


def test_an_artifact_names_some_of_many_scenes() -> None:
    names = [f"scene{n:04d}_00" for n in range(1513)]
    facts = ingest_stage._facts(
        FOUND | {"changed": {"new": names}, "failures": {"f": "too short", "e": "no frames"}}
    )
    assert facts["new"].startswith("1513: scene0000_00, scene0001_00, ")
    assert facts["new"].endswith("scene0019_00, and 1493 more")
    assert facts["failures"] == "2; e: no frames; f: too short"
    assert facts["removed"] == "0" and facts["data hash"] == "abc"


def test_every_field_that_is_said_is_a_manifests() -> None:
    assert set(FOUND) <= set(Manifest.__dataclass_fields__)


@pytest.mark.parametrize("ray", [False, True])
def test_it_runs_where_it_is_told(
    ray: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def runner(name: str) -> Any:
        def make(workers: int, room: Room) -> Any:
            assert isinstance(room, Room)
            asked.append((name, workers))
            return runners.run_here

        return make

    monkeypatch.setattr(ray_runner, "ray_runner", runner("ray"))
    monkeypatch.setattr(runners, "local_runner", runner("local"))
    assert ingest_stage._runner(3, str(tmp_path), ray=ray) is runners.run_here
    assert asked == [("ray" if ray else "local", 3)]


def test_a_merge_needs_a_name_of_its_own_and_finished_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path))
    for name in ("scannet", "one"):
        with pytest.raises(ConfigError, match=f"merge {name}: a dataset has that name"):
            ingest_stage.merge(name, ["one", "two"])
    with pytest.raises(ShardError, match="spa3r ingest ROOT --dataset one --recipe tiny"):
        ingest_stage.merge("both", ["one", "two"])
    assert not list(tmp_path.iterdir())
