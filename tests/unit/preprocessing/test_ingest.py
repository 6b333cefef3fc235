"""Scans in, shards and manifest out: counts, K, re-use, and scans that cannot be used."""

import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from preprocessing.dataset import ingest_dataset
from preprocessing.ingest import FrameCounts, ingest_scene, unusable
from preprocessing.scene import Damage, Frame
from preprocessing.sources import open_scenes
from spa3r import images, schema, storage
from spa3r.config import IngestSpec
from spa3r.data.shards import FrameTable
from spa3r.errors import FormatError, SceneError
from spa3r.images import EncodedImage, decode_depth_png, decode_jpeg
from tests.killing import files_of
from tests.sens_maker import make_dataset, make_sens, pose

SPEC = IngestSpec(width=84, multiple=14)


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(out / "manifest.parquet").to_pylist()


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
    here = files_of(tmp_path / "out")
    names = {name for name in here if "/" not in name}
    assert set(storage.list_sizes("memory://ingest-test/out")) == names
    for name, data in here.items():
        there = storage.read_bytes(f"memory://ingest-test/out/{name}")
        if name.endswith(".done.json"):  # stamps of files differ between file systems
            mine, theirs = json.loads(data), json.loads(there)
            assert mine["counts"].pop("signature") != theirs["counts"].pop("signature")
            assert mine == theirs
        else:
            assert data == there, name


def test_a_vanished_scan_is_named(raw: Path, tmp_path: Path):
    source = open_scenes(str(raw), "scannet")[0]
    shutil.rmtree(raw)
    with pytest.raises(SceneError, match=r"scene0000_00\.sens: cannot be read"):
        ingest_scene(source, SPEC, str(tmp_path / "out"))


# --- a scene of our own making: what no `.sens` file can hold -------------------------------------


@dataclass
class HandMade:
    """Source and scene in one: flat pictures, one brightness a frame."""

    url: str
    sizes: list[tuple[int, int]]
    """Of the frames' pictures, (width, height)."""
    masked: tuple[int, ...] = ()
    screened: frozenset[int] = frozenset()
    annotations: dict[str, Any] | FormatError | None = None
    dataset: str = "handmade"
    name: str = "room"
    split: str = "train"
    fingerprint: str = ""
    label_to_nyu40: None = None
    problems: list[str] = field(default_factory=list)

    @property
    def content(self) -> tuple[str, ...]:
        return (self.url,)

    @property
    def indices(self) -> range:
        return range(len(self.sizes))

    @contextmanager
    def open(self, labels: bool = True) -> Iterator[Any]:
        yield self

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        for index in self.indices if numbers is None else numbers:
            if index in self.screened:
                yield Damage(index=index, reason=schema.DROP_MISSING, detail="no such file")
                continue
            width, height = self.sizes[index]
            mask_HW = np.full((height, width), 255, np.uint8)
            mask_HW[: height // 2] = 0
            mask = EncodedImage(data=images.encode_mask_png(mask_HW), codec="file")
            rgb = np.full((height, width, 3), 40 + index, np.uint8)
            yield Frame(
                index=index,
                color=EncodedImage(data=rgb.tobytes(), codec="raw_rgb8", size=(width, height)),
                depth=None,
                labels=None,
                mask=mask if index in self.masked else None,
                K_33=None,
                world_from_camera_44=None,
                timestamp_us=-1,
            )

    def objects(self) -> dict[str, Any] | None:
        if isinstance(self.annotations, FormatError):
            raise self.annotations
        return self.annotations


@pytest.fixture
def scan(tmp_path: Path) -> str:
    (tmp_path / "scan").write_bytes(b"1")
    return str(tmp_path / "scan")


def rows_of_scene(out: Path) -> list[dict]:
    return pq.read_table(out / "room.frames.parquet").to_pylist()


def test_frames_of_another_shape_than_the_first_are_dropped(scan: str, tmp_path: Path):
    source = HandMade(scan, [(160, 120), (160, 120), (120, 160), (320, 240)])
    result = ingest_scene(source, SPEC, str(tmp_path / "out"))  # pyright: ignore
    assert result.dropped == {schema.DROP_SIZE: 1} and result.kept == 3
    rows = rows_of_scene(tmp_path / "out")
    assert [r["reason"] for r in rows] == ["", "", schema.DROP_SIZE, ""]
    assert {(r["width"], r["height"]) for r in rows if r["kept"]} == {(84, 56)}


def test_frames_known_to_be_lost_are_told_and_do_not_weigh_more_for_few_chosen(
    scan: str, tmp_path: Path
):
    """19 of 40 are not there: that is fewer than half, however few of the others are chosen."""
    source = HandMade(scan, [(160, 120)] * 40, screened=frozenset(range(0, 38, 2)))
    for extra in ({"max_frames": 3}, {"stride": 7}, {}):
        spec = IngestSpec(width=84, multiple=14, max_drop_share=0.5, **extra)  # pyright: ignore
        result = ingest_scene(source, spec, str(tmp_path / "out"))  # pyright: ignore
        assert result.dropped[schema.DROP_MISSING] == result.screened == 19
        assert result.kept == (3 if extra else 21)
        assert ingest_scene(source, spec, str(tmp_path / "out")).reused  # pyright: ignore
    spec = IngestSpec(width=84, multiple=14, max_frames=3, max_drop_share=0.4)
    with pytest.raises(SceneError, match="19 missing_image"):
        ingest_scene(source, spec, str(tmp_path / "out"))  # pyright: ignore


@pytest.mark.parametrize(
    ("kept", "dropped", "screened", "share", "refused"),
    [
        (7, {"blur": 3}, 0, 0.3, False),
        (6, {"blur": 4}, 0, 0.3, True),
        (6, {"blur": 4, "not_chosen": 990}, 0, 0.3, True),  # nobody looked at the others
        (10, {"missing_image": 200, "not_chosen": 790}, 200, 0.2, False),
        (10, {"missing_image": 200, "not_chosen": 790}, 200, 0.19, True),
        (5, {"missing_image": 500, "blur": 5, "stride": 490}, 500, 0.75, False),
        (5, {"missing_image": 500, "blur": 5, "stride": 490}, 500, 0.74, True),
        (5, {"missing_image": 5, "test_frame": 90}, 5, 0.5, False),
    ],
)
def test_the_share_of_lost_frames_is_that_of_the_whole_scan(
    kept: int, dropped: dict[str, int], screened: int, share: float, refused: bool
):
    announced = kept + sum(dropped.values())
    counts = FrameCounts(announced=announced, kept=kept, dropped=dropped, screened=screened)
    why = unusable(counts, IngestSpec(width=84, multiple=14, max_drop_share=share))
    assert (why is not None) is refused


def test_masks_lie_beside_the_pictures(scan: str, tmp_path: Path):
    source = HandMade(scan, [(160, 120)] * 2, masked=(1,))
    ingest_scene(source, SPEC, str(tmp_path / "out"))  # pyright: ignore
    rows, tar = rows_of_scene(tmp_path / "out"), (tmp_path / "out" / "room.tar").read_bytes()
    assert (rows[0]["mask_offset"], rows[0]["mask_size"]) == (-1, 0)
    mask_HW = images.decode_mask_png(tar[rows[1]["mask_offset"] :][: rows[1]["mask_size"]])
    assert mask_HW.shape == (56, 84) and set(mask_HW[:, 0].tolist()) == {0, 255}
    assert (mask_HW[:26] == 0).all() and (mask_HW[30:] == 255).all()


def test_objects_are_published_and_do_not_outlive_their_annotations(scan: str, tmp_path: Path):
    out, path = tmp_path / "out", tmp_path / "out" / "room.objects.json"
    found = {"room_size": None, "room_center": [0, 0, 0], "object_counts": {}, "object_bboxes": {}}
    ingest_scene(HandMade(scan, [(160, 120)], annotations=found), SPEC, str(out))  # pyright: ignore
    assert json.loads(path.read_text()) == found
    sidecar = json.loads((out / "room.done.json").read_text())
    assert sidecar["files"]["room.objects.json"]["bytes"] == path.stat().st_size
    Path(scan).write_bytes(b"changed")
    damaged = HandMade(scan, [(160, 120)], annotations=FormatError("boxes of no size"))
    result = ingest_scene(damaged, SPEC, str(out))  # pyright: ignore
    assert result.kept == 1 and result.problems == ("objects left out: boxes of no size",)
    assert not path.exists()


def test_what_was_wrong_is_remembered(scan: str, tmp_path: Path):
    source = HandMade(scan, [(160, 120)], problems=["room: one file is odd"])
    for reused in (False, True):
        result = ingest_scene(source, SPEC, str(tmp_path / "out"))  # pyright: ignore
        assert result.reused is reused and result.problems == ("room: one file is odd",)


def test_another_name_of_the_dataset_is_another_shard(scan: str, tmp_path: Path):
    source = HandMade(scan, [(160, 120)])
    out = str(tmp_path / "out")
    assert not ingest_scene(source, SPEC, out).reused  # pyright: ignore
    assert not ingest_scene(source, SPEC, out, dataset="mine").reused  # pyright: ignore
    assert {r["dataset"] for r in rows_of_scene(tmp_path / "out")} == {"mine"}
