"""ScanNet layouts: what is found under a root, and what an exported folder yields."""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing import scannet, sources
from preprocessing.scannet import ScannetSource, find_scans, read_label_table
from preprocessing.scene import Damage, Frame
from spa3r.errors import ConfigError, FormatError, SceneError
from spa3r.images import decode_color, decode_depth, decode_labels
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_LABEL_IMAGE, DROP_POSE
from tests.conftest import shared_folder
from tests.unit.preprocessing.test_sens import small_sens

EXPORTS = sorted((shared_folder() / "data/scannet/export").glob("*.expected.json"))
K = "30 0 16 0\n0 30 12 0\n0 0 1 0\n0 0 0 1\n"


def write_export(folder: Path, names: list[str], size: tuple[int, int] = (32, 24)) -> Path:
    """An exported scan whose frame i is grey of value i and has depth i + 1 mm."""
    for part in ("color", "depth", "pose", "intrinsic"):
        (folder / part).mkdir(parents=True)
    for name in names:
        gray = np.full((size[1], size[0], 3), int(name), np.uint8)
        cv2.imwrite(str(folder / f"color/{name}.jpg"), gray)
        cv2.imwrite(str(folder / f"depth/{name}.png"), np.full((12, 16), int(name) + 1, np.uint16))
        np.savetxt(folder / f"pose/{name}.txt", np.eye(4), fmt="%f")
    (folder / "intrinsic/intrinsic_color.txt").write_text(K)
    return folder


def read_all(source: ScannetSource, stride: int = 1) -> list[Frame | Damage]:
    with source.open() as scene:
        return list(scene.frames(stride))


def only_scan(root: Path) -> ScannetSource:
    (source,) = find_scans(str(root))
    return source


# --- finding scans --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout", ["scans/{0}/{0}.sens", "{0}/{0}.sens", "{0}.sens"], ids=["release", "flat", "files"]
)
def test_sens_layouts(tmp_path: Path, layout: str):
    for scan in ("scene0001_00", "scene0000_00"):
        path = tmp_path / layout.format(scan)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(small_sens(frames=2))
    (tmp_path / "scannetv2_val.txt").write_text("scene0001_00\n")
    found = sources.open_scenes(str(tmp_path), "scannet")
    assert [(s.name, s.split) for s in found] == [("scene0000_00", ""), ("scene0001_00", "val")]
    assert sources.detect_dataset(str(tmp_path)) == "scannet"
    assert all(pickle.loads(pickle.dumps(s)) == s for s in found)
    with found[0].open() as scene:
        assert list(scene.indices) == [f.index for f in scene.frames()] == [0, 1]


def test_one_sens_file_and_one_exported_folder_are_scenes(tmp_path: Path):
    (tmp_path / "a.sens").write_bytes(small_sens(frames=1))
    write_export(tmp_path / "kitchen.v2", ["0"])
    assert [s.name for s in sources.open_scenes(str(tmp_path / "a.sens"), "scannet")] == ["a"]
    (export,) = sources.open_scenes(str(tmp_path / "kitchen.v2"), "scannet")
    assert (export.name, export.url) == ("kitchen_v2", str(tmp_path / "kitchen.v2"))


def test_nothing_there_is_one_clear_line(tmp_path: Path):
    with pytest.raises(SceneError, match="no such file"):
        sources.open_scenes(str(tmp_path / "absent"), "scannet")
    with pytest.raises(SceneError, match="no scenes"):
        sources.open_scenes(str(tmp_path), "scannet")
    with pytest.raises(SceneError, match="neither ScanNet"):
        sources.detect_dataset(str(tmp_path))
    with pytest.raises(ConfigError, match="dataset 'kitti' is unknown"):
        sources.open_scenes(str(tmp_path), "kitti")


def test_scenes_that_would_share_a_name_are_refused(tmp_path: Path):
    for name in ("a.b.sens", "a b.sens"):
        (tmp_path / name).write_bytes(small_sens(frames=1))
    with pytest.raises(SceneError, match=r"several scenes are called \['a_b'\]"):
        sources.open_scenes(str(tmp_path), "scannet")


# --- exported folders -----------------------------------------------------------------------------


@pytest.mark.parametrize("description", EXPORTS, ids=lambda p: p.name.split(".")[0])
def test_real_export(description: Path):
    expected = json.loads(description.read_text())
    frames = read_all(only_scan(Path(str(description).removesuffix(".expected.json"))))
    assert [f.index for f in frames] == list(range(expected["num_frames"]))
    invalid, empty = [], []
    for frame in frames:
        assert isinstance(frame, Frame) and frame.depth is not None
        assert frame.world_from_camera_44 is not None and frame.K_33 is not None
        if not np.isfinite(frame.world_from_camera_44).all():
            invalid.append(frame.index)
        depth = decode_depth(frame.depth)
        assert depth.shape[::-1] == tuple(expected["depth_size"])
        if not depth.any():
            empty.append(frame.index)
    assert invalid == expected["invalid_pose_frames"]
    assert empty == expected["empty_depth_frames"]
    assert isinstance(frames[0], Frame)
    assert decode_color(frames[0].color).shape[1::-1] == tuple(expected["color_size"])


@pytest.mark.parametrize(
    "names",
    [["9", "10", "0", "100"], ["0009", "0010", "0000", "0100"]],
    ids=["plain", "zero-padded"],
)
def test_frames_come_in_numeric_order(tmp_path: Path, names: list[str]):
    source = only_scan(write_export(tmp_path / "scan", names))
    frames = read_all(source)
    assert [f.index for f in frames] == [0, 9, 10, 100]
    for frame in frames:
        assert isinstance(frame, Frame) and frame.depth is not None
        assert decode_color(frame.color).mean() == pytest.approx(frame.index, abs=2)
        assert (decode_depth(frame.depth) == frame.index + 1).all()
    assert [f.index for f in read_all(source, stride=2)] == [0, 10]


def test_depth_poses_and_intrinsics_are_optional(tmp_path: Path):
    folder = write_export(tmp_path / "scan", ["0", "1"])
    for part in ("depth", "pose", "intrinsic"):
        shutil.rmtree(folder / part)
    for frame in read_all(only_scan(folder)):
        assert isinstance(frame, Frame)
        assert frame.depth is frame.world_from_camera_44 is frame.K_33 is None


def test_files_missing_for_single_frames_are_damage(tmp_path: Path):
    folder = write_export(tmp_path / "scan", ["0", "1", "2", "3"])
    (folder / "depth/1.png").unlink()
    (folder / "pose/2.txt").unlink()
    (folder / "pose/3.txt").write_text("1 0 0 0 oops")
    reasons = [getattr(f, "reason", "") for f in read_all(only_scan(folder))]
    assert reasons == ["", DROP_DEPTH_IMAGE, DROP_POSE, DROP_POSE]


def test_intrinsics_of_the_depth_camera_are_rescaled_to_colour(tmp_path: Path):
    folder = write_export(tmp_path / "scan", ["0"])
    (folder / "intrinsic/intrinsic_color.txt").unlink()
    (folder / "intrinsic/intrinsic_depth.txt").write_text("15 0 8 0 0 15 6 0 0 0 1 0 0 0 0 1")
    (frame,) = read_all(only_scan(folder))
    assert isinstance(frame, Frame) and frame.K_33 is not None
    np.testing.assert_allclose(frame.K_33, [[30, 0, 16], [0, 30, 12], [0, 0, 1]])


def test_intrinsics_of_another_image_size_are_refused(tmp_path: Path):
    """Seen in the wild: colour resized to 640 x 480 beside the K of 1296 x 968."""
    folder = write_export(tmp_path / "scan", ["0"])
    text = K.replace("16", "33")
    (folder / "intrinsic/intrinsic_color.txt").write_text(text)
    with pytest.raises(FormatError, match="principal point 33, 12 lies outside the 32 x 24"):
        read_all(only_scan(folder))


def test_one_frame_number_twice_is_refused(tmp_path: Path):
    folder = write_export(tmp_path / "scan", ["0", "00"])
    with pytest.raises(FormatError, match="frame 0 is there twice"):
        read_all(only_scan(folder))


# --- labels ---------------------------------------------------------------------------------------

TABLE = "id\traw_category\tnyu40id\n2\tchair\t5\n1191\tceiling fan\t40\n7\todd\t149\n9\tnone\t\n"


def label_png(*ids: int) -> bytes:
    return cv2.imencode(".png", np.array([ids], np.uint16))[1].tobytes()


def test_labels_come_from_the_archive_beside_the_scan(tmp_path: Path):
    (tmp_path / "scannetv2-labels.combined.tsv").write_text(TABLE)
    folder = tmp_path / "scans/scene0000_00"
    folder.mkdir(parents=True)
    (folder / "scene0000_00.sens").write_bytes(small_sens(frames=2))
    with zipfile.ZipFile(folder / "scene0000_00_2d-label-filt.zip", "w") as archive:
        archive.writestr("label-filt/1.png", label_png(2, 1191, 7, 9, 60000))
    with only_scan(tmp_path).open() as scene:
        first, second = scene.frames()
        table = scene.label_to_nyu40
    assert isinstance(first, Frame) and isinstance(second, Frame)
    assert first.labels is None
    assert second.labels is not None and table is not None
    assert decode_labels(second.labels, table).tolist() == [[5, 40, 0, 0, 0]]


def test_labels_of_an_exported_folder(tmp_path: Path):
    (tmp_path / "scannetv2-labels.combined.tsv").write_text(TABLE)
    folder = write_export(tmp_path / "scan", ["0"])
    (folder / "label").mkdir()
    (folder / "label/0.png").write_bytes(label_png(2))
    (frame,) = read_all(only_scan(tmp_path))
    assert isinstance(frame, Frame) and frame.labels == label_png(2)


def test_labels_are_ignored_without_the_table(tmp_path: Path):
    folder = write_export(tmp_path / "scan", ["0"])
    (folder / "label").mkdir()
    (folder / "label/0.png").write_bytes(label_png(2))
    (frame,) = read_all(only_scan(tmp_path))
    assert isinstance(frame, Frame) and frame.labels is None


@pytest.mark.parametrize(
    "text", ["id\tcategory\n1\twall\n", "id\tnyu40id\none\t1\n", "id\tnyu40id\n70000\t1\n"]
)
def test_a_label_table_without_its_columns_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "labels.tsv"
    path.write_text(text)
    with pytest.raises(FormatError, match=r"labels\.tsv"):
        read_label_table(str(path))


def test_a_damaged_label_archive_is_refused(tmp_path: Path):
    (tmp_path / "scannetv2-labels.combined.tsv").write_text(TABLE)
    (tmp_path / "a.sens").write_bytes(small_sens(frames=1))
    (tmp_path / "a_2d-label-filt.zip").write_bytes(b"PK not a zip")
    with pytest.raises(FormatError, match="damaged archive"):
        read_all(only_scan(tmp_path))


def label_archive(root: Path, *images: bytes) -> Path:
    """A scan `a` with a label table and these members, numbered from 0, in its archive."""
    (root / "scannetv2-labels.combined.tsv").write_text(TABLE)
    (root / "a.sens").write_bytes(small_sens(frames=len(images)))
    with zipfile.ZipFile(root / "a_2d-label-filt.zip", "w") as archive:
        for i, image in enumerate(images):
            archive.writestr(f"label-filt/{i}.png", image)
    return root / "a_2d-label-filt.zip"


def test_one_damaged_label_image_loses_its_frame_alone(tmp_path: Path):
    path = label_archive(tmp_path, label_png(2, 2, 2), label_png(7, 7, 7), label_png(9, 9, 9))
    path.write_bytes(path.read_bytes().replace(label_png(7, 7, 7), bytes(len(label_png(7, 7, 7)))))
    first, second, third = read_all(only_scan(tmp_path))
    assert isinstance(first, Frame) and first.labels == label_png(2, 2, 2)
    assert isinstance(second, Damage) and second.reason == DROP_LABEL_IMAGE
    assert "a_2d-label-filt.zip: label-filt/1.png is damaged" in second.detail
    assert isinstance(third, Frame) and third.labels == label_png(9, 9, 9)


def test_a_label_image_that_claims_too_much_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scannet, "_MAX_LABEL_BYTES", 100)
    label_archive(tmp_path, bytes(101), bytes(100))
    large, small = read_all(only_scan(tmp_path))
    assert isinstance(large, Damage) and "claims 101 bytes" in large.detail
    assert isinstance(small, Frame)


def test_who_wants_no_labels_is_not_bothered_by_them(tmp_path: Path):
    label_archive(tmp_path, b"").write_bytes(b"PK not a zip")
    (tmp_path / "scannetv2-labels.combined.tsv").write_text("no table")
    with only_scan(tmp_path).open(labels=False) as scene:
        (frame,) = scene.frames()
        assert isinstance(frame, Frame) and frame.labels is scene.label_to_nyu40 is None
    folder = write_export(tmp_path / "scan", ["0"])
    (folder / "label").mkdir()
    (folder / "label/0.png").write_bytes(label_png(2))
    shutil.copy(tmp_path / "scannetv2-labels.combined.tsv", folder)
    with only_scan(folder).open(labels=False) as scene:
        (frame,) = scene.frames()
        assert isinstance(frame, Frame) and frame.labels is scene.label_to_nyu40 is None


def test_changed_bytes_of_a_label_archive_raise_nothing_but_format_error(tmp_path: Path):
    image = b"no image, which is for the decoder to say"
    path = label_archive(tmp_path, image, image)
    whole, noticed = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            noticed += any(isinstance(frame, Damage) for frame in read_all(only_scan(tmp_path)))
        except FormatError as error:
            noticed += "a_2d-label-filt.zip" in str(error)
    assert noticed > len(whole) // 4
