"""From media to views: images with marks, videos, folders of frames, scans; and what is refused."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from spa3r import storage
from spa3r.data.media import (
    FrameRule,
    MediaReader,
    answering_frames,
    frame_name,
    training_frames,
)
from spa3r.data.shards import FrameTable
from spa3r.errors import MediaError, ShardError
from spa3r.eval.suite import Question
from spa3r.instructions import Instruction, Mark
from spa3r.tune_config import MixtureConfig, VlmConfig
from spa3r.vision_input import SceneViews, prepare_scene
from tests.conversations import conversation
from tests.frames_maker import make_frames
from tests.video_maker import make_video, read_number

VLM = VlmConfig(image_width=112, max_frames=6)
ALL = answering_frames(VLM)


def item(kind: str, *media: str, marks: tuple[Mark, ...] = ()) -> Instruction:
    return conversation(0, media_kind=kind, media=media, marks=marks)


def see(root: Path | str, one: Instruction, rule: FrameRule = ALL) -> SceneViews:
    views = MediaReader(root).views(one, VLM, rule)
    assert views is not None
    return views


def refused(root: Path | str, one: Instruction, rule: FrameRule = ALL) -> MediaError:
    with pytest.raises(MediaError) as caught:
        MediaReader(root).views(one, VLM, rule)
    assert "\n" not in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))  # loaders are processes and threads
    assert (str(again), again.reason) == (str(caught.value), caught.value.reason)
    return caught.value


def picture(file: Path, gray: int = 100, size: tuple[int, int] = (320, 240)) -> str:
    cv2.imwrite(str(file), np.full((size[1], size[0], 3), gray, np.uint8))
    return file.name


# --- how many frames ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "available", "frames"),
    [(0.8, 24, 4), (9, 900, 4), (11, 900, 6), (13, 900, 6), (16, 900, 8), (600, 9000, 8),
     (None, 900, 8), (600, 3, 3), (None, 1, 1)],
)  # fmt: skip
def test_training_takes_a_frame_every_two_seconds_4_to_8(
    seconds: float | None, available: int, frames: int
):
    assert training_frames(MixtureConfig()).count(available, seconds) == frames


def test_answering_takes_as_many_as_the_model():
    assert answering_frames(VlmConfig()).count(9000, 1.0) == 32
    assert answering_frames(VlmConfig()).count(24, None) == 24


# --- images ---------------------------------------------------------------------------------------


def test_images_are_seen_as_the_library_sees_them(tmp_path: Path):
    names = [picture(tmp_path / name, gray) for name, gray in (("b.png", 50), ("a.jpg", 200))]
    views = see(tmp_path, item("images", *names))
    same = prepare_scene([tmp_path / name for name in names], width=112, multiple=28)
    assert (views.rgb_VHW3 == same.rgb_VHW3).all() and views.rgb_VHW3.shape == (2, 84, 112, 3)
    assert views.names == ("b.png", "a.jpg") and views.source_sizes == ((320, 240),) * 2
    absolute = see("", item("images", str(tmp_path / "b.png")))
    assert (absolute.rgb_VHW3[0] == views.rgb_VHW3[0]).all()


def test_marks_are_drawn_on_their_image_before_it_is_resized(tmp_path: Path):
    names = [picture(tmp_path / name) for name in ("a.png", "b.png")]
    mark = Mark(kind="point", colour="red", image=1, xy=(500.0, 500.0))
    views = see(tmp_path, item("images", *names, marks=(mark,)))
    first, second = views.rgb_VHW3.astype(int)
    assert (first == 100).all() and views.names == ("a.png", "b.png")
    red = (second[..., 0] > 200) & (second[..., 1] < 30)
    assert red[42, 56] and 12 <= np.ptp(np.nonzero(red)[1]) <= 15  # 41 pixels at 112 / 320
    assert (second[:30] == 100).all()


def test_questions_of_a_suite_have_media_too(tmp_path: Path):
    asked = Question(id="q", task="", prompt="?", media_kind="images", scene="",
                     media=(picture(tmp_path / "a.png"),))  # fmt: skip
    views = MediaReader(tmp_path).views(asked, VLM, ALL)
    assert views is not None and views.names == ("a.png",)


def test_images_that_cannot_be_seen(tmp_path: Path):
    good, other = picture(tmp_path / "a.png"), picture(tmp_path / "b.png", size=(240, 320))
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    mark = (Mark(kind="point", colour="red", image=1, xy=(1.0, 1.0)),)
    for names, marks, reason in (
        ((good, "none.png"), (), "missing_media"),
        ((good, "c.png"), (), "damaged_media"),
        ((good, "c.png"), mark, "damaged_media"),
        ((good, other), (), "sizes_differ"),
    ):
        error = refused(tmp_path, item("images", *names, marks=marks))
        assert error.reason == reason and str(tmp_path) in str(error)


def test_a_conversation_about_nothing(tmp_path: Path):
    assert MediaReader(tmp_path).views(item("none"), VLM, ALL) is None


# --- videos and folders of frames -----------------------------------------------------------------


def test_a_video_is_seen_in_evenly_spaced_frames(tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(make_video(41, container="mp4", rate=4))  # about 10 s
    views = see(tmp_path, item("video", "a.mp4"), training_frames(MixtureConfig()))
    numbers = [0, 10, 20, 30, 40]
    assert views.names == tuple(frame_name(n) for n in numbers)
    assert [read_number(rgb) for rgb in views.rgb_VHW3] == numbers
    assert len(see(tmp_path, item("video", "a.mp4")).names) == 6
    again = see(tmp_path, item("video", "a.mp4"))
    assert (again.rgb_VHW3 == see(tmp_path, item("video", "a.mp4")).rgb_VHW3).all()
    assert views.source_sizes == ((96, 64),) * 5 and views.depth_VHW is None


def test_a_folder_of_frames_in_natural_order(tmp_path: Path):
    (tmp_path / "clip").mkdir()
    for number in range(12):
        picture(tmp_path / "clip" / f"{number}.png", 10 * number)
    (tmp_path / "clip" / "._0.png").touch()
    (tmp_path / "clip" / "notes.txt").touch()
    views = see(tmp_path, item("video", "clip"))
    assert views.names == ("0.png", "2.png", "4.png", "7.png", "9.png", "11.png")
    assert views.rgb_VHW3[:, 0, 0, 0].tolist() == [0, 20, 40, 70, 90, 110]


def test_videos_that_cannot_be_seen(tmp_path: Path):
    mp4, mkv = make_video(40, container="mp4"), make_video(40)
    wrong = {
        "headless.mp4": (mp4[: len(mp4) // 2], "damaged_media"),
        "cut.mkv": (mkv[: len(mkv) * 6 // 10], "damaged_media"),
        "none.mkv": (mkv[: len(mkv) * 3 // 10], "no_frames"),  # its header, and not one picture
        "text.mp4": (b"not a video", "damaged_media"),
        "void.mp4": (b"", "damaged_media"),
        "absent.mp4": (None, "missing_media"),
        "absent": (None, "missing_media"),
        "odd://bucket/a.mp4": (None, "missing_media"),
        "empty": (None, "no_frames"),
    }
    (tmp_path / "empty").mkdir()
    for name, (data, reason) in wrong.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        error = refused(tmp_path, item("video", name))
        assert error.reason == reason and name in str(error), name


def test_frames_that_are_lost_are_left_out_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    data = bytearray(make_video(40, options={"bf": "0", "g": "10"}))
    middle = len(data) * 55 // 100
    data[middle : middle + 20] = bytes(20)
    (tmp_path / "a.mkv").write_bytes(data)
    views = see(tmp_path, item("video", "a.mkv"), FrameRule(least=40, most=40))
    assert 30 <= len(views.names) < 40 and len(views.rgb_VHW3) == len(views.names)
    shown = [int(name.removeprefix("frame-")) for name in views.names]
    assert [read_number(rgb) for rgb in views.rgb_VHW3] == shown
    lost = sorted(set(range(40)) - set(shown))
    assert all(frame_name(number) in caplog.text for number in lost) and "a.mkv" in caplog.text


def test_media_anywhere(tmp_path: Path):
    fs, _ = storage.filesystem("memory://")
    fs.store.clear()
    picture(tmp_path / "a.png")
    storage.write_bytes("memory://lab/clip/a.png", (tmp_path / "a.png").read_bytes())
    storage.write_bytes("memory://lab/a.mp4", make_video(40, container="mp4"))
    assert len(see("memory://lab", item("video", "a.mp4")).names) == 6
    assert see("memory://lab", item("video", "clip")).names == ("a.png",)
    assert see("", item("images", "memory://lab/clip/a.png")).names == ("a.png",)


# --- scans ----------------------------------------------------------------------------------------


def test_a_scan_has_depth_and_cameras(tmp_path: Path):
    folder = make_frames(tmp_path, {"scene0000_00": 10, "scene0001_00": 3}, size=(112, 84))
    reader = MediaReader(folder)
    views = reader.views(item("scan", "scene0000_00"), VLM, ALL)
    assert views is not None
    assert views.names == tuple(frame_name(n) for n in (0, 4, 8, 10, 14, 18))
    frames = FrameTable(folder).load_frames("scene0000_00", [0, 4, 8, 10, 14, 18])
    assert (views.rgb_VHW3 == np.stack([frame.color for frame in frames])).all()
    assert views.depth_VHW is not None and views.K_V33 is not None
    depth_mm = np.stack([frame.depth_mm for frame in frames if frame.depth_mm is not None])
    assert np.allclose(views.depth_VHW, depth_mm / 1000)
    assert np.allclose(views.K_V33[0], frames[0].K_33)
    assert views.world_from_camera_V44 is not None
    few = pickle.loads(pickle.dumps(reader)).views(item("scan", "scene0001_00"), VLM, ALL)
    assert few is not None and len(few.names) == 3


def test_a_scan_without_depth_is_seen_without(tmp_path: Path):
    folder = make_frames(tmp_path, {"a": 4}, depth=False)
    views = see(folder, item("scan", "a"))
    assert views.depth_VHW is views.K_V33 is views.world_from_camera_V44 is None


def test_a_scan_that_has_times_gets_frames_by_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, row = make_frames(tmp_path, {"a": 10}), FrameTable.row
    rule = FrameRule(least=2, most=6, seconds_per_frame=2)
    for microseconds, count in ((-1, 6), (150_000, 2), (500_000, 4), (10_000_000, 6)):
        monkeypatch.setattr(
            FrameTable, "row",
            lambda self, scene, n, us=microseconds: {**row(self, scene, n), "timestamp_us": n * us},
        )  # fmt: skip
        views = MediaReader(folder).views(item("scan", "a"), VLM, rule)
        assert views is not None and len(views.names) == count, microseconds


def test_scans_that_cannot_be_seen(tmp_path: Path):
    (tmp_path / "shards").mkdir()
    folder = make_frames(tmp_path / "shards", {"a": 4, "b": 4})
    assert refused(folder, item("scan", "c")).reason == "missing_media"
    (folder / "a.tar").write_bytes(b"")
    assert refused(folder, item("scan", "a")).reason == "damaged_media"
    assert len(see(folder, item("scan", "b")).names) == 4
    with pytest.raises(ShardError, match="absent"):  # no drop of one conversation: all are gone
        MediaReader(tmp_path / "nothing").views(item("scan", "a"), VLM, ALL)
