"""Paths of cameras: where they start, what they pass, what they look at."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from spa3r.camera import Camera, context_camera, context_cameras
from spa3r.errors import ConfigError
from spa3r.geometry import is_rigid, project, transform_points
from spa3r.trajectories import TRAJECTORIES, dolly, find_focus, interpolate, orbit
from tests.scene_maker import box_scene

SCENE = box_scene(views=5)
BARE = box_scene(views=5, raster_hw=None)


def pose(camera: Camera) -> np.ndarray:
    return camera.world_from_camera_44


@pytest.mark.parametrize("name", TRAJECTORIES)
@pytest.mark.parametrize("scene", [SCENE, BARE, box_scene(views=1)], ids=["room", "bare", "one"])
def test_every_path_starts_at_a_view_and_is_made_of_cameras(name: str, scene: Any) -> None:
    for count in (1, 2, 7):
        path = TRAJECTORIES[name](scene, num_views=count)
        assert len(path) == count
        np.testing.assert_allclose(pose(path[0]), pose(context_camera(scene, 0)), atol=1e-12)
        assert all(is_rigid(pose(camera), tolerance=1e-6) for camera in path)
    with pytest.raises(ConfigError, match="num_views=0"):
        TRAJECTORIES[name](scene, num_views=0)


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (orbit, {"num_views": 2.5}, "whole number of cameras.*num_views=2.5"),
    (orbit, {"num_views": "x"}, "num_views='x'"),
    (orbit, {"degrees": "x"}, "degrees must be a finite number, got 'x'"),
    (orbit, {"degrees": None}, "degrees"),
    (orbit, {"focus": "x"}, "focus is .*'x'"),
    (orbit, {"focus": [[1], [1, 2]]}, "focus is"),
    (orbit, {"view": "x"}, "whole number, not 'x'"),
    (dolly, {"num_views": 2.5}, "num_views=2.5"),
    (dolly, {"travel": "x"}, "travel is .*'x'"),
    (dolly, {"travel": math.nan}, "travel is"),
    (dolly, {"travel": -math.inf}, "travel is"),
    (interpolate, {"num_views": 2.5}, "num_views=2.5"),
    (interpolate, {"views": [0, 1.5]}, "whole number, not 1.5"),
]


@pytest.mark.parametrize(("path", "arguments", "says"), WRONG)
def test_arguments_of_the_wrong_kind_are_named(path: Any, arguments: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        path(SCENE, **arguments)
    assert len(orbit(SCENE, np.int64(2), degrees=np.float32(30))) == 2  # type: ignore[arg-type]


# --- orbit ----------------------------------------------------------------------------------------


def test_an_orbit_is_a_circle_about_the_vertical_that_sees_the_focus_at_one_place() -> None:
    focus = np.array([0.2, 0.3, 2.0])
    path = orbit(SCENE, 8, view=1, focus=focus)
    up = np.mean([-pose(camera)[:3, 1] for camera in context_cameras(SCENE)], axis=0)
    up /= np.linalg.norm(up)
    from_focus = np.stack([pose(camera)[:3, 3] for camera in path]) - focus
    heights = from_focus @ up
    np.testing.assert_allclose(heights, heights[0], atol=1e-9)
    radii = np.linalg.norm(from_focus - heights[:, None] * up, axis=1)
    np.testing.assert_allclose(radii, radii[0], atol=1e-9)
    steps = np.linalg.norm(np.diff(from_focus, axis=0, append=from_focus[:1]), axis=1)
    np.testing.assert_allclose(steps, 2 * radii[0] * math.sin(math.pi / 8), atol=1e-9)
    seen = [transform_points(camera.camera_from_world_44, focus) for camera in path]
    np.testing.assert_allclose(seen, np.tile(seen[0], (8, 1)), atol=1e-9)
    np.testing.assert_allclose(pose(path[0]), pose(context_camera(SCENE, 1)), atol=1e-12)


def test_part_of_an_orbit_ends_at_its_angle_to_the_right() -> None:
    path = orbit(BARE, 5, degrees=40.0)
    turned = pose(path[0])[:3, :3].T @ pose(path[-1])[:3, :3]
    assert np.degrees(np.linalg.norm(cv2.Rodrigues(turned)[0])) == pytest.approx(40.0)
    right = pose(path[0])[:3, 0]
    assert (pose(path[1])[:3, 3] - pose(path[0])[:3, 3]) @ right > 0
    assert (pose(orbit(BARE, 5, degrees=-40.0)[1])[:3, 3] - pose(path[0])[:3, 3]) @ right < 0


def test_up_is_the_start_cameras_where_the_cameras_cancel() -> None:
    flipped = BARE.camera_from_world_C44[:2].clone()
    flipped[1] = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])) @ flipped[0]  # upside down
    scene = dataclasses.replace(BARE, camera_from_world_C44=flipped, K_C33=BARE.K_C33[:2])
    path = orbit(scene, 4)
    np.testing.assert_allclose([pose(camera)[1, 3] for camera in path], 0, atol=1e-9)


# --- focus ----------------------------------------------------------------------------------------


def test_the_focus_is_the_middle_of_what_lies_ahead() -> None:
    for view in range(3):
        focus = find_focus(SCENE, view)
        camera = context_camera(SCENE, view)
        pixel, depth = project(transform_points(camera.camera_from_world_44, focus), camera.K_33)
        assert depth > 1.0
        assert np.all(np.abs(pixel - (112, 84)) < (112, 84))  # inside the picture
    # Outliers, such as depth at a window, do not move it far.
    assert SCENE.surface is not None
    wild = SCENE.surface.depth_Chw.clone()
    wild[:, :2] *= 1000
    scene = dataclasses.replace(SCENE, surface=dataclasses.replace(SCENE.surface, depth_Chw=wild))
    assert np.linalg.norm(find_focus(scene) - find_focus(SCENE)) < 0.5


@pytest.mark.parametrize(("predicted", "distance"), [(3.0, 3.0), (-1.0, 1.0), (math.nan, 1.0)])
def test_without_a_surface_the_focus_is_at_the_predicted_depth(predicted, distance) -> None:
    answer = SimpleNamespace(depth=torch.full((6, 8), predicted))
    scene = dataclasses.replace(BARE, encoder=SimpleNamespace(query=lambda *_: answer))
    expected = pose(context_camera(BARE, 2)) @ (0, 0, distance, 1)
    np.testing.assert_allclose(find_focus(scene, 2), expected[:3], atol=1e-9)
    np.testing.assert_allclose(find_focus(BARE, 0), (0, 0, 1), atol=1e-6)


# --- dolly ----------------------------------------------------------------------------------------


def test_a_dolly_goes_its_share_of_the_way_along_the_axis() -> None:
    start = context_camera(SCENE, 2)
    distance = transform_points(start.camera_from_world_44, find_focus(SCENE, 2))[2]
    for travel in (0.5, -0.25):
        path = dolly(SCENE, 6, view=2, travel=travel)
        moved = [transform_points(start.camera_from_world_44, pose(c)[:3, 3]) for c in path]
        np.testing.assert_allclose(np.array(moved)[:, :2], 0, atol=1e-6)
        np.testing.assert_allclose(
            np.array(moved)[:, 2], np.linspace(0, travel * distance, 6), atol=1e-6
        )
        for camera in path:
            np.testing.assert_array_equal(pose(camera)[:3, :3], pose(start)[:3, :3])


# --- interpolation --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 6, 9, 60])
def test_a_path_through_views_stops_exactly_at_each_in_order(count: int) -> None:
    path = interpolate(SCENE, count)
    stops = context_cameras(SCENE)
    found = [
        i
        for stop in stops
        for i, camera in enumerate(path)
        if np.array_equal(pose(camera), pose(stop))
    ]
    assert len(found) == 5 and found == sorted(found) and found[-1] == count - 1


def test_between_two_views_rotation_turns_evenly_and_K_follows() -> None:  # noqa: N802
    K = SCENE.K_C33.clone()
    K[3, 0, 0] += 40
    scene = dataclasses.replace(SCENE, K_C33=K)
    path = interpolate(scene, 11, views=[0, 3])
    a, b = context_camera(scene, 0), context_camera(scene, 3)
    whole = cv2.Rodrigues(pose(a)[:3, :3].T @ pose(b)[:3, :3])[0]
    for i, camera in enumerate(path):
        expected = pose(a)[:3, :3] @ cv2.Rodrigues(whole * i / 10)[0]
        np.testing.assert_allclose(pose(camera)[:3, :3], expected, atol=1e-6)
        assert camera.K_33[0, 0] == pytest.approx(150 + 4 * i)
    np.testing.assert_allclose(pose(path[5])[:3, 3], (pose(a) + pose(b))[:3, 3] / 2, atol=1e-9)


def test_turns_of_half_a_circle_and_of_nothing_interpolate() -> None:
    turns = np.tile(np.eye(4), (4, 1, 1))
    turns[1] = np.diag([-1, 1, -1, 1])  # half a turn about y
    turns[2, :3, :3] = cv2.Rodrigues(np.array([0, math.pi, 0]) + 1e-8)[0]
    turns[3] = turns[2]
    scene = dataclasses.replace(
        BARE, camera_from_world_C44=torch.from_numpy(turns).float(), K_C33=BARE.K_C33[:4]
    )
    path = interpolate(scene, 13)
    assert all(is_rigid(pose(camera), tolerance=1e-6) for camera in path)
    half = pose(path[2])[:3, :3]
    assert np.degrees(np.arccos((np.trace(half) - 1) / 2)) == pytest.approx(90, abs=0.01)
    np.testing.assert_allclose(pose(path[10]), pose(path[9]), atol=1e-6)


def test_centres_move_smoothly_and_evenly_spaced_ones_stay_on_their_line() -> None:
    line = np.tile(np.eye(4), (4, 1, 1))
    line[:, 2, 3] = (0, -1, -2, -3)  # camera_from_world of centres 0, 1, 2, 3 along z
    scene = dataclasses.replace(
        BARE, camera_from_world_C44=torch.from_numpy(line).float(), K_C33=BARE.K_C33[:4]
    )
    centres = np.array([pose(camera)[:3, 3] for camera in interpolate(scene, 31)])
    np.testing.assert_allclose(centres[:, :2], 0, atol=1e-12)
    np.testing.assert_allclose(centres[10:21, 2], np.linspace(1, 2, 11), atol=1e-9)
    assert (np.diff(centres[:, 2]) > 0).all()
    # No kink at a view: speed before and after differ by what one frame explains.
    centres = np.array([pose(camera)[:3, 3] for camera in interpolate(SCENE, 4001)])
    speed = np.diff(centres, axis=0) * 1000
    for knot in (1000, 2000, 3000):
        np.testing.assert_allclose(speed[knot - 1], speed[knot], atol=2e-3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: orbit(SCENE, view=9), "5 context views"),
        (lambda: orbit(SCENE, degrees=math.nan), "degrees"),
        (lambda: orbit(SCENE, focus=np.zeros(2)), "focus"),
        (lambda: orbit(SCENE, focus=np.full(3, np.inf)), "focus"),
        (lambda: dolly(SCENE, travel=1.5), "travel"),
        (lambda: dolly(SCENE, travel=math.nan), "travel"),
        (lambda: dolly(SCENE, travel=-math.inf), "travel"),
        (lambda: dolly(SCENE, view=-6), "5 context views"),
        (lambda: interpolate(SCENE, views=[0, 5]), "not 5"),
        (lambda: interpolate(SCENE, views=[]), "no views"),
    ],
)
def test_arguments_out_of_range_are_refused(call, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        call()
