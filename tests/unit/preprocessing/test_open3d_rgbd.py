"""Open3D's RGB-D folders: poses, intrinsics, what is missing, what is damaged."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing.choice import plan_frames
from preprocessing.open3d_rgbd import find_scenes, read_trajectory
from preprocessing.scene import Damage, Frame, screened
from spa3r.config import IngestSpec
from spa3r.errors import FormatError, SceneError
from spa3r.geometry import compose, depth_residuals, invert_rigid
from spa3r.images import decode_depth
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_UNREGISTERED


def make(folder: Path, frames: int = 3, poses: int = 3) -> Path:
    for kind in ("color", "depth"):
        (folder / kind).mkdir(parents=True)
    for i in range(frames):
        cv2.imwrite(str(folder / f"color/{i:05d}.jpg"), np.full((12, 16, 3), 9 * i, np.uint8))
        cv2.imwrite(str(folder / f"depth/{i:05d}.png"), np.full((12, 16), 1000 + i, np.uint16))
    lines = []
    for i in range(poses):
        pose = np.eye(4)
        pose[0, 3] = i
        lines.append(f"{i} {i} {i + 1}\n" + "\n".join(" ".join(map(str, row)) for row in pose))
    (folder / "trajectory.log").write_text("\n".join(lines) + "\n")
    camera = {"width": 16, "height": 12, "intrinsic_matrix": [20, 0, 0, 0, 21, 0, 7.5, 5.5, 1]}
    (folder / "camera.json").write_text(json.dumps(camera))
    return folder


def read(folder: Path) -> list[Frame | Damage]:
    (source,) = find_scenes(str(folder))
    with source.open() as scene:
        return list(scene.frames())


def test_poses_and_intrinsics(tmp_path: Path):
    first, second, third = read(make(tmp_path / "a b"))
    assert isinstance(third, Frame) and third.world_from_camera_44 is not None
    assert third.world_from_camera_44[0, 3] == 2
    np.testing.assert_array_equal(third.K_33, [[20, 0, 8], [0, 21, 6], [0, 0, 1]])
    assert [f.index for f in (first, second)] == [0, 1]


def test_a_frame_without_pose_or_depth_is_counted(tmp_path: Path):
    make(tmp_path, frames=3, poses=2)
    (tmp_path / "depth/00001.png").unlink()
    reasons = [f.reason if isinstance(f, Damage) else "" for f in read(tmp_path)]
    assert reasons == ["", DROP_DEPTH_IMAGE, DROP_UNREGISTERED]


@pytest.mark.parametrize("text", ["0 0 1\n1 0 0", "a b c", "nan 0 1 " + "0 " * 16])
def test_a_damaged_trajectory_is_one_line(tmp_path: Path, text: str):
    (make(tmp_path) / "trajectory.log").write_text(text)
    with pytest.raises(FormatError, match=r"trajectory.log: [^\n]+$"):
        read(tmp_path)


@pytest.mark.parametrize("value", [[], {"intrinsic_matrix": [0] * 9}, {"intrinsic_matrix": "x"}])
def test_a_damaged_camera_is_one_line(tmp_path: Path, value: object):
    (make(tmp_path) / "camera.json").write_text(json.dumps(value))
    with pytest.raises(FormatError, match=r"camera.json: [^\n]+$"):
        read(tmp_path)


def test_no_images(tmp_path: Path):
    make(tmp_path, frames=0)
    with pytest.raises(SceneError, match="no numbered colour images"):
        read(tmp_path)


def test_real_frames_explain_each_other(shared: Path):
    folder = shared / "data" / "rgbd" / "open3d_chair5"
    frames = [f for f in read(folder) if isinstance(f, Frame)]
    assert len(frames) == len(read_trajectory(str(folder / "trajectory.log"))) == 5
    a, b = frames[:2]
    assert a.depth and b.depth and a.K_33 is not None and b.K_33 is not None
    assert a.world_from_camera_44 is not None and b.world_from_camera_44 is not None
    b_from_a = compose(invert_rigid(b.world_from_camera_44), a.world_from_camera_44)
    depths = [decode_depth(f.depth) / 1000 for f in (a, b) if f.depth]
    residuals = depth_residuals(depths[0], depths[1], a.K_33, b.K_33, b_from_a)
    assert np.median(np.abs(residuals)) < 0.008 and (np.abs(residuals) < 0.05).mean() > 0.95


def test_frames_without_pose_or_depth_are_known_before_they_are_read(tmp_path: Path):
    make(tmp_path, frames=9, poses=7)
    (tmp_path / "depth/00001.png").unlink()
    (source,) = find_scenes(str(tmp_path))
    with source.open() as scene:
        assert screened(scene) == {1, 7, 8}
        plan = plan_frames(scene, IngestSpec(max_frames=3))
    assert plan.chosen == [0, 3, 6] and plan.numbers == [0, 1, 3, 6, 7, 8]
