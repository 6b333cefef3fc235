"""Splats, movies and the turntable: against slow loops and other decoders."""

from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from spa3r.camera import Camera
from spa3r.errors import ConfigError, SceneError
from spa3r.export.extent import extent
from spa3r.export.turntable import orbit_cameras, pictures, turntable
from spa3r.geometry import project, transform_points
from spa3r.point_cloud import PointCloud, surface_points
from spa3r.viz.movie import write_movie
from spa3r.viz.splat import render
from tests.scene_maker import box_scene

SCENE = box_scene(views=2, raster_hw=(12, 16))
CLOUD = surface_points(SCENE)
SIZE = (48, 36)
CAMERA = Camera(np.eye(4), np.array([[40.0, 0, 24], [0, 40.0, 18], [0, 0, 1]]), SIZE)


# --- splats ---------------------------------------------------------------------------------------


def slow_nearest(points: np.ndarray, point_size: float) -> np.ndarray:
    """Index of the nearest disc over every pixel, -1 for none."""
    best = np.full(SIZE[::-1], np.inf)
    front = np.full(SIZE[::-1], -1)
    for index, (x, y, z) in enumerate(points):
        if z <= 0:
            continue
        side = int(np.clip(np.rint(point_size * 40 / z), 1, 13))
        left, top = np.floor(np.array([40 * x / z + 24, 40 * y / z + 18]) - side / 2 + 0.5).astype(
            int
        )
        for row in range(top, top + side):
            for column in range(left, left + side):
                away = np.hypot(column + 0.5 - left - side / 2, row + 0.5 - top - side / 2)
                inside = 0 <= row < SIZE[1] and 0 <= column < SIZE[0] and away <= side / 2
                if inside and z < best[row, column]:
                    best[row, column], front[row, column] = z, index
    return front


def test_the_nearest_disc_covers_each_pixel() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    points = rng.uniform((-1, -0.8, -0.5), (1, 0.8, 3), (150, 3))
    # Colours that eye-dome lighting cannot mix up: it scales the channels alike.
    pure = np.eye(3, dtype=np.uint8) * 255
    colours = pure[np.arange(150) % 3]
    image = render(points, colours, CAMERA, point_size=0.1, background=np.full(3, 9, np.uint8))
    front = slow_nearest(points, 0.1)
    assert (front >= 0).mean() > 0.2
    np.testing.assert_array_equal(image[front < 0], np.full((int((front < 0).sum()), 3), 9))
    np.testing.assert_array_equal(image[front >= 0].argmax(-1), front[front >= 0] % 3)


def test_depth_edges_are_darker_than_flat_parts() -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 120), np.linspace(-1, 1, 120))
    z = np.where(x < 0, 1.0, 1.6)
    points = np.stack([x * z, y * z, z], -1).reshape(-1, 3)
    colours = np.full((len(points), 3), 200, np.uint8)
    image = render(points, colours, CAMERA, point_size=0.05, background=np.zeros(3, np.uint8))
    assert (image[18, [10, 40]] == 200).all()
    assert image[18, 25].max() < 180  # just behind the step, which is at column 24


# --- movies ---------------------------------------------------------------------------------------


def moving_frames(width: int, height: int) -> list[np.ndarray]:
    y, x = np.mgrid[:height, :width]
    return [
        np.stack([(x * 3 + 8 * i) % 200, y * 4, 0 * x + 90], -1).astype(np.uint8) for i in range(6)
    ]


def test_a_gif_loops_with_one_palette_and_keeps_the_frames(tmp_path: Path) -> None:
    frames = moving_frames(49, 35)
    write_movie(frames, tmp_path / "m.GIF", fps=20)
    with Image.open(tmp_path / "m.GIF") as movie:
        assert movie.info["loop"] == 0 and movie.info["duration"] == 50
        assert movie.size == (49, 35)
        found = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(movie)]
    assert len(found) == 6
    for have, want in zip(found, frames, strict=True):
        assert np.abs(have.astype(int) - want).mean() < 8


def test_opencv_and_pyav_read_an_mp4_of_odd_sides(tmp_path: Path) -> None:
    path, frames = tmp_path / "m.mp4", moving_frames(49, 35)
    write_movie(frames, path, fps=10)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p" and stream.average_rate == 10
    video = cv2.VideoCapture(str(path))
    found = [video.read()[1] for _ in range(6)]
    assert not video.read()[0]
    for have, want in zip(found, frames, strict=True):
        assert have.shape == (36, 50, 3)
        assert np.abs(have[:35, :49, ::-1].astype(int) - want).mean() < 12
    assert [p.name for p in tmp_path.iterdir()] == ["m.mp4"]


def test_other_endings_and_no_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.gif or \.mp4"):
        write_movie(moving_frames(8, 8), tmp_path / "m.webm")
    with pytest.raises(ConfigError, match="at least one frame"):
        write_movie([], tmp_path / "m.gif")
    assert list(tmp_path.iterdir()) == []


# --- the turntable --------------------------------------------------------------------------------


def test_cameras_go_round_the_centre_above_it_and_upright() -> None:
    centre, radius = extent(CLOUD)
    cameras = orbit_cameras(CLOUD, SCENE, 8, SIZE)
    poses = np.stack([camera.world_from_camera_44 for camera in cameras])
    up = -np.mean(SCENE.camera_from_world_C44[:, 1, :3].numpy(), axis=0)
    up /= np.linalg.norm(up)
    away = poses[:, :3, 3] - centre
    assert np.ptp(np.linalg.norm(away, axis=1)) < 1e-9
    assert (away @ up > radius / 2).all()
    np.testing.assert_allclose(poses[:, :3, 0] @ up, 0, atol=1e-9)  # the horizon is level
    assert (poses[:, :3, 1] @ up < 0).all()
    for camera in cameras:
        pixels, _ = project(transform_points(camera.camera_from_world_44, centre), camera.K_33)
        np.testing.assert_allclose(pixels, np.array(SIZE) / 2, atol=1e-6)
    np.testing.assert_allclose(away.sum(0) @ (np.eye(3) - np.outer(up, up)), 0, atol=1e-6)
    assert away[0] @ [0, 0, 1] < 0  # behind view 0, which looks along z


@pytest.mark.parametrize("case", ["views that cancel", "view 0 looks down"])
def test_cameras_stay_rigid_where_up_or_level_is_undefined(case: str) -> None:
    """Upside-down beside upright; then a first view that looks along what the others call up."""
    camera_from_world = SCENE.camera_from_world_C44.numpy().copy()
    camera_from_world[:] = np.eye(4)
    if case == "views that cancel":
        camera_from_world[1, :3, :3] = np.diag([-1.0, -1.0, 1.0])
    else:
        # World = view 0, looking along z, down: view 1's -y is the world's -z, and it outweighs
        # view 0's own by coming twice, with view 0's -y cancelled by view 2's.
        tilted = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
        camera_from_world = np.tile(np.eye(4, dtype=np.float32), (3, 1, 1))
        camera_from_world[1, :3, :3] = tilted
        camera_from_world[2, :3, :3] = np.diag([-1.0, -1.0, 1.0])
    scene = box_scene(views=len(camera_from_world), raster_hw=(12, 16))
    poses_C44 = scene.camera_from_world_C44.new_tensor(camera_from_world.tolist())
    scene = replace(scene, camera_from_world_C44=poses_C44)
    up = {"views that cancel": [0, -1, 0], "view 0 looks down": [0, 0, -1]}[case]
    for camera in orbit_cameras(CLOUD, scene, 4, SIZE):
        turn = camera.world_from_camera_44[:3, :3]
        np.testing.assert_allclose(turn.T @ turn, np.eye(3), atol=1e-6)
        assert np.linalg.det(turn) > 0.999
        assert abs(turn[:, 0] @ up) < 1e-6 and turn[:, 1] @ up < 0


def test_the_turntable_shows_the_room_and_moves(tmp_path: Path) -> None:
    turntable(CLOUD, SCENE, tmp_path / "t.gif", frames=4, size=SIZE)
    with Image.open(tmp_path / "t.gif") as movie:
        found = [np.asarray(f.convert("RGB"), int) for f in ImageSequence.Iterator(movie)]
    assert len(found) == 4
    for frame in found:
        shown = (np.abs(frame - frame[0, 0]) > 8).any(-1).mean()
        assert 0.1 < shown < 0.9
    assert np.abs(found[0] - found[1]).mean() > 5


def test_surfaces_seen_from_behind_are_faint_and_hide_nothing() -> None:
    """A wall of two views' surfaces: red seen from view 0's side, blue from beyond it."""
    views = SCENE.camera_from_world_C44.clone()
    views[0] = views[1] = views.new_tensor(np.eye(4).tolist())
    views[1, 2, 3] = -6.0  # camera 1 stands at z = 6
    scene = replace(SCENE, camera_from_world_C44=views)
    x, y = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40))
    wall = np.stack([x, y, 0 * x + 3], -1).reshape(-1, 3).astype(np.float32)
    gap = np.array([0, 0, 0.01])
    both = PointCloud(
        points_N3=np.concatenate([wall + gap, wall - gap]).astype(np.float32),
        colours_N3=np.repeat(np.array([[250, 0, 0], [0, 0, 250]], np.uint8), 1600, axis=0),
        confidence_N=np.ones(3200, np.float32),
        view_N=np.repeat(np.array([0, 1], np.int32), 1600),
    )
    first, _, half, _ = pictures(both, scene, frames=4, size=SIZE)
    assert first[18, 24].argmax() == 0 and first[18, 24].max() > 200  # though blue is nearer
    assert half[18, 24].argmax() == 2 and half[18, 24].max() > 200
    red = replace(both, view_N=both.view_N * 0, colours_N3=both.colours_N3[:1].repeat(3200, 0))
    _, _, behind, _ = pictures(red, scene, frames=4, size=SIZE)
    assert behind[18, 24].argmax() == 0 and 45 < behind[18, 24].max() < 100


def test_extent_ignores_strays_and_refuses_nothing() -> None:
    far = CLOUD.points_N3.copy()
    far[::100] *= 1000
    centre, radius = extent(CLOUD)
    stray_centre, stray_radius = extent(replace(CLOUD, points_N3=far))
    assert np.abs(stray_centre - centre).max() < 0.1 * radius
    assert abs(stray_radius - radius) < 0.1 * radius
    with pytest.raises(SceneError):
        extent(CLOUD._take(np.zeros(0, int)))
