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
from preprocessing.ingest import ingest_scene
from preprocessing.rooms.annotations import write_annotations
from preprocessing.rooms.layout import furnish
from preprocessing.scannet import ScannetSource, find_scans
from preprocessing.scene import Damage, Frame
from preprocessing.signature import sign
from spa3r.config import IngestSpec
from spa3r.errors import ConfigError, FormatError, SceneError
from spa3r.images import decode_color, decode_depth
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_POSE
from tests.conftest import shared_folder
from tests.sens_maker import make_sens
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
        return list(scene.frames(scene.indices[::stride]))


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


@pytest.mark.parametrize("root", ["scans/scene0000_00", "scans/scene0000_00/scene0000_00.sens"])
def test_a_scans_own_folder_and_its_file_are_roots(tmp_path: Path, root: str):
    folder = tmp_path / "scans/scene0000_00"
    folder.mkdir(parents=True)
    (folder / "scene0000_00.sens").write_bytes(small_sens(frames=2))
    (source,) = sources.open_scenes(str(tmp_path / root), "scannet")
    assert (source.name, source.url) == ("scene0000_00", str(folder / "scene0000_00.sens"))
    assert sources.open_scenes(str(tmp_path / root) + "/", "scannet") == [source]


def test_upper_case_files_are_found_and_hidden_ones_are_not(tmp_path: Path):
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a b.SENS", tmp_path / "b/b.Sens", tmp_path / "._a b.sens"):
        path.write_bytes(small_sens(frames=1))
    assert [source.name for source in find_scans(str(tmp_path))] == ["a_b", "b"]
    assert all(isinstance(f, Frame) for s in find_scans(str(tmp_path)) for f in read_all(s))


def test_released_scans_are_preferred_to_exports_beside_them(tmp_path: Path):
    folder = write_export(tmp_path / "scene0000_00", ["0"])
    (folder / "scene0000_00.sens").write_bytes(small_sens(frames=2))
    for root in (tmp_path, folder):
        assert only_scan(root).kind == "sens"


def test_folders_are_not_opened_to_find_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for number in range(50):
        folder = tmp_path / f"scans/scene{number:04d}_00"
        folder.mkdir(parents=True)
        (folder / f"{folder.name}.sens").write_bytes(b"")
    monkeypatch.setattr(scannet, "open_read", None)
    monkeypatch.setattr(scannet, "exists", lambda url: False)
    assert len(find_scans(str(tmp_path))) == 50


def test_a_change_of_any_file_that_is_read_changes_the_signature(tmp_path: Path):
    folder = tmp_path / "scans/a"
    folder.mkdir(parents=True)
    (folder / "a.sens").write_bytes(small_sens(frames=1))
    seen = [sign(only_scan(tmp_path))]
    for name in (
        *("a.txt", "a_2d-label-filt.zip", "a_2d-label.zip", "label-filt/0.png", "label/0.png"),
        *("a_vh_clean_2.ply", "a_vh_clean_2.0.010000.segs.json", "a.aggregation.json"),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"1")
        seen.append(sign(only_scan(tmp_path)))
    assert [s.files for s in seen] == list(range(1, 10))
    for name in ("a_vh_clean.ply", "a_2d-instance.zip", "ab.txt"):
        (folder / name).write_bytes(b"1")
    assert sign(only_scan(tmp_path)) == seen[-1]
    export = write_export(tmp_path / "b", ["0"])
    before = sign(only_scan(export))
    (export / "pose/0.txt").write_text("changed")
    assert sign(only_scan(export)).digest != before.digest


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


# --- objects, and what is known to be wrong in the release ----------------------------------------


def annotated(root: Path, frames: int = 3, **options: object) -> Path:
    """A `.sens` scan of one room's annotations, with one frame too many in its metadata."""
    folder = root / "scans/scene0000_00"
    make_sens(folder / "scene0000_00.sens", frames, **options)  # pyright: ignore[reportArgumentType]
    write_annotations(folder, "scene0000_00", furnish(np.random.default_rng([0, 3])))
    text = f"axisAlignment = 0 -1 0 0 1 0 0 0 0 0 1 0 0 0 0 1\nnumColorFrames = {frames + 1}\n"
    (folder / "scene0000_00.txt").write_text(text)
    return folder


def test_objects_and_frames_go_into_the_shard(tmp_path: Path):
    """Invalid poses stay as they are: multiplied with axisAlignment they would turn into NaN."""
    annotated(tmp_path, frames=4, bad_poses=[1])
    source = only_scan(tmp_path)
    frames = read_all(source)
    assert [f.index for f in frames] == [0, 1, 2, 3], "numColorFrames is not believed"
    assert isinstance(frames[1], Frame)
    np.testing.assert_array_equal(frames[1].world_from_camera_44, np.full((4, 4), -np.inf))
    result = ingest_scene(source, IngestSpec(min_frames=1), str(tmp_path / "out"))
    assert (result.kept, result.dropped, result.problems) == (3, {"invalid_pose": 1}, ())
    content = json.loads((tmp_path / "out/scene0000_00.objects.json").read_text())
    assert content["object_counts"]["wall"] == 4
    assert content["aligned_from_world"][:4] == [0, -1, 0, 0]


def test_objects_that_are_damaged_lose_no_frame(tmp_path: Path):
    folder = annotated(tmp_path)
    (folder / "scene0000_00_vh_clean_2.ply").write_bytes(b"ply")
    result = ingest_scene(only_scan(tmp_path), IngestSpec(min_frames=1), str(tmp_path / "out"))
    assert result.kept == 3 and not (tmp_path / "out/scene0000_00.objects.json").exists()
    assert len(result.problems) == 1 and "_vh_clean_2.ply" in result.problems[0]


def test_problems_of_objects_are_the_scenes(tmp_path: Path):
    folder = annotated(tmp_path)
    path = folder / "scene0000_00.aggregation.json"
    content = json.loads(path.read_text())
    content["segGroups"].append(content["segGroups"][0])
    path.write_text(json.dumps(content))
    with only_scan(tmp_path).open() as scene:
        assert scene.problems == [] and scene.objects() is not None
        assert len(scene.problems) == 1 and "objects 0 are there twice" in scene.problems[0]


def test_an_export_has_the_objects_in_its_folder(tmp_path: Path):
    folder = write_export(tmp_path / "scene0000_00", ["0"])
    write_annotations(folder, "scene0000_00", furnish(np.random.default_rng([0, 3])))
    with only_scan(tmp_path).open() as scene:
        content = scene.objects()
    assert content is not None and content["object_counts"]["floor"] == 1


def test_a_scan_without_any_pose_is_refused_by_ingest(tmp_path: Path):
    """As scene0711_00 and others of the test scans."""
    annotated(tmp_path, bad_poses=range(3))
    with pytest.raises(SceneError, match=r"0 usable frames of 3 looked at \(3 invalid_pose\)"):
        ingest_scene(only_scan(tmp_path), IngestSpec(min_frames=1), str(tmp_path / "out"))


def test_a_scan_with_small_colour_needs_no_mending(tmp_path: Path):
    """As 42 of the release: 640 x 480 colour with its own K."""
    make_sens(tmp_path / "a.sens", 1, size=(640, 480))
    (frame,) = read_all(only_scan(tmp_path))
    assert isinstance(frame, Frame) and frame.K_33 is not None
    assert frame.K_33[0, 2] == 320 and decode_color(frame.color).shape == (480, 640, 3)


def test_a_label_table_concerns_labelled_scans_only(tmp_path: Path):
    for name in ("a", "b"):
        make_sens(tmp_path / f"{name}.sens", frames=1)
    (tmp_path / "scannetv2-labels.combined.tsv").write_text("id\tnyu40id\n2\t5\n")
    with zipfile.ZipFile(tmp_path / "b_2d-label-filt.zip", "w") as archive:
        archive.writestr("label-filt/0.png", b"")
    a, b = find_scans(str(tmp_path))
    assert a.fingerprint == "" and b.fingerprint == b.table_hash != ""


def test_generated_rooms_are_not_taken_for_scannet(tmp_path: Path):
    make_sens(tmp_path / "scans" / "scene0011_00" / "scene0011_00.sens", frames=1)
    assert only_scan(tmp_path).dataset == "scannet"
    (tmp_path / ".rooms").mkdir()
    (tmp_path / ".rooms" / "scene0011_00.json").write_text("{}")
    assert only_scan(tmp_path).dataset == "rooms"
