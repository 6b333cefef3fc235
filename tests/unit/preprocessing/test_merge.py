"""Several datasets as one: no shard is copied, and what has changed since is noticed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from preprocessing.dataset import ingest_dataset
from preprocessing.merge import merge_manifests
from preprocessing.targets import write_targets
from spa3r import schema, storage
from spa3r.config import ClipSpec, IngestSpec, TeacherSpec
from spa3r.data.shards import FrameTable
from spa3r.errors import ConfigError, ShardError
from spa3r.schema import data_hash
from tests.killing import files_of
from tests.sens_maker import make_dataset, make_sens

SPEC = IngestSpec(width=56, multiple=14)


@pytest.fixture
def members(tmp_path: Path) -> list[str]:
    """Datasets "first" (scenes 0000 and 0001, a frame dropped each) and "second" (a, z)."""
    make_dataset(tmp_path / "raw1", scans=2, frames=10, bad_poses=[2])
    for seed, name in enumerate(("a", "z")):
        make_sens(tmp_path / "raw2" / f"{name}.sens", 9, seed=10 + seed)
    (tmp_path / "raw2" / "scannetv2_train.txt").write_text("z\na\n")
    folders = [str(tmp_path / "first"), str(tmp_path / "second")]
    for number, folder in enumerate(folders, 1):
        ingest_dataset(str(tmp_path / f"raw{number}"), Path(folder).name, SPEC, folder)
    return folders


def read(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "manifest.json").read_text())


def test_rows_of_all_sorted_by_scene_and_no_shard_copied(members: list[str], tmp_path: Path):
    out = tmp_path / "both"
    value = merge_manifests(members[::-1], str(out), "both")
    assert value == read(out) and value["dataset"] == "both"
    version = f"versions/{value['data_hash'][:12]}.json"
    assert set(files_of(out)) == {"manifest.json", "manifest.parquet", version}
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    assert list(rows[0]) == [name for name, _ in schema.MANIFEST_COLUMNS]
    assert [*dict.fromkeys(r["scene"] for r in rows)] == ["a", "scene0000_00", "scene0001_00", "z"]
    assert {r["dataset"] for r in rows if r["scene"] in "az"} == {"second"}
    for row in rows:
        member = members[row["dataset"] == "second"]
        assert row["shard"] == (f"{member}/{row['scene']}.tar" if row["kept"] else "")
    manifests = [read(m) for m in members]
    assert value["merged"] == [
        {"folder": m, "dataset": Path(m).name, "data_hash": read(m)["data_hash"], "scenes": 2}
        for m in members[::-1]
    ]
    assert value["shards"] == manifests[0]["shards"] | manifests[1]["shards"]
    assert value["data_hash"] == data_hash(value["shards"], value["splits"])
    assert (value["scenes"], value["announced"], value["frames"]) == (4, 38, 36)
    assert value["dropped"] == {schema.DROP_POSE: 2}


def test_a_reader_sees_one_dataset(members: list[str], tmp_path: Path):
    out = tmp_path / "both"
    merge_manifests(members, str(out), "both")
    table = FrameTable(out)
    assert table.scenes("train") == ["a", "scene0000_00", "z"]
    assert table.scenes("val") == ["scene0001_00"]
    for folder in members:
        own = FrameTable(folder)
        for scene in own.scenes():
            assert table.shard_hash(scene) == own.shard_hash(scene)
            assert table.shard_url(scene) == own.shard_url(scene)
            assert table.frames(scene) == own.frames(scene)
            here, there = table.load_frame(scene, 5), own.load_frame(scene, 5)
            np.testing.assert_array_equal(here.color, there.color)
            np.testing.assert_array_equal(here.K_33, there.K_33)


def test_targets_of_two_datasets_at_once(members: list[str], tmp_path: Path):
    merge_manifests(members, str(tmp_path / "both"), "both")
    teacher = TeacherSpec(geometric="rgbd", semantic="none", cameras="dataset", width=80)
    clips = ClipSpec(view_counts=(4,), gap=(1, 2), clips_per_scene=2)
    table = FrameTable(tmp_path / "both")
    out = tmp_path / "targets"
    result = write_targets(table, out, clips=clips, teacher=teacher, split="train", workers=2)
    assert (result.scenes, result.clips, result.dropped) == (3, 6, {})
    assert result.data_hash == table.data_hash
    # What a scene's own dataset gives is what it gives here: clips are keyed by that dataset.
    alone = write_targets(
        FrameTable(members[1]), tmp_path / "alone", clips=clips, teacher=teacher, split="train"
    )
    assert alone.scenes == 2
    for name in ("a.clips.tar", "z.clips.tar"):
        assert (tmp_path / "alone" / name).read_bytes() == (out / name).read_bytes()


def test_a_member_that_changed_asks_for_a_new_merge(members: list[str], tmp_path: Path):
    out = tmp_path / "both"
    merge_manifests(members, str(out), "both")
    (tmp_path / "raw2" / "scannetv2_train.txt").write_text("z\n")
    ingest_dataset(str(tmp_path / "raw2"), "second", SPEC, members[1])
    with pytest.raises(ShardError, match=r"second has changed since; merge again"):
        FrameTable(out)
    merge_manifests(members, str(out), "both")
    assert FrameTable(out).split("a") == ""
    assert len(list((out / "versions").iterdir())) == 2
    (Path(members[1]) / "manifest.json").unlink()
    with pytest.raises(ShardError, match="merge again"):
        FrameTable(out)


def test_merging_again_changes_nothing(members: list[str], tmp_path: Path):
    merge_manifests(members, str(tmp_path / "both"), "both")
    before = files_of(tmp_path / "both")
    merge_manifests(members, str(tmp_path / "both"), "both")
    assert files_of(tmp_path / "both") == before


def test_what_members_say_of_benchmarks_and_failures_is_kept(members: list[str], tmp_path: Path):
    make_sens(tmp_path / "raw3" / "scene0707_00.sens", 3)
    (tmp_path / "raw3" / "scannetv2_train.txt").write_text("scene0707_00\n")
    third = str(tmp_path / "third")
    allow = replace(SPEC, benchmark_scenes="allow")
    for spec in (SPEC, allow):
        ingest_dataset(str(tmp_path / "raw3"), "third", spec, third)
        value = merge_manifests([*members, third], str(tmp_path / "all"), "all")
        kept = spec is SPEC
        assert value["splits"]["scene0707_00"] == ("test" if kept else "train")
        assert list(value["kept_out"]) == (["scene0707_00"] if kept else [])
        assert value["benchmark_scenes"] == ("keep_out" if kept else "allow")
        assert value["benchmark_trained"] == ([] if kept else ["scene0707_00"])


def test_scenes_of_one_name_are_refused(members: list[str], tmp_path: Path):
    copy = str(tmp_path / "copy")
    ingest_dataset(str(tmp_path / "raw2"), "copy", SPEC, copy)
    with pytest.raises(ShardError, match=r"scene a is in .*second and in .*copy; rename") as caught:
        merge_manifests([*members, copy], str(tmp_path / "all"), "all")
    assert "\n" not in str(caught.value) and not (tmp_path / "all").exists()


def test_what_cannot_be_merged(members: list[str], tmp_path: Path):
    out = str(tmp_path / "both")
    for folders in ([], [members[0], members[0] + "/"], [*members, out]):
        with pytest.raises(ConfigError, match="merge different datasets"):
            merge_manifests(folders, out, "both")
    with pytest.raises(ConfigError, match="second: holds a dataset that was ingested"):
        merge_manifests(members[:1], members[1], "both")
    with pytest.raises(ShardError, match=r"nowhere/manifest\.json: absent; ingest"):
        merge_manifests([*members, str(tmp_path / "nowhere")], out, "both")
    merge_manifests(members, out, "both")
    with pytest.raises(ConfigError, match="both: is a merge itself; name its members"):
        merge_manifests([out], str(tmp_path / "more"), "more")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 1}, "not of schema 2"),
        ({"shards": []}, "not a manifest of frames"),
        ({"data_hash": None}, "not a manifest of frames"),
        ({"splits": {}}, "not a manifest of frames"),
        ({"shards": {"a": "1"}, "splits": {"a": ""}}, "other scenes than manifest.json"),
    ],
)
def test_a_damaged_member_is_named(members: list[str], tmp_path: Path, change: dict, message: str):
    path = Path(members[1]) / "manifest.json"
    path.write_text(json.dumps(read(members[1]) | change))
    with pytest.raises(ShardError, match=rf"second/manifest\..*{message}"):
        merge_manifests(members, str(tmp_path / "both"), "both")
    assert not (tmp_path / "both" / "manifest.json").exists()


def test_a_table_that_lies_is_named(members: list[str], tmp_path: Path):
    path = Path(members[1]) / "manifest.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["shard"] = "../../secret.tar"
    pq.write_table(table.from_pylist(rows, table.schema), path)
    with pytest.raises(ShardError, match=r"manifest\.parquet: names shards outside its folder"):
        merge_manifests(members, str(tmp_path / "both"), "both")
    for data in (b"", b"PAR1", path.read_bytes()[:-20]):
        path.write_bytes(data)
        with pytest.raises(ShardError, match=r"second/manifest\.parquet: unreadable"):
            merge_manifests(members, str(tmp_path / "both"), "both")


def test_urls_merge_with_paths(members: list[str], tmp_path: Path):
    for name, data in files_of(Path(members[1])).items():
        storage.write_bytes(f"memory://merge-test/second/{name}", data)
    mixed = [members[0], "memory://merge-test/second/"]
    merge_manifests(mixed, "memory://merge-test/both", "both")
    table = FrameTable("memory://merge-test/both")
    assert table.shard_url("a") == "memory://merge-test/second/a.tar"
    assert table.load_frame("a", 3).color.shape == table.load_frame("scene0000_00", 3).color.shape


@pytest.mark.parametrize("merged", [7, [7], [{"folder": "x"}], ["x"]])
def test_a_merge_that_lies_is_named(members: list[str], tmp_path: Path, merged: object):
    merge_manifests(members, str(tmp_path / "both"), "both")
    path = tmp_path / "both" / "manifest.json"
    path.write_text(json.dumps(read(path.parent) | {"merged": merged}))
    with pytest.raises(ShardError, match=r"both/manifest\.json: "):
        FrameTable(path.parent)
