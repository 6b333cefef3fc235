"""Sequences of 7-Scenes: three files a frame, splits by room."""

import pickle
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest

from preprocessing import seven_scenes, sources
from preprocessing.frames import decode
from preprocessing.scene import Damage, Frame
from spa3r.config import IngestSpec
from spa3r.errors import FormatError, SceneError


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def write_frame(folder: Path, number: int) -> None:
    """Depth is 1 m but for 65535 in the left half; the camera stands at (number, 2, 3)."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"frame-{number:06d}"
    depth = np.full((480, 640), 1000, np.uint16)
    depth[:, :320] = 65535
    color = np.full((480, 640, 3), 90, np.uint8)
    color[::2] = 160
    stem.with_suffix(".color.png").write_bytes(png(color))
    stem.with_suffix(".depth.png").write_bytes(png(depth))
    rows = [f"0 0 1 {number}", "1 0 0 2", "0 1 0 3", "0 0 0 1"]
    stem.with_suffix(".pose.txt").write_text("".join(f" {row} \t\r\n" for row in rows))


def entries(folder: Path) -> dict[int, Frame | Damage]:
    (source,) = seven_scenes.find_sequences(str(folder))
    with source.open() as scene:
        found = list(scene.frames())
        assert [entry.index for entry in found] == list(scene.indices)
    return {entry.index: entry for entry in found}


def test_a_frame_is_colour_depth_and_pose_of_one_camera(tmp_path: Path):
    for number in (0, 1, 7):
        write_frame(tmp_path / "chess/seq-01", number)
    (source,) = pickle.loads(pickle.dumps(seven_scenes.find_sequences(str(tmp_path))))
    with source.open() as scene:
        assert list(scene.indices) == [0, 1, 7]
        (frame,) = scene.frames([7])
    assert isinstance(frame, Frame)
    assert frame.world_from_camera_44 is not None and frame.K_33 is not None
    expected = [[0, 0, 1, 7], [1, 0, 0, 2], [0, 1, 0, 3], [0, 0, 0, 1]]
    assert frame.world_from_camera_44.tolist() == expected
    assert frame.K_33.tolist() == [[585, 0, 320], [0, 585, 240], [0, 0, 1]]
    good = decode(frame, None, IngestSpec(width=64, multiple=2))
    assert not isinstance(good, Damage) and good.depth_mm_HW is not None
    assert (good.depth_mm_HW[:, :32] == 0).all() and (good.depth_mm_HW[:, 32:] == 1000).all()


def test_a_sequence_need_not_begin_with_frame_0(tmp_path: Path):
    for number in (2, 4):
        write_frame(tmp_path / "chess/seq-01", number)
    for root in (tmp_path, tmp_path / "chess/seq-01"):
        (source,) = seven_scenes.find_sequences(str(root))
        assert source.name == "chess_seq-01"
    assert list(entries(tmp_path)) == [2, 4]


def test_rooms_and_splits(tmp_path: Path):
    for sequence in ("chess/seq-01", "chess/seq-02", "chess/seq-10", "fire/seq-01"):
        write_frame(tmp_path / sequence, 0)
    (tmp_path / "chess/TrainSplit.txt").write_text("sequence1\r\nsequence10\r\n\r\n")
    (tmp_path / "chess/TestSplit.txt").write_text("sequence2")
    found = sources.open_scenes(str(tmp_path), "7scenes")
    assert [(s.name, s.split) for s in found] == [
        ("chess_seq-01", "train"),
        ("chess_seq-02", "test"),
        ("chess_seq-10", "train"),
        ("fire_seq-01", ""),
    ]
    assert sources.detect_dataset(str(tmp_path)) == "7scenes"
    room = seven_scenes.find_sequences(str(tmp_path / "chess"))
    assert room == found[:3]
    assert seven_scenes.find_sequences(str(tmp_path / "chess/seq-02")) == found[1:2]


@pytest.mark.parametrize(
    ("train", "test", "wrong"),
    [
        ("sequence1", "sequence1", "TestSplit.txt: sequence1 is in the other list too"),
        ("seq-01", "", "TrainSplit.txt: 'seq-01' is no line like sequence1"),
        ("sequence" + "9" * 5000, "", "is no line like"),
    ],
)
def test_lists_that_lie_are_refused(tmp_path: Path, train: str, test: str, wrong: str):
    write_frame(tmp_path / "chess/seq-01", 0)
    (tmp_path / "chess/TrainSplit.txt").write_text(train)
    (tmp_path / "chess/TestSplit.txt").write_text(test)
    with pytest.raises(FormatError, match=wrong):
        seven_scenes.find_sequences(str(tmp_path))


def test_what_is_absent_or_damaged_costs_that_frame_only(tmp_path: Path):
    for number in range(6):
        write_frame(tmp_path / "seq-03", number)
    (tmp_path / "seq-03/frame-000000.color.png").unlink()
    (tmp_path / "seq-03/frame-000001.depth.png").unlink()
    (tmp_path / "seq-03/frame-000002.pose.txt").unlink()
    (tmp_path / "seq-03/frame-000003.pose.txt").write_text("1 0 0 0 " * 5)
    (tmp_path / "seq-03/frame-000004.pose.txt").write_bytes(b"\xff\x00 pose")
    found = entries(tmp_path / "seq-03")
    reasons = {i: e.reason for i, e in found.items() if isinstance(e, Damage)}
    assert reasons == {
        0: "missing_image",
        1: "unreadable_depth",
        2: "unregistered",
        3: "invalid_pose",
        4: "invalid_pose",
    }


def test_a_picture_of_another_size_has_other_intrinsics_and_is_dropped(tmp_path: Path):
    write_frame(tmp_path / "seq-01", 0)
    small = png(np.full((240, 320, 3), 90, np.uint8))
    (tmp_path / "seq-01/frame-000000.color.png").write_bytes(small)
    frame = entries(tmp_path / "seq-01")[0]
    assert isinstance(frame, Frame)
    dropped = decode(frame, None, IngestSpec(width=64, multiple=2))
    assert isinstance(dropped, Damage) and "320 x 240" in dropped.detail


def test_an_emptied_sequence_is_one_line(tmp_path: Path):
    write_frame(tmp_path / "chess/seq-01", 0)
    (source,) = seven_scenes.find_sequences(str(tmp_path))
    for path in (tmp_path / "chess/seq-01").iterdir():
        path.unlink()
    with pytest.raises(SceneError, match=r"seq-01: no frame-000000\.color\.png"), source.open():
        pass


def test_other_layouts_are_not_claimed(tmp_path: Path):
    (tmp_path / "scene0000_00/color").mkdir(parents=True)
    (tmp_path / "seq-01").mkdir()
    (tmp_path / "seq-01/photo.png").write_bytes(png(np.zeros((4, 4, 3), np.uint8)))
    assert seven_scenes.find_sequences(str(tmp_path)) == []
    assert seven_scenes.find_sequences(str(tmp_path / "absent")) == []


def test_at_a_url(tmp_path: Path):
    write_frame(tmp_path, 0)
    for path in tmp_path.iterdir():
        with fsspec.open(f"memory://seven/fire/seq-04/{path.name}", "wb") as f:
            f.write(path.read_bytes())
    (source,) = seven_scenes.find_sequences("memory://seven")
    assert source.name == "fire_seq-04"
    with source.open() as scene:
        (frame,) = scene.frames()
    assert isinstance(frame, Frame)
