"""Cameras and poses against hand-made cases; pose direction against real scans."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from spa3r import geometry


def rotation(axis: tuple[float, float, float], angle: float) -> np.ndarray:
    unit = np.array(axis) / np.linalg.norm(axis)
    return cv2.Rodrigues(unit * angle)[0]


def pose(axis: tuple[float, float, float], angle: float, at: tuple[float, float, float]):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation(axis, angle), at
    return matrix


A = pose((1, 2, 3), 0.7, (1.0, -2.0, 0.5))
B = pose((-1, 0.5, 0), 2.1, (0.0, 3.0, 1.0))
K = np.array([[60.0, 0.0, 20.0], [0.0, 50.0, 15.0], [0.0, 0.0, 1.0]])


def test_inverse_is_the_inverse_and_batches():
    both = np.stack([A, B])
    product = geometry.compose(geometry.invert_rigid(both), both)
    np.testing.assert_allclose(product, np.stack([np.eye(4)] * 2), atol=1e-14)


def test_is_rigid_accepts_rotations_stored_with_six_digits():
    assert geometry.is_rigid(A.round(6))
    assert geometry.is_rigid(A.astype(np.float32))


@pytest.mark.parametrize(
    "bad",
    [
        np.full((4, 4), -np.inf),
        np.full((4, 4), np.nan),
        np.zeros((4, 4)),
        A * 1e300,
        A @ np.diag([1, 1, -1, 1]),
        A @ np.diag([1.02, 1.02, 1.02, 1]),
        A + np.eye(4)[3][:, None] * 0.1,
    ],
    ids=["minus-inf", "nan", "zero", "huge", "mirrored", "scaled", "last-row"],
)
def test_is_rigid_refuses(bad: np.ndarray):
    assert not geometry.is_rigid(bad)


def test_shapes_are_asserted_with_the_shape_in_the_message():
    with pytest.raises(AssertionError, match=r"\(3, 4\)"):
        geometry.invert_rigid(np.zeros((3, 4)))


def test_backproject_goes_through_pixel_centres():
    points = geometry.backproject(np.full((30, 40), 2.0), K)
    np.testing.assert_allclose(points[0, 0], [(0.5 - 20) / 60 * 2, (0.5 - 15) / 50 * 2, 2.0])


def test_project_inverts_backproject_even_with_skew():
    skewed = K + np.array([[0, 3.0, 0], [0, 0, 0], [0, 0, 0]])
    depth = np.random.default_rng(0).uniform(0.5, 4, (30, 40))
    uv, z = geometry.project(geometry.backproject(depth, skewed), skewed)
    columns, rows = np.meshgrid(np.arange(40) + 0.5, np.arange(30) + 0.5)
    np.testing.assert_allclose(uv, np.stack([columns, rows], axis=-1), atol=1e-12)
    np.testing.assert_allclose(z, depth)


def test_points_behind_the_camera_have_no_pixel():
    uv, z = geometry.project(np.array([[0.0, 0.0, -1.0], [0.0, 0.0, 0.0]]), K)
    assert np.isnan(uv).all()
    assert z.tolist() == [-1.0, 0.0]


def test_residuals_of_a_wall_seen_from_two_places():
    wall = np.full((30, 40), 3.0)
    # 3 m away and 60 px focal length: 1 m to the side moves the wall by 20 of 40 pixels.
    aside = pose((1, 0, 0), 0.0, (1.0, 0.0, 0.0))
    # A step forward brings it nearer than b's own measurement says.
    ahead = pose((1, 0, 0), 0.0, (0.0, 0.0, -1.0))
    for b_from_a, seen, residual in (
        (np.eye(4), 1200, 0.0),
        (aside, 600, 0.0),
        (ahead, None, -1.0),
    ):
        residuals = geometry.depth_residuals(wall, wall, K, K, b_from_a)
        assert len(residuals) == (seen or len(residuals)) > 0
        np.testing.assert_allclose(residuals, residual, atol=1e-12)
    assert len(geometry.depth_residuals(np.zeros((30, 40)), wall, K, K, np.eye(4))) == 0
    assert len(geometry.depth_residuals(wall, np.zeros((30, 40)), K, K, np.eye(4))) == 0


def test_poses_of_real_scans_are_camera_to_world(shared: Path):
    """formats.md: neighbours of redkitchen agree to 6-10 mm (median), 88-98 % within 5 cm."""
    folder = shared / "data/scannet/export/redkitchen_00"
    if not folder.is_dir():
        pytest.skip("no exported redkitchen scan")
    invalid = json.loads(Path(f"{folder}.expected.json").read_text())
    unusable = {*invalid["invalid_pose_frames"], *invalid["empty_depth_frames"]}
    intrinsics = np.loadtxt(folder / "intrinsic/intrinsic_depth.txt")[:3, :3]
    medians, reversed_medians = [], []
    for i in range(0, invalid["num_frames"] - 1, 4):
        if {i, i + 1} & unusable:
            continue
        depths = [
            cv2.imread(str(folder / f"depth/{n}.png"), cv2.IMREAD_UNCHANGED) / 1000.0
            for n in (i, i + 1)
        ]
        poses = [np.loadtxt(folder / f"pose/{n}.txt") for n in (i, i + 1)]
        b_from_a = geometry.compose(geometry.invert_rigid(poses[1]), poses[0])
        wrong = geometry.compose(poses[1], geometry.invert_rigid(poses[0]))
        for transform, into in ((b_from_a, medians), (wrong, reversed_medians)):
            residuals = geometry.depth_residuals(*depths, intrinsics, intrinsics, transform)
            into.append(np.median(np.abs(residuals)))
    assert np.median(medians) < 0.012
    assert np.median(reversed_medians) > 3 * np.median(medians)
