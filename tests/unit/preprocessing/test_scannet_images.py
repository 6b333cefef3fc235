"""Scans as saveToImages and 3RScan lay them out."""

from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest

from preprocessing.ingest import ingest_scene
from preprocessing.scannet import find_scans
from preprocessing.scannet_images import ImagesScene, read_info
from preprocessing.scene import Damage, Frame
from spa3r.config import IngestSpec
from spa3r.errors import FormatError, SceneError
from spa3r.images import decode_color, decode_depth
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_MISSING, DROP_POSE, DROP_UNREGISTERED
from tests.sens_maker import pose

SIZE, DEPTH_SIZE = (32, 24), (16, 12)
INFO = {
    "m_versionNumber": "4",
    "m_sensorName": "StructureSensor",
    "m_colorWidth": "32",
    "m_colorHeight": "24",
    "m_depthWidth": "16",
    "m_depthHeight": "12",
    "m_depthShift": "5000",
    "m_calibrationColorIntrinsic": "30 0 16 0 0 30 12 0 0 0 1 0 0 0 0 1",
    "m_calibrationDepthIntrinsic": "15 0 8 0 0 15 6 0 0 0 1 0 0 0 0 1",
    "m_frames.size": "3",
}


def write_info(folder: Path, name: str = "_info.txt", end: str = "\n", **changes: str) -> None:
    values = INFO | {key.replace("__", "."): value for key, value in changes.items()}
    text = "".join(f"{key} = {value}{end}" for key, value in values.items() if value != "absent")
    (folder / name).write_text(text)


def pgm(values: np.ndarray) -> bytes:
    height, width = values.shape
    return f"P5\n{width} {height}\n65535\n".encode() + values.astype(">u2").tobytes()


def write_scan(folder: Path, *, frames: int = 3, color: str = ".jpg", depth: str = ".pgm") -> Path:
    """Frame i is grey of value 40 i and 5000 (i + 1) units = i + 1 metres away."""
    folder.mkdir(parents=True)
    write_info(folder)
    for i in range(frames):
        stem = str(folder / f"frame-{i:06d}")
        cv2.imwrite(f"{stem}.color{color}", np.full((*SIZE[::-1], 3), 40 * i, np.uint8))
        values = np.full(DEPTH_SIZE[::-1], 5000 * (i + 1), np.uint16)
        data = pgm(values) if depth == ".pgm" else cv2.imencode(".png", values)[1].tobytes()
        Path(f"{stem}.depth{depth}").write_bytes(data)
        np.savetxt(f"{stem}.pose.txt", pose(i), fmt="%.6f")
    return folder


def check(frames: list[Frame | Damage]) -> None:
    assert [frame.index for frame in frames] == [0, 1, 2]
    for frame in frames:
        assert isinstance(frame, Frame) and frame.depth is not None
        assert decode_color(frame.color).mean() == pytest.approx(40 * frame.index, abs=2)
        assert (decode_depth(frame.depth) == 1000 * (frame.index + 1)).all(), "millimetres"
        assert frame.world_from_camera_44 is not None and frame.K_33 is not None
        np.testing.assert_allclose(frame.world_from_camera_44, pose(frame.index), atol=1e-5)
        np.testing.assert_array_equal(frame.K_33, [[30, 0, 16], [0, 30, 12], [0, 0, 1]])


# --- layouts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("color", "depth"), [(".jpg", ".pgm"), (".png", ".png")])
@pytest.mark.parametrize("place", ["a", "a/sequence", "scans/a"])
def test_a_scan_is_found_and_read(tmp_path: Path, place: str, color: str, depth: str):
    write_scan(tmp_path / place, color=color, depth=depth)
    (source,) = find_scans(str(tmp_path))
    assert (source.dataset, source.name, source.kind) == ("scannet", "a", "images")
    folder = str(tmp_path / place.removesuffix("/sequence"))
    assert source.content == (folder,)
    assert find_scans(folder) == [source], "the scan's own folder is a root too"
    with source.open() as scene:
        check(list(scene.frames()))
        assert [f.index for f in scene.frames([1])] == [1]
        assert scene.problems == [] and scene.objects() is None


def test_the_folder_sequence_itself_is_a_root(tmp_path: Path):
    write_scan(tmp_path / "a/sequence")
    (source,) = find_scans(str(tmp_path / "a/sequence"))
    assert source.name == "a"


def test_the_loaders_name_of_the_info_file_and_windows_lines(tmp_path: Path):
    folder = write_scan(tmp_path / "a")
    (folder / "_info.txt").unlink()
    write_info(folder, "info.txt", end="\r\n")
    (folder / "frame-000000.color.jpg").rename(folder / "FRAME-000000.Color.JPG")
    for other in ("._frame-000001.color.jpg", "frame-000001.rendered.depth.png", "notes.txt"):
        (folder / other).write_bytes(b"not of this scan")
    check(list(ImagesScene(str(folder)).frames()))


def test_a_scan_in_memory(tmp_path: Path):
    write_scan(tmp_path / "a/sequence")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "a"), "/images/a", recursive=True)
    try:
        (source,) = find_scans("memory://images")
        with source.open() as scene:
            check(list(scene.frames()))
    finally:
        memory.rm("/images", recursive=True)


# --- frames that are not all there ----------------------------------------------------------------


def test_announced_frames_without_files_are_damage(tmp_path: Path):
    folder = write_scan(tmp_path / "a", frames=5)
    write_info(folder, m_frames__size="6")
    (folder / "frame-000000.color.jpg").unlink()
    (folder / "frame-000001.depth.pgm").unlink()
    (folder / "frame-000002.pose.txt").unlink()
    (folder / "frame-000003.pose.txt").write_text("1 2 3")
    entries = list(ImagesScene(str(folder)).frames())
    assert [entry.index for entry in entries] == [0, 1, 2, 3, 4, 5]
    reasons = [getattr(entry, "reason", "") for entry in entries]
    lost = [DROP_MISSING, DROP_DEPTH_IMAGE, DROP_POSE, DROP_POSE]
    assert reasons == [*lost, "", DROP_UNREGISTERED]


def test_frames_that_were_not_exported_are_not_lost(tmp_path: Path):
    folder = write_scan(tmp_path / "a", frames=6)
    write_info(folder, m_frames__size="120")
    for path in sorted(folder.glob("frame-*"), reverse=True):
        number = int(path.name[6:12])
        path.rename(folder / path.name.replace(f"{number:06d}", f"{20 * number:06d}"))
    (folder / "frame-000060.color.jpg").unlink()
    scene = ImagesScene(str(folder))
    assert scene.screened == set(range(120)) - set(range(0, 120, 20))
    left_out = {entry.detail for entry in scene.frames([1]) if isinstance(entry, Damage)}
    assert left_out == {f"{folder}: frame 1 was not exported"}
    (source,) = find_scans(str(tmp_path))
    spec = IngestSpec(width=28, multiple=14, max_frames=4, max_drop_share=0.3)
    result = ingest_scene(source, spec, str(tmp_path / "out"))
    # Of the six that are there, frame 60 has no picture: the choice may fall on it.
    assert (result.announced, result.kept) == (120, 3)
    assert result.dropped == {DROP_MISSING: 1, "not_chosen": 2, DROP_UNREGISTERED: 114}


def test_images_beyond_those_announced_are_reported(tmp_path: Path):
    scene = ImagesScene(str(write_scan(tmp_path / "a", frames=5)))
    check(list(scene.frames()))
    assert len(scene.problems) == 1 and "announces 3 frames, 2 images more" in scene.problems[0]


def test_without_any_depth_or_pose_there_is_none(tmp_path: Path):
    folder = write_scan(tmp_path / "a")
    for path in [*folder.glob("*.pgm"), *folder.glob("*.pose.txt")]:
        path.unlink()
    for frame in ImagesScene(str(folder)).frames():
        assert isinstance(frame, Frame) and frame.depth is frame.world_from_camera_44 is None


def test_depth_of_another_field_of_view_is_left_out_and_reported(tmp_path: Path):
    """As in 3RScan: 960 x 540 colour beside 224 x 172 depth, which sees more above and below."""
    folder = write_scan(tmp_path / "a")
    write_info(folder, m_calibrationDepthIntrinsic="15 0 8 0 0 11 6 0 0 0 1 0 0 0 0 1")
    scene = ImagesScene(str(folder))
    assert all(isinstance(f, Frame) and f.depth is None for f in scene.frames())
    assert len(scene.problems) == 1 and "another field of view" in scene.problems[0]


def test_intrinsics_that_are_no_camera_are_unknown_and_reported(tmp_path: Path):
    folder = write_scan(tmp_path / "a")
    write_info(folder, m_calibrationColorIntrinsic="0 " * 16)
    scene = ImagesScene(str(folder))
    assert all(isinstance(f, Frame) and f.K_33 is None for f in scene.frames())
    assert len(scene.problems) == 1 and "no camera" in scene.problems[0]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("m_versionNumber", "3"),
        ("m_versionNumber", "absent"),
        ("m_colorWidth", "0"),
        ("m_colorHeight", "-24"),
        ("m_depthWidth", "1e9"),
        ("m_depthHeight", "99999"),
        ("m_depthShift", "0"),
        ("m_depthShift", "nan"),
        ("m_depthShift", "inf"),
        ("m_depthShift", "absent"),
        ("m_calibrationColorIntrinsic", "1 2 3"),
        ("m_calibrationColorIntrinsic", "absent"),
        ("m_calibrationDepthIntrinsic", "x"),
        ("m_frames__size", "999999999999"),
        ("m_frames__size", "absent"),
    ],
)
def test_an_info_file_that_lies_is_refused(tmp_path: Path, key: str, value: str):
    write_info(tmp_path, **{key: value})
    with pytest.raises(FormatError, match=r"_info\.txt: ") as caught:
        read_info(str(tmp_path / "_info.txt"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_frame_twice_is_refused(tmp_path: Path):
    folder = write_scan(tmp_path / "a")
    (folder / "frame-1.color.png").write_bytes(b"")
    with pytest.raises(FormatError, match="the color of frame 1 is there twice"):
        ImagesScene(str(folder))


def test_without_info_or_colour_there_is_no_scan(tmp_path: Path):
    folder = write_scan(tmp_path / "a")
    for path in folder.glob("*.jpg"):
        path.unlink()
    with pytest.raises(SceneError, match="no colour images"):
        ImagesScene(str(folder))
    (folder / "_info.txt").unlink()
    with pytest.raises(SceneError, match=r"no _info\.txt or info\.txt"):
        ImagesScene(str(folder))
    assert find_scans(str(tmp_path)) == []
