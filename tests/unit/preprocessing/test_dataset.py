"""A dataset is ingested again and again: what is read, what is re-used, what is reported."""

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from preprocessing.dataset import ingest_dataset
from preprocessing.ingest import SceneResult
from preprocessing.manifests import Manifest
from preprocessing.runners import local_runner
from preprocessing.scannet import ScannetSource
from preprocessing.sources import find_scenes
from spa3r import storage
from spa3r.config import IngestSpec
from spa3r.errors import SceneError, ShardError
from tests.killing import files_of
from tests.sens_maker import make_dataset, make_sens

SPEC = IngestSpec(width=84, multiple=14)
A, B, C = (f"scene{number:04d}_00" for number in range(3))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "raw")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def run(raw: Path, out: Path, spec: IngestSpec = SPEC) -> Manifest:
    return ingest_dataset(str(raw), "", spec, str(out))


def sens(raw: Path, scene: str) -> Path:
    return raw / "scans" / scene / f"{scene}.sens"


def manifest_of(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


def times(out: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in out.glob("*.*") if p.is_file()}


def read_now(manifest: Manifest) -> dict[str, list[str]]:
    """Scenes that were read, by why."""
    return {why: scenes for why, scenes in manifest.changed.items() if scenes}


def test_workers_and_repetition_change_nothing(raw: Path, tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    seen: list[SceneResult] = []
    first = run(raw, one)
    assert read_now(first) == {"new": [A, B, C]} and first.reused == 0
    ingest_dataset(str(raw), "", SPEC, str(two), runner=local_runner(2), on_result=seen.append)
    assert files_of(one) == files_of(two)
    assert sorted(r.scene for r in seen) == [A, B, C]
    before = times(two)
    again = ingest_dataset(str(raw), "", SPEC, str(two), runner=local_runner(2))
    assert again.reused == again.scenes == 3 and read_now(again) == {}
    assert times(two) == before  # not one file was written, the manifest included
    assert replace(again, folder=first.folder, reused=0, changed=first.changed) == first


def test_a_new_scene_is_all_that_is_read(raw: Path, out: Path):
    first = run(raw, out)
    make_sens(sens(raw, "scene0007_00"), 3, seed=7)
    second = run(raw, out)
    assert read_now(second) == {"new": ["scene0007_00"]} and second.reused == 3
    assert (second.scenes, second.announced) == (4, first.announced + 3)
    assert second.data_hash != first.data_hash


def test_a_grown_scene_and_one_edited_in_place_are_read_again(raw: Path, out: Path):
    first = run(raw, out)
    make_sens(sens(raw, A), 8)
    size = sens(raw, B).stat().st_size
    data = bytearray(sens(raw, B).read_bytes())
    data[-100] ^= 0xFF  # within the last frame's depth
    sens(raw, B).write_bytes(data)
    assert sens(raw, B).stat().st_size == size
    second = run(raw, out)
    assert read_now(second) == {"scan changed": [A, B]} and second.reused == 1
    assert second.announced == first.announced + 2
    assert manifest_of(out)["shards"][A] == storage.sha256(out / f"{A}.tar")


def test_a_touched_scene_gives_the_same_bytes(raw: Path, out: Path):
    first, tar = run(raw, out), (out / f"{B}.tar").read_bytes()
    os.utime(sens(raw, B), (1, 1))
    second = run(raw, out)
    assert read_now(second) == {"scan changed": [B]} and second.data_hash == first.data_hash
    assert (out / f"{B}.tar").read_bytes() == tar


def test_a_removed_scene_leaves_the_manifest_and_comes_back(
    raw: Path, out: Path, caplog: pytest.LogCaptureFixture
):
    first = run(raw, out)
    shutil.move(raw / "scans" / B, raw.with_name("away"))
    second = run(raw, out)
    assert second.removed == manifest_of(out)["removed"] == [B] and second.scenes == 2
    assert f"no scans any more, so left out: {B}" in caplog.text
    assert B not in {row["scene"] for row in pq.read_table(out / "manifest.parquet").to_pylist()}
    assert (out / f"{B}.tar").exists()
    shutil.move(raw.with_name("away"), raw / "scans" / B)
    third = run(raw, out)
    assert (third.reused, third.removed, third.data_hash) == (3, [], first.data_hash)


def test_settings_that_shape_shards_do_them_all_again(raw: Path, out: Path):
    first = run(raw, out)
    for spec in (replace(SPEC, width=56), replace(SPEC, width=56, jpeg_quality=80)):
        changed = run(raw, out, spec)
        assert read_now(changed) == {"settings changed": [A, B, C]}
        assert changed.data_hash != first.data_hash


def test_limits_judge_again_without_reading(raw: Path, out: Path):
    make_sens(sens(raw, B), 6, seed=1, bad_poses=[1, 2, 3])
    first, before = run(raw, out), times(out)
    strict = replace(SPEC, max_drop_share=0.4)
    with pytest.raises(SceneError, match=rf"^1 of 3 .*{B}.*3 of 6 frames dropped") as caught:
        run(raw, out, strict)
    assert "\n" not in str(caught.value)
    second = run(raw, out, strict)  # said once
    assert list(second.failures) == [B] and second.scenes == 2
    third = run(raw, out)
    assert (third.reused, third.failures, third.data_hash) == (3, {}, first.data_hash)
    after = times(out)
    assert set(after) == set(before)
    shards = [name for name in before if not name.startswith("manifest.")]
    assert all(after[name] == before[name] for name in shards)


def test_split_lists_change_the_manifest_only(raw: Path, out: Path):
    first, before = run(raw, out), times(out)
    (raw / "scannetv2_train.txt").write_text(f"{A}\n")
    second, after = run(raw, out), times(out)
    assert second.reused == 3 and second.data_hash != first.data_hash
    assert {name for name in before if after[name] != before[name]} == {
        "manifest.json",
        "manifest.parquet",
    }
    splits = {
        row["scene"]: row["split"] for row in pq.read_table(out / "manifest.parquet").to_pylist()
    }
    assert splits == manifest_of(out)["splits"] == {A: "train", B: "", C: "val"}


def test_benchmark_scenes_are_kept_out_unless_allowed(raw: Path, out: Path):
    shutil.copytree(raw / "scans" / A, raw / "scans" / "scene0707_00")
    sens(raw, "scene0707_00").with_name(f"{A}.sens").rename(sens(raw, "scene0707_00"))
    (raw / "scannetv2_train.txt").write_text(f"{A}\n{B}\nscene0707_00\n")
    first = run(raw, out)
    assert first.kept_out == {
        "scene0707_00": "its room is in ScanNet's test list; its split list says train"
    }
    assert manifest_of(out)["splits"]["scene0707_00"] == "test"
    assert (first.benchmark_scenes, first.benchmark_trained) == ("keep_out", [])
    second = run(raw, out, replace(SPEC, benchmark_scenes="allow"))
    written = manifest_of(out)
    assert second.reused == 4 and second.data_hash != first.data_hash
    assert written["splits"]["scene0707_00"] == "train" and written["kept_out"] == {}
    assert written["benchmark_scenes"] == "allow"
    assert written["benchmark_trained"] == ["scene0707_00"]


def test_generated_rooms_only_borrow_names(raw: Path, out: Path):
    shutil.move(raw / "scans" / A, raw / "scans" / "scene0707_00")
    sens(raw, "scene0707_00").with_name(f"{A}.sens").rename(sens(raw, "scene0707_00"))
    (raw / "scannetv2_train.txt").write_text("scene0707_00\n")
    storage.write_json(raw / ".rooms" / "scene0707_00.json", {})  # as the generator leaves it
    manifest = run(raw, out)
    assert manifest.kept_out == {} and manifest_of(out)["splits"]["scene0707_00"] == "train"


def test_a_label_table_concerns_labelled_scans_only(raw: Path, out: Path):
    with zipfile.ZipFile(sens(raw, B).with_name(f"{B}_2d-label-filt.zip"), "w") as archive:
        for frame in range(6):
            image = np.full((120, 160), 2, np.uint8)
            archive.writestr(f"label-filt/{frame}.png", cv2.imencode(".png", image)[1].tobytes())
    first = run(raw, out)
    (raw / "scannetv2-labels.combined.tsv").write_text("id\tnyu40id\n2\t5\n")
    second = run(raw, out)
    assert read_now(second) == {"scan changed": [B]} and second.data_hash != first.data_hash


def test_one_bad_scan_does_not_lose_the_others(raw: Path, tmp_path: Path):
    sens(raw, B).write_bytes(b"\x03\0\0\0 old version")
    for workers in (1, 2):
        out, runner = tmp_path / f"out{workers}", local_runner(workers)
        with pytest.raises(SceneError, match=rf"^1 of 3 scenes .*{B}.*version") as caught:
            ingest_dataset(str(raw), "", SPEC, str(out), runner=runner)
        assert "\n" not in str(caught.value)
        manifest = manifest_of(out)
        assert manifest["scenes"] == 2 and list(manifest["failures"]) == [B]
        assert list(manifest["shards"]) == [A, C]
        rows = pq.read_table(out / "manifest.parquet").to_pylist()
        assert {r["scene"] for r in rows} == set(manifest["shards"])


def test_a_refused_scan_is_reported_once_and_read_when_it_changes(raw: Path, out: Path):
    sens(raw, B).write_bytes(b"\x03\0\0\0 old version")
    with pytest.raises(SceneError, match=B):
        run(raw, out)
    before = times(out)
    opened = []

    def watched(job, sources):
        opened.extend(source.name for source in sources)
        yield from local_runner(1)(job, sources)

    again = ingest_dataset(str(raw), "", SPEC, str(out), runner=watched)
    assert opened == [] and times(out) == before and list(again.failures) == [B]
    # Neither a judgement of splits nor another limit than its own brings it back.
    allowed = run(raw, out, replace(SPEC, benchmark_scenes="allow"))
    assert list(allowed.failures) == [B]
    make_sens(sens(raw, B), 4)
    mended = run(raw, out)
    assert read_now(mended) == {"scan changed": [B]} and mended.failures == {}
    assert not list(out.glob("*.refused.json"))


def test_a_good_scan_that_goes_bad_leaves_the_manifest(raw: Path, out: Path):
    run(raw, out)
    sens(raw, B).write_bytes(b"\x03\0\0\0 old version")
    with pytest.raises(SceneError, match=B):
        run(raw, out)
    assert list(manifest_of(out)["shards"]) == [A, C] and not (out / f"{B}.done.json").exists()
    assert list(run(raw, out).failures) == [B]


def test_a_disk_that_fails_is_tried_again(raw: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    whole = ScannetSource.open

    @contextmanager
    def failing(self: ScannetSource, labels: bool = True) -> Iterator:
        if self.name == B:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        with whole(self, labels) as scene:
            yield scene

    monkeypatch.setattr(ScannetSource, "open", failing)
    for _ in range(2):  # it is no fault of the scan, so it is not remembered
        with pytest.raises(SceneError, match=f"{B}.*cannot be read.*Input/output error"):
            run(raw, out)
        assert not list(out.glob("*.refused.json"))
    monkeypatch.undo()
    assert run(raw, out).failures == {}


def test_a_scan_that_is_still_being_copied_is_read_again(
    raw: Path, out: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, data = ScannetSource.open, sens(raw, B).read_bytes()
    sens(raw, B).write_bytes(data[:200])

    @contextmanager
    def copying(self: ScannetSource, labels: bool = True) -> Iterator:
        try:
            with whole(self, labels) as scene:
                yield scene
        finally:
            if self.name == B:
                sens(raw, B).write_bytes(data)  # the copy ends just after it was read

    monkeypatch.setattr(ScannetSource, "open", copying)
    with pytest.raises(SceneError, match=B):
        run(raw, out)
    monkeypatch.undo()
    assert run(raw, out).failures == {}


def test_a_lost_or_cut_shard_is_made_again(raw: Path, out: Path):
    first = run(raw, out)
    (out / f"{A}.tar").unlink()
    (out / f"{B}.tar").write_bytes(b"cut")
    second = run(raw, out)
    assert second.reused == 1 and second.data_hash == first.data_hash
    assert storage.sha256(out / f"{B}.tar") == manifest_of(out)["shards"][B]


def test_nothing_usable_leaves_no_manifest(raw: Path, out: Path):
    run(raw, out)
    with pytest.raises(SceneError, match=r"^3 of 3 scenes cannot be used"):
        run(raw, out, replace(SPEC, min_frames=100))
    assert not (out / "manifest.json").exists() and not (out / "manifest.parquet").exists()
    assert run(raw, out).reused == 3


def test_unknown_scene_names_and_missing_roots(raw: Path, out: Path):
    with pytest.raises(SceneError, match="scene0099_00"):
        ingest_dataset(str(raw), "", SPEC, str(out), scenes=["scene0099_00"])
    with pytest.raises(SceneError, match="nowhere"):
        run(raw.with_name("nowhere"), out)
    only = ingest_dataset(str(raw), "", SPEC, str(out), scenes=[B])
    assert only.scenes == 1
    run(raw, out)
    part = ingest_dataset(str(raw), "", SPEC, str(out), scenes=[B])
    assert (part.scenes, part.removed) == (1, [])  # chosen, not gone


def test_an_unwritable_folder_stops_at_once(raw: Path, out: Path):
    out.write_text("a file, not a folder")
    with pytest.raises(ShardError, match=A):
        run(raw, out)


def test_a_storage_that_does_not_answer_is_one_line(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("preprocessing.dataset.shards.Snapshot", refuse)
    with pytest.raises(ShardError, match=r"out: cannot be listed \(Permission denied\); check"):
        ingest_dataset(str(raw), "", SPEC, str(tmp_path / "out"))
    monkeypatch.setattr("preprocessing.dataset.find_scenes", refuse)
    with pytest.raises(SceneError, match=r"raw: cannot be listed \(Permission denied\); check"):
        ingest_dataset(str(raw), "", SPEC, str(tmp_path / "out"))


def test_another_root_does_not_take_the_place_of_the_first(raw: Path, tmp_path: Path):
    out = str(tmp_path / "out")
    ingest_dataset(str(raw), "rooms", SPEC, out)
    before = files_of(tmp_path / "out")
    make_sens(tmp_path / "other" / "a.sens")
    with pytest.raises(SceneError, match="none of the 3 scenes ingested before is here"):
        ingest_dataset(str(tmp_path / "other"), "rooms", SPEC, out)
    assert files_of(tmp_path / "out") == before


def test_scans_that_are_links_are_read_and_followed(raw: Path, tmp_path: Path):
    linked, out = tmp_path / "linked", tmp_path / "out"
    linked.mkdir()
    (linked / A).symlink_to(raw / "scans" / A)  # a folder
    (linked / f"{B}.sens").symlink_to(sens(raw, B))
    (linked / C).mkdir()
    (linked / C / f"{C}.sens").symlink_to(sens(raw, C))
    (linked / "scene0009_00.sens").symlink_to(tmp_path / "nowhere")
    assert read_now(run(linked, out)) == {"new": [A, B, C]}
    assert run(linked, out).reused == 3
    for scene in (A, B, C):
        os.utime(sens(raw, scene), (1, 1))
        assert read_now(run(linked, out)) == {"scan changed": [scene]}


def test_a_scan_without_files_is_tried_again(raw: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    """The one that copies it may not have come to it yet."""
    run(raw, out)
    sens(raw, B).rename(raw / "kept")
    found = find_scenes(str(raw), "scannet")[1]
    lost = replace(found[0], name=B, url=str(sens(raw, B)))  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr("preprocessing.dataset.find_scenes", lambda *_: ("scannet", [*found, lost]))
    for _ in range(2):
        with pytest.raises(SceneError, match=rf"{B}\.sens: cannot be read \(none of its files"):
            run(raw, out)
        assert not (out / f"{B}.refused.json").exists()
    (raw / "kept").rename(sens(raw, B))
    assert run(raw, out).scenes == 3


@pytest.mark.parametrize(
    "damage",
    [
        {"counts": {}}, {"counts": {"kept": "many"}}, {"counts": {"dropped": [1]}},
        {"counts": {"problems": None}}, {"counts": {"new": 1}}, {"files": []}, {"files": {}},
        {"unit": "another"}, {"unit": 7},
    ],
)  # fmt: skip
def test_a_sidecar_that_is_not_of_ingest_is_a_scene_to_do(raw: Path, out: Path, damage: dict):
    run(raw, out)
    before, path = files_of(out), out / f"{B}.done.json"
    value = json.loads(path.read_text())
    if counts := damage.get("counts"):
        damage = {"counts": value["counts"] | counts}
    path.write_text(json.dumps(value | damage))
    assert read_now(run(raw, out)) == {"new": [B]}
    assert files_of(out) == before
