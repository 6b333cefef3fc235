"""ARKitScenes videos: pictures, depth, poses and intrinsics matched by time."""

import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest

from preprocessing import arkitscenes, sources
from preprocessing.frames import decode
from preprocessing.ingest import ingest_scene
from preprocessing.scene import Damage, Frame, screened
from spa3r.config import IngestSpec
from spa3r.errors import FormatError, SceneError

ID = "41048190"
HALF_TURN = f"0 {np.pi!r} 0"  # about y: x and z of the camera point backwards


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def write_video(folder: Path, seconds: list[str], trajectory: str, *, name: str = ID) -> Path:
    for part in ("lowres_wide", "lowres_depth", "lowres_wide_intrinsics"):
        (folder / part).mkdir(parents=True)
    color = np.full((192, 256, 3), 90, np.uint8)
    color[::2] = 160
    for second in seconds:
        (folder / f"lowres_wide/{name}_{second}.png").write_bytes(png(color))
        depth = png(np.full((192, 256), 1500, np.uint16))
        (folder / f"lowres_depth/{name}_{second}.png").write_bytes(depth)
        pincam = f"256 192 212.5 213.5 127.{second[-1]} 95.5"
        (folder / f"lowres_wide_intrinsics/{name}_{second}.pincam").write_text(pincam)
    (folder / "lowres_wide.traj").write_text(trajectory)
    return folder


def entries(folder: Path) -> list[Frame | Damage]:
    (source,) = arkitscenes.find_videos(str(folder))
    with source.open() as scene:
        found = list(scene.frames())
        assert [entry.index for entry in found] == list(scene.indices)
    return found


def test_poses_are_inverted_and_matched_by_time(tmp_path: Path):
    trajectory = f"10.103 {HALF_TURN} 1 2 3\n10.001 0 0 0 0.5 0 0\n"
    write_video(tmp_path / ID, ["10.100", "10.000", "10.050"], trajectory)
    (source,) = pickle.loads(pickle.dumps(arkitscenes.find_videos(str(tmp_path))))
    with source.open() as scene:
        assert list(scene.indices) == [0, 1, 2] and not scene.problems
        first, between, last = scene.frames()
        (again,) = scene.frames([2])
    assert isinstance(first, Frame) and isinstance(last, Frame) and isinstance(again, Frame)
    assert first.world_from_camera_44 is not None and last.world_from_camera_44 is not None
    assert first.world_from_camera_44[:3, 3].tolist() == [-0.5, 0, 0]
    # R^T = diag(-1, 1, -1) of the half turn, so -R^T t = (1, -2, 3).
    np.testing.assert_allclose(last.world_from_camera_44[:3, 3], [1, -2, 3], atol=1e-12)
    rotation = last.world_from_camera_44[:3, :3]
    np.testing.assert_allclose(rotation, np.diag([-1.0, 1, -1]), atol=1e-12)
    assert (first.timestamp_us, last.timestamp_us) == (10_000_000, 10_100_000)
    assert isinstance(between, Damage) and between.reason == "unregistered"
    assert again.color.data == last.color.data and again.index == 2


def test_intrinsics_and_depth_of_the_same_time(tmp_path: Path):
    write_video(tmp_path / ID, ["1.001", "1.102"], "1.001 0 0 0 0 0 0\n1.102 0 0 0 0 0 0\n")
    (tmp_path / ID / f"lowres_wide_intrinsics/{ID}_1.102.pincam").rename(
        tmp_path / ID / f"lowres_wide_intrinsics/{ID}_1.103.pincam"
    )
    for frame, cx in zip(entries(tmp_path), (127.1, 127.2), strict=True):
        assert isinstance(frame, Frame) and frame.K_33 is not None
        assert frame.K_33.tolist() == [[212.5, 0, cx], [0, 213.5, 95.5], [0, 0, 1]]
        good = decode(frame, None, IngestSpec(width=64, multiple=2))
        assert not isinstance(good, Damage) and good.depth_mm_HW is not None
        assert (good.depth_mm_HW == 1500).all()


def test_releases_and_splits(tmp_path: Path):
    poses = "1.0 0 0 0 0 0 0"
    write_video(tmp_path / "Training" / ID / f"{ID}_frames", ["1.000"], poses)
    write_video(tmp_path / "Training/7", ["1.000"], poses, name="7")
    write_video(tmp_path / "Validation/8", ["1.000"], poses, name="8")
    (tmp_path / "Validation/9/wide").mkdir(parents=True)
    found = sources.open_scenes(str(tmp_path), "arkitscenes")
    assert [(s.name, s.split) for s in found] == [(ID, "train"), ("7", "train"), ("8", "val")]
    assert sources.detect_dataset(str(tmp_path)) == "arkitscenes"
    assert arkitscenes.find_videos(str(tmp_path / "Validation")) == found[2:]
    assert arkitscenes.find_videos(str(tmp_path / "Training" / ID)) == found[:1]


def test_what_is_absent_or_damaged_costs_that_frame_only(tmp_path: Path):
    seconds = [f"2.{i}00" for i in range(6)]
    video = write_video(tmp_path / ID, seconds, "".join(f"{s} 0 0 0 0 0 0\n" for s in seconds))
    (video / f"lowres_depth/{ID}_2.000.png").unlink()
    (video / f"lowres_wide_intrinsics/{ID}_2.100.pincam").write_text("256 192 nan 1 1 1")
    (video / f"lowres_wide_intrinsics/{ID}_2.200.pincam").write_text("256 192 212 212")
    (video / f"lowres_wide_intrinsics/{ID}_2.300.pincam").write_text("1e300 192 212 212 1 1")
    (video / f"lowres_wide_intrinsics/{ID}_2.400.pincam").write_text("128 96 106 106 64 48")
    found = entries(tmp_path)
    reasons = [entry.reason if isinstance(entry, Damage) else "" for entry in found]
    assert reasons == ["unreadable_depth", *["unreadable_image"] * 3, "", ""]
    assert isinstance(found[4], Frame)
    dropped = decode(found[4], None, IngestSpec(width=64, multiple=2))
    assert isinstance(dropped, Damage) and "256 x 192" in dropped.detail


def test_a_video_without_depth_has_none(tmp_path: Path):
    video = write_video(tmp_path / ID, ["1.000"], "1.0 0 0 0 0 0 0")
    (video / f"lowres_depth/{ID}_1.000.png").unlink()
    (frame,) = entries(tmp_path)
    assert isinstance(frame, Frame) and frame.depth is None


def test_a_cut_trajectory_is_a_problem_and_an_empty_one_an_error(tmp_path: Path):
    lines = "1.0 0 0 0 0 0 0\n1.1 0 0 inf 0 0 0\n1.2 0 0 0 0 0 0 0\n1.3 0 0"
    video = write_video(tmp_path / ID, ["1.000"], lines)
    (source,) = arkitscenes.find_videos(str(video))
    with source.open() as scene:
        (problem,) = scene.problems
        assert "3 of 4 lines are no poses" in problem
        assert isinstance(next(iter(scene.frames())), Frame)
    (video / "lowres_wide.traj").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match=r"lowres_wide\.traj: no line of"), source.open():
        pass


def test_without_pictures_or_intrinsics_one_line_says_so(tmp_path: Path):
    video = write_video(tmp_path / ID, ["1.000"], "1.0 0 0 0 0 0 0")
    (source,) = arkitscenes.find_videos(str(video))
    (video / f"lowres_wide_intrinsics/{ID}_1.000.pincam").unlink()
    with pytest.raises(FormatError, match=r"no \.pincam files"), source.open():
        pass
    (video / f"lowres_wide/{ID}_1.000.png").rename(video / f"lowres_wide/._{ID}_1.000.png")
    with pytest.raises(SceneError, match="lowres_wide: no pictures"), source.open():
        pass


def test_at_a_url(tmp_path: Path):
    video = write_video(tmp_path, ["1.000"], "1.0 0 0 0 0 0 0")
    for path in video.rglob("*.*"):
        with fsspec.open(f"memory://arkit/Training/5/{path.relative_to(video)}", "wb") as f:
            f.write(path.read_bytes())
    (source,) = arkitscenes.find_videos("memory://arkit")
    assert (source.name, source.split) == ("5", "train")
    with source.open() as scene:
        (frame,) = scene.frames()
    assert isinstance(frame, Frame)


def test_frames_are_chosen_among_those_with_pose_and_depth(tmp_path: Path):
    """The raw release: sixty pictures a second, ten poses."""
    seconds = [f"5.{int(i * 1000 / 60):03d}" for i in range(60)]
    poses = "".join(f"{second} 0 0 0 0 0 0\n" for second in seconds[::5])
    video = write_video(tmp_path / ID, seconds, poses)
    (video / f"lowres_depth/{ID}_{seconds[10]}.png").unlink()
    (video / f"lowres_depth/{ID}_{seconds[20]}.png").unlink()
    (source,) = arkitscenes.find_videos(str(tmp_path))
    with source.open() as scene:
        damage = {e.index for e in scene.frames() if isinstance(e, Damage)}
        assert screened(scene) == damage and len(damage) == 50
    spec = IngestSpec(width=56, multiple=14, max_frames=10)
    result = ingest_scene(source, spec, str(tmp_path / "out"))
    assert (result.kept, result.dropped) == (10, {"unregistered": 48, "unreadable_depth": 2})
    few = ingest_scene(source, replace(spec, max_frames=4), str(tmp_path / "few"))
    assert (few.kept, few.dropped["not_chosen"]) == (4, 6)
