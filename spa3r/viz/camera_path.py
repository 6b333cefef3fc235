"""A scene from above and from the side: its coloured points and the way the camera went.

Legend: N points, C cameras.
"""

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spa3r.camera import Camera
from spa3r.data.shards import FrameSample
from spa3r.geometry import backproject, transform_points
from spa3r.trajectories import up_direction

MAX_POINTS: Final = 60_000
_FRUSTUMS: Final = 24
"""Cameras whose viewing direction is drawn; all of them lie on the path."""
_PATH: Final = "#d1246b"


def camera_path(
    samples: Sequence[FrameSample], world_from_camera_C44: np.ndarray, title: str
) -> bytes | None:
    """PNG of the points seen from above (left) and from the side (right), in metres.

    Up is the mean of the cameras' own up, which a scan held upright by hand has within degrees.

    Args:
        samples: frames whose points are drawn.
        world_from_camera_C44: the way, in order; all of the scene's frames that have a pose.

    Returns:
        None where fewer than two frames have a pose.
    """
    if len(world_from_camera_C44) < 2:
        return None
    level_from_world_44 = _level(world_from_camera_C44)
    points_N3, colors_N3 = _points([s for s in samples if s.world_from_camera_44 is not None])
    points_N3 = transform_points(level_from_world_44, points_N3)
    cameras_C44 = level_from_world_44 @ world_from_camera_C44
    figure = Figure(figsize=(13, 6.2), dpi=110, layout="constrained")
    above, side = figure.subplots(1, 2)
    _draw(above, points_N3, colors_N3, cameras_C44, (0, 1), f"{title}, from above")
    _draw(side, points_N3, colors_N3, cameras_C44, (0, 2), "from the side")
    out = io.BytesIO()
    figure.savefig(out, format="png", bbox_inches="tight")
    return out.getvalue()


def _level(poses_C44: np.ndarray) -> np.ndarray:
    """Rigid transform to a frame whose z points up and whose x lies along the way's long side."""
    eye = np.eye(3)
    up_3 = up_direction([Camera(pose, eye, (2, 2)) for pose in poses_C44])
    flat_C3 = poses_C44[:, :3, 3] - poses_C44[:, :3, 3].mean(axis=0)
    flat_C3 = flat_C3 - np.outer(flat_C3 @ up_3, up_3)
    along_3 = np.linalg.svd(flat_C3, full_matrices=False)[2][0]
    along_3 = along_3 - (along_3 @ up_3) * up_3
    if np.linalg.norm(along_3) < 1e-6:  # the camera stood still: any direction will do
        along_3 = np.cross(up_3, eye[np.argmin(np.abs(up_3))])
    along_3 = along_3 / np.linalg.norm(along_3)
    level_44 = np.eye(4)
    level_44[:3, :3] = [along_3, np.cross(up_3, along_3), up_3]
    return level_44


def _points(samples: Sequence[FrameSample]) -> tuple[np.ndarray, np.ndarray]:
    """World points (N, 3) and their colours (N, 3) in 0..1, the same number from each frame."""
    points, colors = [np.empty((0, 3))], [np.empty((0, 3))]
    with_depth = [s for s in samples if s.depth_mm is not None and s.K_33 is not None]
    for sample in with_depth:
        assert sample.depth_mm is not None and sample.K_33 is not None, "chosen above"
        assert sample.world_from_camera_44 is not None, "posed"
        seen = np.flatnonzero(sample.depth_mm)
        step = max(1, len(seen) * len(with_depth) // MAX_POINTS)
        chosen = seen[::step]
        camera_HW3 = backproject(sample.depth_mm / 1000, sample.K_33)
        points.append(
            transform_points(sample.world_from_camera_44, camera_HW3.reshape(-1, 3)[chosen])
        )
        colors.append(sample.color.reshape(-1, 3)[chosen] / 255)
    return np.concatenate(points), np.concatenate(colors)


def _draw(
    axes: Axes,
    points_N3: np.ndarray,
    colors_N3: np.ndarray,
    cameras_C44: np.ndarray,
    plane: tuple[int, int],
    title: str,
) -> None:
    x, y = plane
    axes.scatter(points_N3[:, x], points_N3[:, y], s=0.6, c=colors_N3, linewidths=0)
    centres_C3 = cameras_C44[:, :3, 3]
    axes.plot(centres_C3[:, x], centres_C3[:, y], color=_PATH, linewidth=1.6, label="camera path")
    axes.plot(*centres_C3[0, [x, y]], "o", color=_PATH, markersize=7, label="first frame")
    chosen = cameras_C44[:: max(1, len(cameras_C44) // _FRUSTUMS)]
    drawn = np.concatenate([points_N3, centres_C3])
    extent = float(np.ptp(drawn[:, [x, y]], axis=0).max()) or 1.0
    axes.quiver(
        chosen[:, x, 3], chosen[:, y, 3], chosen[:, x, 2], chosen[:, y, 2],
        color=_PATH, angles="xy", scale_units="xy", scale=12 / extent, width=0.003, alpha=0.8,
    )  # fmt: skip
    axes.set_aspect("equal")
    axes.set_title(title)
    axes.set_xlabel("m")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=8)
