"""Paths of cameras through a scene.

Every path has cameras in the scene's world (OpenCV axes, lengths in the scene's unit) for its
working image. Legend: C context views, N points.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np

from spa3r.camera import Camera, context_camera, context_cameras
from spa3r.errors import ConfigError
from spa3r.geometry import transform_points
from spa3r.point_cloud import surface_points

if TYPE_CHECKING:
    from spa3r.latent import SceneLatent

_DISTANCE: Final = 1.0
"""Of the focus where nothing is known: teachers choose the unit of length so that what the views
see is about one unit away."""


def orbit(
    scene: "SceneLatent",
    num_views: int = 60,
    degrees: float = 360.0,
    view: int = 0,
    focus: np.ndarray | None = None,
) -> list[Camera]:
    """A circle about the vertical axis through a point, starting at a context view.

    The context view is carried round rigidly, so it sees the focus at the same place all the way.
    Up is the mean of the context cameras' -y axes. A positive angle moves the camera to its right.

    Args:
        num_views: cameras; with whole turns the last is one step before the first, so that a film
            of them loops, else the last stands at `degrees`.
        view: index of the context view.
        focus: world point (3,); None: `find_focus`.

    Raises:
        ConfigError: no such view, or an argument out of range.
    """
    _check_count(num_views)
    if not _is_finite(degrees):
        raise ConfigError(f"an orbit's degrees must be a finite number, got {degrees!r}")
    start = context_camera(scene, view)
    centre_3 = find_focus(scene, view) if focus is None else _point(focus)
    up_3 = up_direction(context_cameras(scene))
    closed = degrees != 0 and degrees % 360 == 0
    angles = np.radians(np.linspace(0, degrees, num_views, endpoint=not closed))
    return [_moved(start, _turn(up_3, angle, centre_3)) for angle in angles]


def dolly(
    scene: "SceneLatent", num_views: int = 60, view: int = 0, travel: float = 0.5
) -> list[Camera]:
    """Straight ahead from a context view, along its optical axis.

    Args:
        view: index of the context view, where the path starts.
        travel: where it ends, as a share of the way to the focus (`find_focus`), up to 1; negative
            moves backwards.

    Raises:
        ConfigError: no such view, or an argument out of range.
    """
    _check_count(num_views)
    if not _is_finite(travel) or travel > 1:
        raise ConfigError(
            f"a dolly's travel is a share of the way to the focus <= 1, not {travel!r}"
        )
    start = context_camera(scene, view)
    centre_3, forward_3 = start.world_from_camera_44[:3, 3], start.world_from_camera_44[:3, 2]
    distance = float((find_focus(scene, view) - centre_3) @ forward_3)
    path = []
    for share in np.linspace(0, travel, num_views):
        world_from_world_44 = np.eye(4)
        world_from_world_44[:3, 3] = share * distance * forward_3
        path.append(_moved(start, world_from_world_44))
    return path


def interpolate(
    scene: "SceneLatent", num_views: int = 60, views: Sequence[int] | None = None
) -> list[Camera]:
    """Through context views in order: Catmull-Rom centres, slerp of rotations, K linearly.

    With at least as many cameras as views the path stops exactly at each of them.

    Args:
        views: indices of the context views to pass; None: all of them.

    Raises:
        ConfigError: no such view, no view at all, or num_views < 1.
    """
    _check_count(num_views)
    if views is not None and len(views) == 0:
        raise ConfigError("a path through no views: name at least one context view")
    stops = (
        context_cameras(scene) if views is None else [context_camera(scene, view) for view in views]
    )
    last = len(stops) - 1
    times = np.linspace(0, last, num_views)
    if 0 < last < num_views:
        # Whole frames for whole views: those of a leg are spread evenly.
        frames = np.rint(np.arange(last + 1) * ((num_views - 1) / last))
        times = np.interp(np.arange(num_views), frames, np.arange(last + 1))
    return [_between(stops, float(time)) for time in times]


TRAJECTORIES: Final = {"orbit": orbit, "dolly": dolly, "interpolate": interpolate}
"""Paths by name; each is called with a scene and num_views."""


def find_focus(scene: "SceneLatent", view: int = 0) -> np.ndarray:
    """World point (3,) that a context view looks at.

    The median of the surface points in front of it, along each of its axes. Without a surface: on
    its optical axis, at the median depth that the field predicts, or one unit away where the scene
    has no encoder.
    """
    camera = context_camera(scene, view)
    if scene.surface is not None:
        points_N3 = surface_points(scene).points_N3.astype(np.float64)
        points_N3 = transform_points(camera.camera_from_world_44, points_N3)
        ahead_M3 = points_N3[points_N3[:, 2] > 0]
        if len(ahead_M3):
            return transform_points(camera.world_from_camera_44, np.median(ahead_M3, axis=0))
    distance = _DISTANCE
    if scene.encoder is not None:
        predicted = float(scene.query(view).depth.median())
        # A probe that was never trained may answer anything.
        distance = predicted if predicted > 0 and math.isfinite(predicted) else _DISTANCE
    return transform_points(camera.world_from_camera_44, np.array([0.0, 0.0, distance]))


# --- motion ---------------------------------------------------------------------------------------


def _check_count(num_views: int) -> None:
    if not isinstance(num_views, int | np.integer) or num_views < 1:
        raise ConfigError(
            f"a trajectory needs a whole number of cameras, at least one camera, got"
            f" num_views={num_views!r}"
        )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and bool(np.isfinite(value))


def _point(focus: Any) -> np.ndarray:
    """A point (3,), float64. Raises ConfigError for anything else."""
    try:
        point_3 = np.asarray(focus, np.float64)
    except (ValueError, TypeError):
        point_3 = np.zeros(0)
    if point_3.shape != (3,) or not np.isfinite(point_3).all():
        raise ConfigError(f"a focus is a finite point (3,) of the world, got {focus!r}")
    return point_3


def _moved(camera: Camera, world_from_world_44: np.ndarray) -> Camera:
    return Camera(world_from_world_44 @ camera.world_from_camera_44, camera.K_33, camera.size)


def up_direction(cameras: Sequence[Camera]) -> np.ndarray:
    """Unit vector (3,): mean of the cameras' -y axes; the first one's own where they cancel."""
    ups_C3 = np.stack([-camera.world_from_camera_44[:3, 1] for camera in cameras])
    mean_3 = ups_C3.mean(axis=0)
    length = float(np.linalg.norm(mean_3))
    return mean_3 / length if length > 0.1 else ups_C3[0]


def _turn(axis_3: np.ndarray, angle: float, centre_3: np.ndarray) -> np.ndarray:
    """Rotation of the world about an axis through a point."""
    turned_44 = np.eye(4)
    turned_44[:3, :3] = cv2.Rodrigues(axis_3 * angle)[0]
    turned_44[:3, 3] = centre_3 - turned_44[:3, :3] @ centre_3
    return turned_44


def _between(stops: Sequence[Camera], time: float) -> Camera:
    """The camera at a time; integers are the stops themselves."""
    first = min(int(time), len(stops) - 1)
    share = time - first
    if share == 0:
        return stops[first]
    # The path's ends have no neighbour beyond them: they stand in for it.
    four = [stops[min(max(first + i, 0), len(stops) - 1)] for i in (-1, 0, 1, 2)]
    poses_44 = [camera.world_from_camera_44 for camera in four]
    pose_44 = np.eye(4)
    pose_44[:3, :3] = _slerp(poses_44[1][:3, :3], poses_44[2][:3, :3], share)
    pose_44[:3, 3] = _catmull_rom(np.stack([p[:3, 3] for p in poses_44]), share)
    K_33 = (1 - share) * four[1].K_33 + share * four[2].K_33
    return Camera(pose_44, K_33, four[1].size)


def _catmull_rom(centres_43: np.ndarray, share: float) -> np.ndarray:
    """The cubic from the second to the third of four points (a to b) whose slopes there are half of
    b - before and of after - a."""
    before_3, a_3, b_3, after_3 = centres_43
    slope_a, slope_b = (b_3 - before_3) / 2, (after_3 - a_3) / 2
    step = b_3 - a_3
    return (
        a_3
        + slope_a * share
        + (3 * step - 2 * slope_a - slope_b) * share**2
        + (slope_a + slope_b - 2 * step) * share**3
    )


def _slerp(a_33: np.ndarray, b_33: np.ndarray, share: float) -> np.ndarray:
    """Rotation on the shortest way from a to b at constant speed."""
    a_4, b_4 = _quaternion(a_33), _quaternion(b_33)
    if a_4 @ b_4 < 0:
        b_4 = -b_4  # the same rotation, the short way
    # Half of the angle between them, exact for small and large angles alike.
    angle = 2 * np.arctan2(np.linalg.norm(b_4 - a_4), np.linalg.norm(b_4 + a_4))
    if angle < 1e-9:
        return a_33
    q_4 = np.sin((1 - share) * angle) * a_4 + np.sin(share * angle) * b_4
    return _rotation(q_4 / np.linalg.norm(q_4))


def _quaternion(rotation_33: np.ndarray) -> np.ndarray:
    """Unit quaternion (w, x, y, z), from the row of q q^T with the largest diagonal."""
    (a, b, c), (d, e, f), (g, h, i) = rotation_33
    outer_44 = np.array(
        [
            [1 + a + e + i, h - f, c - g, d - b],
            [h - f, 1 + a - e - i, b + d, c + g],
            [c - g, b + d, 1 - a + e - i, f + h],
            [d - b, c + g, f + h, 1 - a - e + i],
        ]
    )
    row_4 = outer_44[outer_44.diagonal().argmax()]
    return row_4 / np.linalg.norm(row_4)


def _rotation(q_4: np.ndarray) -> np.ndarray:
    w, x, y, z = q_4
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
