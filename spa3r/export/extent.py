"""Where a cloud lies and how large it is, whatever strays from it."""

from typing import Final

import numpy as np

from spa3r.errors import SceneError
from spa3r.point_cloud import PointCloud

_TAILS: Final = (2.0, 98.0)  # percentiles along each axis


def extent(cloud: PointCloud) -> tuple[np.ndarray, float]:
    """Centre (3,) and half the diagonal of the box that holds all but the outermost points.

    Raises:
        SceneError: no points.
    """
    if len(cloud) == 0:
        raise SceneError("a cloud without points has no extent: encode views with known depth")
    low_3, high_3 = np.percentile(cloud.points_N3.astype(np.float64), _TAILS, axis=0)
    return (low_3 + high_3) / 2, float(np.linalg.norm(high_3 - low_3) / 2)
