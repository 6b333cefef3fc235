"""What the stage `targets` asks for: per split what is stored, where the teachers are, packing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import data_stages
from preprocessing import pack, targets
from preprocessing.pack import PackManifest
from preprocessing.targets import TargetManifest


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Calls of write_targets and pack_targets, which do nothing here."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def write(_table: Any, out: str, **options: Any) -> TargetManifest:
        calls.append((out, options))
        return TargetManifest(
            folder=out, target_hash="h", data_hash="d", stored=options["stored"], scenes=2,
            clips=8, bytes=1, dropped={}, failures={"bad": "why"}, reused=2,
        )  # fmt: skip

    def cut(folder: str, out: str, **how: Any) -> PackManifest:
        calls.append((out, {"of": folder, **how}))
        reused = len([packed for packed, options in calls if "of" in options]) - 1
        return PackManifest(folder=out, pack_hash="p", shards=1, clips=8, bytes=1, reused=reused)

    monkeypatch.setenv("SPA3R_HOME", str(tmp_path))
    monkeypatch.setenv("SPA3R_WORKERS", "3")
    monkeypatch.setenv("SPA3R_GPU", "1")
    monkeypatch.setattr(data_stages, "require_shards", lambda *_: "frames")
    monkeypatch.setattr("spa3r.data.shards.FrameTable", SimpleNamespace)
    monkeypatch.setattr(targets, "write_targets", write)
    monkeypatch.setattr(pack, "pack_targets", cut)
    monkeypatch.setattr("spa3r.data.shards.FrameTable", lambda folder: folder)
    return calls


@pytest.mark.parametrize(
    ("source", "stored"), [("cached", "clips"), ("hybrid", "frames"), ("online", "statistics")]
)
def test_the_training_split_stores_what_its_source_needs(
    asked: list[tuple[str, dict[str, Any]]], source: str, stored: str
) -> None:
    overrides = {"data.source": source, "data.statistics_clips": 7}
    result = data_stages.targets(recipe="paper", overrides=overrides, ray=True)
    (_, train), (_, val) = asked
    assert (train["split"], train["stored"]) == ("train", stored)
    assert (val["split"], val["stored"]) == ("val", "clips")
    for options in (train, val):
        assert options["ray"] and options["workers"] == 3 and options["device"] == "cuda"
        assert options["statistics_clips"] == 7
    assert result.facts["scenes that failed"] == 2 and "packed" not in result.facts
    assert result.line.startswith("re-used: 8 clips of 2 scenes")


def test_packed_targets_are_packed(asked: list[tuple[str, dict[str, Any]]]) -> None:
    first, again = (
        data_stages.targets(recipe="tiny", overrides={"data.source": "packed"}) for _ in range(2)
    )
    (train, options), (_, held_out), (packed, of) = asked[:3]
    assert options["device"] == "cpu" and not options["ray"], "rgbd needs no GPU"
    assert packed == f"{train}-packed" and of == {"of": train, "workers": 3}
    assert options["packed"] == packed == first.facts["packed"] and held_out["packed"] == ""
    assert not first.reused and again.reused, "its shards were written the first time"
