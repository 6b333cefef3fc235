"""Pictures of a point cloud without a GPU: depth-sorted discs, edges darkened by depth.

Legend: N points, M of them near the picture, P their discs' pixels, T table entries, H W pixels.
"""

from typing import Final

import cv2
import numpy as np

from spa3r.camera import Camera
from spa3r.geometry import project, transform_points

_LARGEST: Final = 13  # pixels across; nearer points are not drawn larger
_EDGE_REACH: Final = 2  # pixels
_EDGE_STRENGTH: Final = 5.0


def render(
    points_N3: np.ndarray,
    colours_N3: np.ndarray,
    camera: Camera,
    *,
    point_size: float,
    background: np.ndarray,
) -> np.ndarray:
    """A picture (H, W, 3) uint8 of the camera's size.

    Args:
        points_N3: world.
        colours_N3: uint8 RGB.
        camera: with a size.
        point_size: diameter of a disc in the unit of the points.
        background: uint8, a colour (3,) or a picture (H, W, 3).
    """
    assert camera.size is not None, "a camera to render with needs a size"
    width, height = camera.size
    pixels_N2, z_N = project(
        transform_points(camera.camera_from_world_44, points_N3.astype(np.float64)), camera.K_33
    )
    with np.errstate(invalid="ignore"):
        near_N2 = (pixels_N2 > -_LARGEST) & (pixels_N2 < (width + _LARGEST, height + _LARGEST))
    order_M = np.flatnonzero(near_N2.all(axis=1))
    order_M = order_M[np.argsort(-z_N[order_M], kind="stable")]
    sides_M = np.rint(point_size * camera.K_33[0, 0] / z_N[order_M])
    sides_M = np.clip(sides_M, 1, _LARGEST).astype(np.int32)
    # Points come far to near, and of several values for one pixel numpy keeps the last.
    front_HW = np.full(height * width, -1, np.int32)
    point_P, cell_P = _discs(pixels_N2[order_M], sides_M, camera.size)
    front_HW[cell_P] = point_P
    hit_HW = front_HW >= 0
    front_P = order_M[front_HW[hit_HW]]
    z_HW = np.full(height * width, np.inf, np.float32)
    z_HW[hit_HW] = z_N[front_P]
    shade_HW = _edges(z_HW.reshape(height, width)).ravel()
    image_HW3 = np.broadcast_to(background, (height, width, 3)).reshape(-1, 3).copy()
    image_HW3[hit_HW] = np.rint(colours_N3[front_P] * shade_HW[hit_HW, None])
    return image_HW3.reshape(height, width, 3)


def _discs(
    centres_M2: np.ndarray, sides_M: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Point and cell (row * width + column) of every pixel of every disc, in the points' order."""
    width, height = size
    offsets = [_disc(side) for side in range(_LARGEST + 1)]
    counts = np.array([len(pixels) for pixels in offsets], np.int32)
    starts = np.cumsum(counts) - counts
    table_T2 = np.concatenate(offsets)
    counts_M = counts[sides_M]
    # The pixel's index in the table is its point's first plus how many of the point came before.
    shift_M = (starts[sides_M] - (np.cumsum(counts_M) - counts_M)).astype(np.int32)
    point_P = np.repeat(np.arange(len(sides_M), dtype=np.int32), counts_M)
    pixel_P = np.arange(len(point_P), dtype=np.int32) + shift_M[point_P]
    corners_M2 = np.floor(centres_M2 - (sides_M / 2 - 0.5)[:, None]).astype(np.int32)
    x_P = corners_M2[point_P, 0] + table_T2[pixel_P, 0]
    y_P = corners_M2[point_P, 1] + table_T2[pixel_P, 1]
    inside_P = (x_P >= 0) & (x_P < width) & (y_P >= 0) & (y_P < height)
    return point_P[inside_P], (y_P * width + x_P)[inside_P]


def _disc(side: int) -> np.ndarray:
    """Pixels (T, 2) of a disc in a square of `side` pixels."""
    y, x = np.mgrid[:side, :side]
    reach = (x + 0.5 - side / 2) ** 2 + (y + 0.5 - side / 2) ** 2
    return np.stack([x, y], axis=-1)[reach <= (side / 2) ** 2].astype(np.int32)


def _edges(z_HW: np.ndarray) -> np.ndarray:
    """Factors in (0, 1] that darken what lies behind its neighbours.

    Eye-dome lighting (Boucheny 2009). It compares logarithms of depth, so that the result does not
    depend on the unit of length.
    """
    log_HW = np.log2(z_HW)
    r = _EDGE_REACH
    padded = cv2.copyMakeBorder(log_HW, r, r, r, r, cv2.BORDER_REPLICATE)
    height, width = z_HW.shape
    behind_HW = np.zeros_like(log_HW)
    for dy, dx in ((0, r), (2 * r, r), (r, 0), (r, 2 * r)):
        neighbour_HW = padded[dy : dy + height, dx : dx + width]
        with np.errstate(invalid="ignore"):
            behind_HW += np.clip(log_HW - neighbour_HW, 0, 0.2)
    return np.exp(-_EDGE_STRENGTH / 4 * behind_HW)
