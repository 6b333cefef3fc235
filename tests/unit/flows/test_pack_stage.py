"""`spa3r pack`, and the stage `targets` of a recipe that trains from sequential shards."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows import data_stages, pack_stage
from flows.settings import Settings
from spa3r.data.packed import PackedTargets
from spa3r.errors import ShardError
from spa3r.recipes import catalogue
from tests.frames_maker import make_frames

SMALL = {"clips.clips_per_scene": 2, "eval_clips.clips_per_scene": 1, "eval_clips.view_counts": [4]}


def test_the_stage_targets_packs_where_the_recipe_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path))
    monkeypatch.setenv("SPA3R_WORKERS", "1")
    asked = {"recipe": "debug", "overrides": {**SMALL, "data.source": "packed"}}
    plan = catalogue.get("debug", asked["overrides"])
    settings = replace(Settings.from_environment(), home=tmp_path)
    folder = Path(settings.shards("rooms", plan.ingest))
    with pytest.raises(ShardError, match=r"nothing finished there; run `spa3r targets"):
        pack_stage.pack(**asked)
    make_scenes(folder)
    data_stages.targets(**asked)
    packed = PackedTargets(settings.packed("rooms", plan))
    assert len(packed.clips) == 2
    again = pack_stage.pack(**asked)
    assert again.reused and again.line.startswith("re-used: 2 clips in ")
    assert again.facts["pack hash"] == packed.manifest["packed"]["pack_hash"]


def make_scenes(folder: Path) -> None:
    """A training scene and a held-out one."""
    make_frames(folder, {"a": 8, "b": 8}, size=(112, 84))
    path = folder / "manifest.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:
        row["split"] = "train" if row["scene"] == "a" else "val"
    pq.write_table(table.from_pylist(rows, table.schema), path)
