"""Bounded reading: what the manifest says is what is read, and damage has a name."""

import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessing.dataset import ingest_dataset
from preprocessing.shards import write_tar
from spa3r import images, storage
from spa3r.config import IngestSpec
from spa3r.data.shards import FrameTable, ShardReader, iter_samples
from spa3r.errors import ShardError
from spa3r.geometry import is_rigid
from tests.killing import files_of
from tests.sens_maker import make_dataset, pose

SPEC = IngestSpec(width=84, multiple=14)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scans of six frames, frame 2 dropped."""
    make_dataset(tmp_path / "raw", scans=2, bad_poses=[2])
    ingest_dataset(str(tmp_path / "raw"), "rooms", SPEC, str(tmp_path / "out"))
    return tmp_path / "out"


def change_row(folder: Path, **values: object) -> None:
    """Overwrites columns of the first row of the manifest."""
    table = pq.read_table(folder / "manifest.parquet")
    rows = table.to_pylist()
    rows[0] |= values
    pq.write_table(pa.Table.from_pylist(rows, table.schema), folder / "manifest.parquet")


def test_table_lists_what_was_kept(folder: Path):
    table = FrameTable(folder)
    assert table.scenes() == ["scene0000_00", "scene0001_00"]
    assert table.scenes("train") == ["scene0000_00"] and table.scenes("test") == []
    assert table.frames("scene0001_00") == [0, 1, 3, 4, 5]
    assert table.split("scene0001_00") == "val" and table.dataset("scene0001_00") == "rooms"
    assert table.shard_hash("scene0000_00") == storage.sha256(folder / "scene0000_00.tar")
    assert table.data_hash == json.loads((folder / "manifest.json").read_text())["data_hash"]


def test_frames_come_back_as_they_went_in(folder: Path):
    sample = FrameTable(folder).load_frame("scene0001_00", 3)
    assert sample.color.shape == (56, 84, 3) and sample.color.dtype == np.uint8
    assert sample.depth_mm is not None and sample.depth_mm.dtype == np.uint16
    assert sample.labels is None and sample.K_33 is not None
    assert sample.world_from_camera_44 is not None
    np.testing.assert_allclose(sample.world_from_camera_44, pose(3), atol=1e-6)
    np.testing.assert_allclose(sample.K_33[0], [75.6, 0, 42])


def test_mirror_flips_everything_together(folder: Path):
    table = FrameTable(folder)
    plain = table.load_frame("scene0000_00", 1)
    mirrored = table.load_frame("scene0000_00", 1, mirror=True)
    np.testing.assert_array_equal(mirrored.color, plain.color[:, ::-1])
    assert plain.depth_mm is not None and mirrored.depth_mm is not None
    np.testing.assert_array_equal(mirrored.depth_mm, plain.depth_mm[:, ::-1])
    assert plain.world_from_camera_44 is not None and mirrored.world_from_camera_44 is not None
    assert mirrored.world_from_camera_44[0, 3] == -plain.world_from_camera_44[0, 3]
    assert is_rigid(mirrored.world_from_camera_44)


def with_masks(folder: Path) -> np.ndarray:
    """Adds a mask to frame 1 of the first scene; returns it: (H, W)."""
    mask = np.full((56, 84), 255, np.uint8)
    mask[:, :30] = 0
    samples = []
    for sample in iter_samples(str(folder / "scene0000_00.tar")):
        key = sample["__key__"]
        parts = {name: data for name, data in sample.items() if not name.startswith("__")}
        if key.endswith("000001"):
            parts["mask.png"] = images.encode_mask_png(mask)
        samples.append((key, parts))
    index = write_tar(str(folder / "scene0000_00.tar"), samples)
    rows = pq.read_table(folder / "manifest.parquet")
    changed = rows.to_pylist()
    for entry in index.entries:
        part, frame = entry.part.split(".")[0], int(entry.key[-6:])
        if part != "camera":
            changed[frame] |= {f"{part}_offset": entry.offset, f"{part}_size": entry.size}
    pq.write_table(pa.Table.from_pylist(changed, rows.schema), folder / "manifest.parquet")
    return mask


def test_masks_come_along_and_are_mirrored_too(folder: Path):
    mask_HW = with_masks(folder)
    table = FrameTable(folder)
    assert table.load_frame("scene0000_00", 0).mask is None
    masked = table.load_frame("scene0000_00", 1)
    mirrored = table.load_frame("scene0000_00", 1, mirror=True)
    assert masked.mask is not None and masked.mask.dtype == np.uint8
    np.testing.assert_array_equal(masked.mask, mask_HW)
    np.testing.assert_array_equal(mirrored.mask, mask_HW[:, ::-1])
    assert masked.depth_mm is not None and mirrored.depth_mm is not None
    np.testing.assert_array_equal(mirrored.depth_mm, masked.depth_mm[:, ::-1])


def test_where_a_scene_lies(folder: Path):
    assert FrameTable(folder).shard_url("scene0000_00") == str(folder / "scene0000_00.tar")


def test_samples_stream_in_order(folder: Path):
    samples = list(iter_samples(str(folder / "scene0000_00.tar")))
    assert [s["__key__"] for s in samples] == [f"scene0000_00-{n:06d}" for n in (0, 1, 3, 4, 5)]
    table = FrameTable(folder)
    row = table.row("scene0000_00", 4)
    url = str(folder / row["shard"])
    assert samples[3]["color.jpg"] == ShardReader().read(
        url, row["color_offset"], row["color_size"]
    )
    camera = json.loads(samples[3]["camera.json"])
    assert camera["K"] == row["K"] and camera["frame"] == 4


def test_memory_urls_read_alike(folder: Path):
    for name, data in files_of(folder).items():
        storage.write_bytes(f"memory://read-test/{name}", data)
    here, there = FrameTable(folder), FrameTable("memory://read-test")
    for scene in here.scenes():
        a, b = here.load_frame(scene, 1), there.load_frame(scene, 1)
        np.testing.assert_array_equal(a.color, b.color)
    assert len(list(iter_samples("memory://read-test/scene0000_00.tar"))) == 5
    with pytest.raises(ShardError, match="do not belong together"):
        ShardReader().read("memory://read-test/scene0000_00.tar", 0, 1 << 40)


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, 11), (10, 1), (0, -1), (1 << 60, 1)])
def test_ranges_outside_the_file_are_refused(tmp_path: Path, offset: int, size: int):
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    with pytest.raises(ShardError, match=r"a\.tar"):
        ShardReader().read(str(tmp_path / "a.tar"), offset, size)


def test_few_files_stay_open_and_threads_agree(tmp_path: Path):
    for n in range(8):
        (tmp_path / f"{n}.tar").write_bytes(bytes([n]) * 100)
    reader, wrong = ShardReader(max_open=2), []

    def read() -> None:
        for n in list(range(8)) * 25:
            if reader.read(str(tmp_path / f"{n}.tar"), 40, 20) != bytes([n]) * 20:
                wrong.append(n)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and reader.open_files <= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard": "gone.tar"}, r"gone\.tar"),
        ({"shard": "../out/scene0000_00.tar"}, "outside of the dataset"),
        ({"shard": "/etc/passwd"}, "outside of the dataset"),
        ({"shard": "memory://read-test/scene0000_00.tar"}, "outside of the dataset"),
        ({"shard": ".."}, r"cannot be read"),
        ({"color_size": 1 << 40}, "do not belong together"),
        ({"color_offset": 3}, "frame 0"),
        ({"width": 98}, "its manifest says"),
        ({"K": [1.0, 2.0]}, "K is no matrix"),
        ({"world_from_camera": [float("nan")] * 16}, "no matrix"),
    ],
)
def test_a_manifest_that_lies_is_named(folder: Path, change: dict, message: str):
    change_row(folder, **change)
    with pytest.raises(ShardError, match=message):
        FrameTable(folder).load_frame("scene0000_00", 0)


def test_missing_or_damaged_manifests(folder: Path, tmp_path: Path):
    with pytest.raises(ShardError, match="ingest"):
        FrameTable(tmp_path / "nowhere")
    table = FrameTable(folder)
    for scene, frame in (("scene0000_00", 2), ("scene0000_00", 99), ("other", 0)):
        with pytest.raises(ShardError):
            table.load_frame(scene, frame)
    change_row(folder, frame=5)
    with pytest.raises(ShardError, match="out of order"):
        FrameTable(folder)
    (folder / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(ShardError, match=r"manifest\.parquet"):
        FrameTable(folder)
    (folder / "manifest.json").write_text('{"schema": 99}')
    with pytest.raises(ShardError, match=r"manifest\.json"):
        FrameTable(folder)


@pytest.mark.parametrize("key", ["schema", "shards", "data_hash"])
def test_a_manifest_without_its_keys_is_named(folder: Path, key: str):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest[key]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=r"manifest\.json: not .*run the stage"):
        FrameTable(folder)


def test_a_scene_without_its_hash_is_named(folder: Path):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["shards"]["scene0000_00"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match=r"manifest\.json: no shard of scene scene0000_00"):
        FrameTable(folder).shard_hash("scene0000_00")


@pytest.mark.parametrize("keep", [0, 100, 700, 5000])
def test_streaming_a_cut_or_absent_tar(folder: Path, keep: int):
    path = folder / "scene0000_00.tar"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ShardError, match=r"scene0000_00\.tar"):
        list(iter_samples(str(path)))
    with pytest.raises(ShardError, match=r"absent\.tar"):
        list(iter_samples(str(folder / "absent.tar")))
