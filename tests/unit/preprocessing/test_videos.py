"""Videos as scenes: which files are one, and what their frames are."""

import pickle
from pathlib import Path

import fsspec
import pytest

from preprocessing.scene import Damage, Frame, scene_name
from preprocessing.videos import find_videos
from spa3r.errors import FormatError, SceneError
from spa3r.images import decode_color
from tests.video_maker import make_video, read_number


@pytest.fixture(scope="module")
def clip() -> bytes:
    return make_video(40, container="mp4")


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_one_video_frame_by_frame(tmp_path: Path, clip: bytes):
    put(tmp_path / "my küche.MP4", clip)
    (source,) = find_videos(str(tmp_path / "my küche.MP4"))
    assert (source.dataset, source.name, source.split) == ("videos", scene_name("my küche"), "")
    assert source.content == (str(tmp_path / "my küche.MP4"),)
    with pickle.loads(pickle.dumps(source)).open() as scene:
        assert list(scene.indices) == list(range(40))
        for numbers in ([0, 13, 39], [5]):
            frames = list(scene.frames(numbers))
            assert [read_number(decode_color(f.color)) for f in frames] == numbers
            assert [f.timestamp_us for f in frames] == [round(n * 1e6 / 30) for n in numbers]
        assert len(list(scene.frames())) == 40
        frame = frames[0]
        assert isinstance(frame, Frame)
        assert frame.K_33 is frame.world_from_camera_44 is frame.depth is frame.mask is None
        assert scene.objects() is None and scene.problems == []


def test_which_files_are_scenes(tmp_path: Path):
    direct = ("b.mov", "a10.mkv", "a9.avi", "notes.txt", ".hidden.mp4", "._x.mp4")
    inside = ("trips/1.mp4", "trips/2.WEBM", "mixed/1.mp4", "mixed/depth.bin", "deep/er/1.mp4")
    for name in (*direct, *inside):
        put(tmp_path / name, b"")
    (tmp_path / "empty").mkdir()
    assert [s.name for s in find_videos(str(tmp_path))] == ["a9", "a10", "b", "trips_1", "trips_2"]
    assert find_videos(str(tmp_path / "absent")) == find_videos(str(tmp_path / "no.mp4")) == []


def test_recordings_of_a_dataset_are_left_alone(tmp_path: Path):
    iphone = tmp_path / "data/a1/iphone"
    put(iphone / "rgb.mkv", b"")
    put(iphone / "pose_intrinsic_imu.json", b"{}")
    for root in (tmp_path, tmp_path / "data", tmp_path / "data/a1", iphone):
        assert find_videos(str(root)) == []


def test_a_video_at_a_url(clip: bytes):
    fsspec.filesystem("memory").pipe_file("/clips/kitchen.mp4", clip)
    (source,) = find_videos("memory://clips")
    with source.open() as scene:
        (frame,) = scene.frames([17])
    assert isinstance(frame, Frame) and read_number(decode_color(frame.color)) == 17


def test_missing_empty_and_false_videos(tmp_path: Path, clip: bytes):
    put(tmp_path / "false.mp4", b"no video at all")
    put(tmp_path / "gone.mp4", clip)
    put(tmp_path / "empty.mkv", b"")
    empty, false, gone = find_videos(str(tmp_path))
    (tmp_path / "gone.mp4").unlink()
    with pytest.raises(FormatError, match=r"false\.mp4: not a video"), false.open():
        pass
    with pytest.raises(FormatError, match=r"empty\.mkv: not a video.*it is empty"), empty.open():
        pass
    with pytest.raises(SceneError, match=r"gone\.mp4: no such file"), gone.open():
        pass


def test_damaged_frames_keep_their_place(tmp_path: Path):
    data = make_video(240)
    put(tmp_path / "cut.mkv", data[: len(data) // 2])
    (source,) = find_videos(str(tmp_path))
    with source.open() as scene:
        entries = list(scene.frames())
        assert [e.index for e in entries] == list(scene.indices)
        assert scene.problems
    assert all(
        isinstance(e, Damage) or read_number(decode_color(e.color)) == e.index for e in entries
    )


def test_split_lists_name_files_and_folders(tmp_path: Path):
    (tmp_path / "home").mkdir()
    for name in ("a.mp4", "home/b.mp4", "home/c.mp4"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "train.txt").write_text("a.mp4\n")
    (tmp_path / "val.txt").write_text("home\n")
    assert {s.name: s.split for s in find_videos(str(tmp_path))} == {
        "a": "train", "home_b": "val", "home_c": "val",
    }  # fmt: skip
