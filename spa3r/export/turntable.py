"""A preview that turns: the cloud seen from a camera that goes round it.

Frames: OpenCV axes, world = view 0. "Up" is the context views' mean upward direction.
Legend: N points, C context views.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from spa3r.camera import Camera, context_cameras
from spa3r.export.extent import extent
from spa3r.latent import SceneLatent
from spa3r.point_cloud import PointCloud
from spa3r.trajectories import up_direction
from spa3r.viz.movie import check_movie_path, write_movie
from spa3r.viz.splat import render

_FIELD_OF_VIEW: Final = np.deg2rad(45)
_ELEVATION: Final = np.deg2rad(35)
_CLOSENESS: Final = 0.85  # of the distance at which the cloud's box could not leave the picture
_POINT_SHARE: Final = 1.8  # diameter of a point over the spacing that an even sphere would have
_BACKGROUND: Final = np.array([32, 34, 38], np.uint8)  # dark: windows and lamps are white
_SMALL: Final = 1e-3  # length of a unit vector's level part below which it points nowhere
_GHOST: Final = 0.15  # how much is left of the colour of what is seen from behind


def turntable(
    cloud: PointCloud,
    scene: SceneLatent,
    path: str | Path,
    *,
    frames: int = 60,
    size: tuple[int, int] = (480, 360),
    fps: int = 20,
) -> None:
    """Writes one turn as GIF or MP4, atomically.

    Surfaces seen from behind (from the other side than the view that saw them) are faint, and
    covered by all others: so one looks into a room through its near walls.

    Args:
        cloud: points of context views, in the unit of the scene's cameras.
        path: file or URL ending in .gif or .mp4.
        frames: of the whole turn.
        size: (width, height) in pixels.

    Raises:
        ConfigError: another ending, or PyAV is not installed.
        SceneError: no points.
    """
    check_movie_path(path)
    write_movie(list(pictures(cloud, scene, frames=frames, size=size)), path, fps)


def pictures(
    cloud: PointCloud, scene: SceneLatent, *, frames: int, size: tuple[int, int]
) -> Iterator[np.ndarray]:
    """The turn's pictures (H, W, 3) uint8, starting behind view 0."""
    given = context_cameras(scene)
    centres_C3 = np.stack([camera.world_from_camera_44[:3, 3] for camera in given])
    points_N3 = cloud.points_N3.astype(np.float64)
    towards_N3 = centres_C3[cloud.view_N] - points_N3
    _, radius = extent(cloud)
    point_size = _POINT_SHARE * radius * np.sqrt(4 * np.pi / len(cloud))
    faint_N3 = np.rint(_GHOST * cloud.colours_N3 + (1 - _GHOST) * _BACKGROUND).astype(np.uint8)
    for camera in orbit_cameras(cloud, scene, frames, size):
        eye_3 = camera.world_from_camera_44[:3, 3]
        faces_N = ((eye_3 - points_N3) * towards_N3).sum(1) > 0
        picture_HW3 = _BACKGROUND
        for shown_N, colours_N3 in ((~faces_N, faint_N3), (faces_N, cloud.colours_N3)):
            picture_HW3 = render(
                points_N3[shown_N],
                colours_N3[shown_N],
                camera,
                point_size=point_size,
                background=picture_HW3,
            )
        yield picture_HW3


def orbit_cameras(
    cloud: PointCloud, scene: SceneLatent, frames: int, size: tuple[int, int]
) -> list[Camera]:
    """Cameras on a circle above the cloud's centre, looking at it; the first stands on the
    side of view 0."""
    given = context_cameras(scene)
    poses = [camera.world_from_camera_44 for camera in given]
    up_3 = up_direction(given)
    back_3 = _level(-poses[0][:3, 2], up_3)
    if np.linalg.norm(back_3) < _SMALL:
        # View 0 looks straight up or down, so that its y axis lies level.
        back_3 = _level(poses[0][:3, 1], up_3)
    back_3 /= np.linalg.norm(back_3)
    side_3 = np.cross(up_3, back_3)
    focal = min(size) / 2 / np.tan(_FIELD_OF_VIEW / 2)
    K_33 = np.array([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
    centre_3, radius = extent(cloud)
    distance = _CLOSENESS * radius / np.sin(_FIELD_OF_VIEW / 2)
    cameras = []
    for angle in np.arange(frames) * 2 * np.pi / frames:
        level_3 = np.cos(angle) * back_3 + np.sin(angle) * side_3
        outward_3 = np.cos(_ELEVATION) * level_3 + np.sin(_ELEVATION) * up_3
        pose_44 = np.eye(4)
        right_3 = np.cross(up_3, level_3)
        pose_44[:3, 0] = right_3
        pose_44[:3, 1] = np.cross(-outward_3, right_3)
        pose_44[:3, 2] = -outward_3
        pose_44[:3, 3] = centre_3 + distance * outward_3
        cameras.append(Camera(pose_44, K_33, size))
    return cameras


def _level(direction_3: np.ndarray, up_3: np.ndarray) -> np.ndarray:
    """What is left of a direction across "up"."""
    return direction_3 - up_3 * (direction_3 @ up_3)
