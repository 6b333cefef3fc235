"""Camera conventions against one physical camera; what is no camera is refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from spa3r.camera import CONVENTIONS, Camera, context_camera, context_cameras
from spa3r.errors import ConfigError, SceneError
from spa3r.geometry import invert_rigid, project, transform_points
from tests.scene_maker import K_33, box_scene, poses

POSE = poses(5)[4]


def plus(row: int, column: int, by: float) -> np.ndarray:
    """K with another entry."""
    K = K_33.copy()
    K[row, column] += by
    return K


def test_three_conventions_of_one_camera_see_a_point_at_one_pixel() -> None:
    # What a Blender user and a COLMAP user would write for this camera, axis by axis.
    right, down, forward, centre = POSE[:3, :4].T
    opengl = np.column_stack([right, -down, -forward, centre])
    colmap = np.column_stack([np.stack([right, down, forward]),
                              [-right @ centre, -down @ centre, -forward @ centre]])  # fmt: skip
    point = centre + 2.0 * forward + 0.5 * right - 0.25 * down  # right of the axis and above it
    expected = K_33[:2, 2] + np.array([150 * 0.5 / 2, -148 * 0.25 / 2])
    for convention, matrix in {"opencv": POSE, "opengl": opengl, "colmap": colmap}.items():
        camera = Camera.from_pose(matrix, K_33, convention=convention)
        at, depth = project(transform_points(camera.camera_from_world_44, point), camera.K_33)
        np.testing.assert_allclose(at, expected, atol=1e-9, err_msg=convention)
        assert depth == pytest.approx(2.0)
        np.testing.assert_allclose(camera.world_from_camera_44, POSE, atol=1e-12)


def test_an_unknown_convention_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'pytorch3d'") as refused:
        Camera.from_pose(POSE, K_33, convention="pytorch3d")
    assert all(repr(name) in str(refused.value) for name in CONVENTIONS)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("pose", "K", "size", "says"),
    [
        (POSE[:3, :3], K_33, None, r"shape \(3, 3\)"),
        (POSE * 2, K_33, None, "not a rigid pose"),
        (np.full((4, 4), np.nan), K_33, None, "not a rigid pose"),
        (POSE, np.diag([0.0, 1, 1]), None, "positive focal"),
        (POSE, K_33 / 2, None, "K must be"),
        (POSE, K_33, (0, 480), "size is"),
        ("abc", K_33, None, "a pose is"),
        ([[1, 0], [1]], K_33, None, "a pose is"),
        (torch.eye(4, requires_grad=True), K_33, None, "a pose is"),
        (POSE, "abc", None, "K must be"),
        (POSE, [[1, 0], [1]], None, "K must be"),
        (POSE, np.ones((400, 400)), None, r"K must be .*shape \(400, 400\)$"),
        (POSE, plus(1, 0, 1e-6), None, "K must be"),
        (POSE, plus(0, 1, 0.16), None, r"skew of 0\.16"),
        (POSE, plus(0, 1, -0.16), None, r"skew of -0\.16"),
        (POSE, K_33, "ab", "size is"),
        (POSE, K_33, 640, "size is"),
        (POSE, K_33, (640,), "size is"),
        (POSE, K_33, (640.5, 480), "size is"),
    ],
    ids=["shape", "scaled", "nan", "focal", "last-row", "size", "text", "ragged", "gradient",
         "text-K", "ragged-K", "shape-K", "K10", "skew", "skew-left", "text-size", "one-side",
         "short-size", "half-a-pixel"],
)  # fmt: skip
def test_what_is_no_camera_is_refused(pose, K, size, says) -> None:
    for make in (Camera, lambda pose, K, size: Camera.from_pose(pose, K, size=size)):
        with pytest.raises(ConfigError, match=says) as refused:
            make(pose, K, size)
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_rounding_is_no_skew_and_a_size_may_be_any_pair() -> None:
    almost = plus(0, 1, 0.14)  # of a focal length of 150
    for size in ([640, 480], np.array([640, 480]), (np.int32(640), 480)):
        camera: Any = Camera(POSE, almost, size)  # type: ignore[arg-type]
        assert camera.size == (640, 480) and type(camera.size[0]) is int
        np.testing.assert_array_equal(camera.K_33, almost)


@pytest.mark.parametrize(("x", "y", "fits"), [
    (112, 84, True), (-112, 84, True), (336, 84, True), (112, -84, True), (112, 252, True),
    (-113, 84, False), (337, 84, False), (112, -85, False), (112, 253, False),
])  # fmt: skip
def test_a_principal_point_lies_near_the_image(x: float, y: float, fits: bool) -> None:
    """Of 224 x 168 pixels; crops may put it outside, by half a side at most."""
    K = np.array([[150.0, 0, x], [0, 150, y], [0, 0, 1]])
    Camera(POSE, K)  # of an image that is not known here
    if fits:
        Camera(POSE, K, (224, 168))
        return
    with pytest.raises(ConfigError, match=rf"\({x}, {y}\).* 224 x 168 .*`size=\(w, h\)`"):
        Camera(POSE, K, (224, 168))


def test_metres_come_into_the_scenes_unit() -> None:
    metric = Camera(POSE, K_33, (640, 480))
    camera = metric.from_metres(2.5)
    np.testing.assert_array_equal(camera.world_from_camera_44[:3, :3], POSE[:3, :3])
    np.testing.assert_allclose(camera.world_from_camera_44[:3, 3] * 2.5, POSE[:3, 3])
    assert camera.size == (640, 480)
    with pytest.raises(SceneError, match="world_from_camera"):
        metric.from_metres(math.nan)


def test_context_cameras_are_the_scenes_own() -> None:
    scene = box_scene(views=3)
    cameras = context_cameras(scene)
    np.testing.assert_allclose(cameras[0].world_from_camera_44, np.eye(4), atol=1e-7)
    for view, pose in enumerate(poses(3)):
        world_from_camera = invert_rigid(poses(1)[0]) @ pose
        np.testing.assert_allclose(cameras[view].world_from_camera_44, world_from_camera, atol=1e-6)
    last = context_camera(scene, -1)
    np.testing.assert_array_equal(last.world_from_camera_44, cameras[2].world_from_camera_44)
    for view in (3, -4):
        with pytest.raises(ConfigError, match=rf"0\.\.2, or -3\.\.-1 .*not {view}"):
            context_camera(scene, view)
    nonsense: list[Any] = ["0", 1.5, True, None]
    for view in nonsense:
        with pytest.raises(ConfigError, match="whole number"):
            context_camera(scene, view)
