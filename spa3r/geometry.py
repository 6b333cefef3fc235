"""Pinhole cameras and rigid poses in numpy, float64.

Legend: N M points, H W pixels. Transforms are named by arrow, `b_from_a_44` takes points of
frame a to frame b; a camera's pose is `world_from_camera`. Lengths in metres, OpenCV axes (x right,
y down, z forward), pixel centres at +0.5, depth is z-depth with 0 = no measurement.
"""

import numpy as np


def _expect(array: np.ndarray, shape: tuple[int | None, ...], name: str) -> None:
    """Asserts the trailing shape; None stands for any length."""
    tail = array.shape[len(array.shape) - len(shape) :]
    fits = len(tail) == len(shape) and all(
        want in (None, have) for want, have in zip(shape, tail, strict=True)
    )
    assert fits, f"{name} must end in shape {shape}, got {array.shape}"


def is_rigid(b_from_a_44: np.ndarray, tolerance: float = 1e-2) -> bool:
    """Whether one 4x4 matrix is a proper rotation and a translation, entry by entry.

    False for NaN or infinite entries, the zero matrix, scalings and reflections. The tolerance
    bounds every entry of R R^T - I and of the last row; poses stored as text keep 6 digits.
    """
    _expect(b_from_a_44, (4, 4), "b_from_a_44")
    if not np.isfinite(b_from_a_44).all():
        return False
    rotation = b_from_a_44[:3, :3].astype(np.float64)
    # A wild matrix may overflow when squared; a rotation's entries never exceed 1.
    if np.abs(rotation).max() > 1 + tolerance:
        return False
    orthogonal = np.abs(rotation @ rotation.T - np.eye(3)).max() <= tolerance
    last_row = np.abs(b_from_a_44[3] - (0, 0, 0, 1)).max() <= tolerance
    return bool(orthogonal and last_row and np.linalg.det(rotation) > 0)


def invert_rigid(b_from_a_44: np.ndarray) -> np.ndarray:
    """a_from_b of rigid transforms, shape (..., 4, 4); exact transpose, no general inverse."""
    _expect(b_from_a_44, (4, 4), "b_from_a_44")
    rotation = np.swapaxes(b_from_a_44[..., :3, :3].astype(np.float64), -1, -2)
    inverse = np.zeros(b_from_a_44.shape, np.float64)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ b_from_a_44[..., :3, 3, None])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse


def compose(c_from_b_44: np.ndarray, b_from_a_44: np.ndarray) -> np.ndarray:
    """c_from_a; leading dimensions broadcast."""
    _expect(c_from_b_44, (4, 4), "c_from_b_44")
    _expect(b_from_a_44, (4, 4), "b_from_a_44")
    return c_from_b_44.astype(np.float64) @ b_from_a_44.astype(np.float64)


def transform_points(b_from_a_44: np.ndarray, points_a_N3: np.ndarray) -> np.ndarray:
    """Points of frame a, shape (..., 3), expressed in frame b."""
    assert b_from_a_44.shape == (4, 4), f"b_from_a_44 must be (4, 4), got {b_from_a_44.shape}"
    _expect(points_a_N3, (3,), "points_a_N3")
    return points_a_N3 @ b_from_a_44[:3, :3].T + b_from_a_44[:3, 3]


def backproject(depth_HW: np.ndarray, K_33: np.ndarray) -> np.ndarray:
    """Points (H, W, 3) in the camera frame, through the pixel centres.

    Args:
        depth_HW: z-depth in metres; where it is 0 the point is the origin.
        K_33: intrinsics in pixels of this depth map.
    """
    assert depth_HW.ndim == 2, f"depth_HW must be (H, W), got {depth_HW.shape}"
    assert K_33.shape == (3, 3), f"K_33 must be (3, 3), got {K_33.shape}"
    height, width = depth_HW.shape
    y_H1 = ((np.arange(height) + 0.5 - K_33[1, 2]) / K_33[1, 1])[:, None]
    x_HW = (np.arange(width) + 0.5 - K_33[0, 2] - K_33[0, 1] * y_H1) / K_33[0, 0]
    y_HW = np.broadcast_to(y_H1, x_HW.shape)
    return np.stack([x_HW, y_HW, np.ones_like(x_HW)], axis=-1) * depth_HW[..., None]


def project(points_N3: np.ndarray, K_33: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixel positions (..., 2) and z (...) of points in the camera frame.

    Pixel (column i, row j) covers [i, i+1) x [j, j+1). Points with z <= 0 lie behind the camera:
    their position is NaN.
    """
    _expect(points_N3, (3,), "points_N3")
    assert K_33.shape == (3, 3), f"K_33 must be (3, 3), got {K_33.shape}"
    z_N = points_N3[..., 2]
    in_front = np.where(z_N > 0, z_N, np.nan)
    return (points_N3 @ K_33.T)[..., :2] / in_front[..., None], z_N


def depth_residuals(
    depth_a_HW: np.ndarray,
    depth_b_HW: np.ndarray,
    K_a_33: np.ndarray,
    K_b_33: np.ndarray,
    b_from_a_44: np.ndarray,
) -> np.ndarray:
    """View a's measured points seen from b: their z minus what b measured there, in metres.

    Returns:
        (M,) float64, one entry per point that falls on a measured pixel of b. Positive: b sees
        something nearer (an occluder); near 0: the same surface, if the poses are right.
    """
    points_N3 = backproject(depth_a_HW, K_a_33)[depth_a_HW > 0]
    uv_N2, z_N = project(transform_points(b_from_a_44, points_N3), K_b_33)
    height, width = depth_b_HW.shape
    with np.errstate(invalid="ignore"):
        inside_N = ((uv_N2 >= 0) & (uv_N2 < (width, height))).all(axis=-1)
    column_M, row_M = uv_N2[inside_N].astype(np.int64).T
    measured_M = depth_b_HW[row_M, column_M].astype(np.float64)
    return (z_N[inside_N] - measured_M)[measured_M > 0]
