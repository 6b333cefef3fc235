"""Scans in, shards and manifest out: counts, K, re-use, and scans that cannot be used."""

import json
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from preprocessing.ingest import SceneResult, ingest_dataset, ingest_scene
from preprocessing.sources import open_scenes
from spa3r import schema, storage
from spa3r.config import IngestSpec
from spa3r.data.shards import FrameTable
from spa3r.errors import SceneError, ShardError
from spa3r.images import decode_depth_png, decode_jpeg
from tests.sens_maker import make_dataset, make_sens, pose

SPEC = IngestSpec(width=84, multiple=14)


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(out / "manifest.parquet").to_pylist()


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "raw")


def test_manifest_has_every_frame_and_places_of_its_parts(tmp_path: Path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    make_dataset(raw, scans=1, frames=8, bad_poses=[1], bad_jpegs=[2], empty_depths=[3])
    manifest = ingest_dataset(str(raw), "", SPEC, str(out))
    rows = rows_of(out)
    assert [name for name, _ in schema.MANIFEST_COLUMNS] == list(rows[0])
    assert [r["frame"] for r in rows] == list(range(8))
    reasons = ["", schema.DROP_POSE, schema.DROP_IMAGE, schema.DROP_DEPTH, "", "", "", ""]
    assert [r["reason"] for r in rows] == reasons
    assert [r["kept"] for r in rows] == [r == "" for r in reasons]
    assert manifest.dropped == dict.fromkeys(sorted(filter(None, reasons)), 1)
    assert (manifest.announced, manifest.frames, manifest.dataset) == (8, 5, "scannet")
    tar = (out / "scene0000_00.tar").read_bytes()
    for row in (r for r in rows if r["kept"]):
        color = decode_jpeg(tar[row["color_offset"] :][: row["color_size"]])
        depth = decode_depth_png(tar[row["depth_offset"] :][: row["depth_size"]])
        assert color.shape[:2] == depth.shape == (row["height"], row["width"]) == (56, 84)
        assert row["label_offset"] == -1 and row["split"] == "val"
        assert abs(int(depth[28, 42]) - (1000 + row["frame"] + 30 + 40)) <= 2
        np.testing.assert_allclose(np.reshape(row["world_from_camera"], (4, 4)), pose(row["frame"]))


def test_image_and_intrinsics_change_together(tmp_path: Path):
    make_sens(tmp_path / "raw" / "a.sens", size=(160, 120))
    ingest_dataset(str(tmp_path / "raw"), "", SPEC, str(tmp_path / "out"))
    row = rows_of(tmp_path / "out")[0]
    scale = 84 / 160  # 160 x 120 -> 84 x 63, cropped to 84 x 56 with 3 rows off at the top
    expected = [[144 * scale, 0, 42], [0, 144 * 63 / 120, 63 / 2 - 3], [0, 0, 1]]
    np.testing.assert_allclose(np.reshape(row["K"], (3, 3)), expected)


def test_stride_is_counted_apart(raw: Path, tmp_path: Path):
    spec = IngestSpec(width=84, stride=4, max_drop_share=0.01)
    manifest = ingest_dataset(str(raw), "rooms", spec, str(tmp_path / "out"))
    assert manifest.dropped == {schema.DROP_STRIDE: 3 * 4}
    assert (manifest.frames, manifest.announced, manifest.dataset) == (3 * 2, 3 * 6, "rooms")
    kept = [(r["scene"], r["frame"]) for r in rows_of(tmp_path / "out") if r["kept"]]
    assert kept == [(f"scene{n:04d}_00", f) for n in range(3) for f in (0, 4)]


def test_workers_and_repetition_change_nothing(raw: Path, tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    seen: list[SceneResult] = []
    ingest_dataset(str(raw), "", SPEC, str(one))
    ingest_dataset(str(raw), "", SPEC, str(two), workers=2, on_result=seen.append)
    assert files_of(one) == files_of(two)
    assert sorted(r.scene for r in seen) == [f"scene{n:04d}_00" for n in range(3)]
    before = {p: p.stat().st_mtime_ns for p in two.glob("*.tar")}
    again = ingest_dataset(str(raw), "", SPEC, str(two), workers=2)
    assert again.reused == again.scenes == 3
    assert before == {p: p.stat().st_mtime_ns for p in two.glob("*.tar")}
    assert files_of(one) == files_of(two)


def test_other_settings_or_another_scan_are_ingested_anew(raw: Path, tmp_path: Path):
    out = tmp_path / "out"
    first = ingest_dataset(str(raw), "", SPEC, str(out))
    changed = ingest_dataset(str(raw), "", IngestSpec(width=56), str(out))
    assert changed.reused == 0 and changed.data_hash != first.data_hash
    make_sens(raw / "scans" / "scene0001_00" / "scene0001_00.sens", frames=4)
    changed = ingest_dataset(str(raw), "", IngestSpec(width=56), str(out))
    assert (changed.reused, changed.announced) == (2, 16)


TABLE = "scannetv2-labels.combined.tsv"


def test_a_label_table_put_beside_the_scans_later_is_seen(tmp_path: Path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    path = make_sens(raw / "a.sens", frames=2)
    with zipfile.ZipFile(path.with_name("a_2d-label-filt.zip"), "w") as archive:
        for frame in range(2):
            image = np.full((120, 160), 2, np.uint8)
            archive.writestr(f"label-filt/{frame}.png", cv2.imencode(".png", image)[1].tobytes())
    states: list[int] = []
    for nyu40 in (None, 5, 5, 6, None):
        (raw / TABLE).unlink(missing_ok=True)
        if nyu40 is not None:
            (raw / TABLE).write_text(f"id\tnyu40id\n2\t{nyu40}\n")
        states.append(ingest_dataset(str(raw), "", SPEC, str(out)).reused)
        labels = FrameTable(out).load_frame("a", 1).labels
        assert (labels is None) if nyu40 is None else (labels is not None and labels[0, 0] == nyu40)
    assert states == [0, 0, 1, 0, 0]


def test_a_manifest_never_outlives_its_shards(raw: Path, tmp_path: Path):
    out = tmp_path / "out"
    ingest_dataset(str(raw), "", SPEC, str(out))
    ingest_scene(open_scenes(str(raw), "scannet")[0], IngestSpec(width=56), str(out))
    assert not (out / "manifest.json").exists() and not (out / "manifest.parquet").exists()


def test_one_bad_scan_does_not_lose_the_others(raw: Path, tmp_path: Path):
    out = tmp_path / "out"
    (raw / "scans" / "scene0001_00" / "scene0001_00.sens").write_bytes(b"\x03\0\0\0 old version")
    for workers in (1, 2):
        with pytest.raises(SceneError, match=r"^1 of 3 scenes .*scene0001_00.*version") as caught:
            ingest_dataset(str(raw), "", SPEC, str(out), workers=workers)
        assert "\n" not in str(caught.value)
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["scenes"] == 2 and list(manifest["failures"]) == ["scene0001_00"]
        assert list(manifest["shards"]) == ["scene0000_00", "scene0002_00"]
        assert {r["scene"] for r in rows_of(out)} == set(manifest["shards"])


def test_too_few_usable_frames(tmp_path: Path):
    make_sens(tmp_path / "raw" / "a.sens", frames=4, bad_poses=[0, 1, 2])
    out = tmp_path / "out"
    for spec, why in (
        (IngestSpec(width=84, min_frames=2), "1 usable frames of 4 .*3 invalid_pose"),
        (IngestSpec(width=84, max_drop_share=0.7), "3 of 4 frames dropped .*share of 0.7"),
    ):
        with pytest.raises(SceneError, match=why):
            ingest_dataset(str(tmp_path / "raw"), "", spec, str(out))
        assert not out.exists() or list(out.iterdir()) == []


def test_truncated_scan_keeps_its_complete_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = make_sens(tmp_path / "raw" / "a.sens", frames=6)
    path.write_bytes(path.read_bytes()[:-3000])
    manifest = ingest_dataset(str(tmp_path / "raw"), "", SPEC, str(tmp_path / "out"))
    assert manifest.frames == 6 - manifest.dropped[schema.DROP_TRUNCATED] < 6
    assert "a.sens" in caplog.text


def test_damaged_scans_are_dropped_frame_by_frame(shared: Path, tmp_path: Path):
    folder = shared / "data" / "scannet" / "sens_bad"
    if not folder.is_dir():
        pytest.skip("no damaged scans in the reference material")
    for case in json.loads((folder / "expected.json").read_text()):
        out = tmp_path / case["file"]
        if case["outcome"] == "reject" or not case["frames_complete"]:
            with pytest.raises(SceneError, match=case["file"]):
                ingest_dataset(str(folder / case["file"]), "", SPEC, str(out))
            continue
        usable = set(case["frames_complete"])
        usable -= {*case["colour_unusable"], *case["depth_unusable"]}
        ingest_dataset(str(folder / case["file"]), "", SPEC, str(out))
        assert {r["frame"] for r in rows_of(out) if r["kept"]} == usable, case["file"]


def test_photos_have_no_camera(tmp_path: Path):
    raw = tmp_path / "my.photos"
    raw.mkdir()
    for name in ("2.png", "10.png"):
        cv2.imwrite(str(raw / name), np.full((90, 120, 3), 80, np.uint8))
    ingest_dataset(str(raw), "", SPEC, str(tmp_path / "out"))
    rows = rows_of(tmp_path / "out")
    assert [(r["K"], r["world_from_camera"], r["depth_offset"]) for r in rows] == [([], [], -1)] * 2


def test_urls_stand_where_paths_stand(raw: Path, tmp_path: Path):
    for path in raw.rglob("*.*"):
        url = f"memory://ingest-test/raw/{path.relative_to(raw).as_posix()}"
        storage.write_bytes(url, path.read_bytes())
    ingest_dataset("memory://ingest-test/raw", "", SPEC, "memory://ingest-test/out")
    ingest_dataset(str(raw), "", SPEC, str(tmp_path / "out"))
    urls = storage.list_files("memory://ingest-test/out")
    remote = {u.rpartition("/")[2]: storage.read_bytes(u) for u in urls}
    assert remote == files_of(tmp_path / "out")


def test_unknown_scene_names_and_missing_roots(raw: Path, tmp_path: Path):
    with pytest.raises(SceneError, match="scene0099_00"):
        ingest_dataset(str(raw), "", SPEC, str(tmp_path / "out"), scenes=["scene0099_00"])
    with pytest.raises(SceneError, match="nowhere"):
        ingest_dataset(str(tmp_path / "nowhere"), "", SPEC, str(tmp_path / "out"))
    only = ingest_dataset(str(raw), "", SPEC, str(tmp_path / "out"), scenes=["scene0001_00"])
    assert only.scenes == 1


def test_a_vanished_scan_is_named(raw: Path, tmp_path: Path):
    source = open_scenes(str(raw), "scannet")[0]
    shutil.rmtree(raw)
    with pytest.raises(SceneError, match=r"scene0000_00\.sens: cannot be read"):
        ingest_scene(source, SPEC, str(tmp_path / "out"))


def test_an_unwritable_folder_stops_at_once(raw: Path, tmp_path: Path):
    (tmp_path / "out").write_text("a file, not a folder")
    with pytest.raises(ShardError, match="scene0000_00"):
        ingest_dataset(str(raw), "", SPEC, str(tmp_path / "out"))
