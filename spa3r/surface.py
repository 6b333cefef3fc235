"""The thinned surface that a scene file carries: depth, confidence and colour on one raster.

Legend: C views, H W pixels of the working image, h w cells of the raster.
"""

import math

import cv2
import numpy as np
import torch
from torch import Tensor

from spa3r.errors import ConfigError
from spa3r.latent import Surface

_LARGEST = torch.finfo(torch.float16).max


def raster_size(num_views: int, height: int, width: int, points: int) -> tuple[int, int]:
    """(h, w) of the finest raster with num_views * h * w <= points, of the images' aspect ratio as
    nearly as whole numbers allow, and no finer than the pixels.

    Raises:
        ConfigError: less than one point for each view.
    """
    budget = points // num_views
    if budget < 1:
        raise ConfigError(
            f"surface_points={points} is less than one for each of {num_views} views; give 0 for no"
            f" surface, or at least {num_views}"
        )
    columns = max(1, min(width, budget, int(math.sqrt(budget * width / height))))
    rows = max(1, min(height, budget // columns, round(columns * height / width)))
    return rows, columns


def thin_surface(
    depth_CHW: Tensor, confidence_CHW: Tensor, rgb_CHW3: np.ndarray, points: int
) -> Surface:
    """At most `points` points of a teacher's depth.

    A cell takes depth and confidence of the pixel that its centre falls on, so that nothing is
    blended across edges, and the mean colour of the pixels that it covers.

    Args:
        depth_CHW: z-depth in the scene's unit, 0 = unknown. What float16 cannot hold counts as
            unknown too.
        rgb_CHW3: uint8.
    """
    num_views, height, width = depth_CHW.shape
    rows, columns = raster_size(num_views, height, width, points)
    row_h = ((torch.arange(rows) + 0.5) * (height / rows)).long()
    column_w = ((torch.arange(columns) + 0.5) * (width / columns)).long()

    def sampled(x_CHW: Tensor) -> Tensor:
        return x_CHW.cpu()[:, row_h[:, None], column_w]

    depth_Chw = sampled(depth_CHW)
    known_Chw = (depth_Chw > 0) & (depth_Chw <= _LARGEST)
    colours = [
        cv2.resize(rgb_HW3, (columns, rows), interpolation=cv2.INTER_AREA) for rgb_HW3 in rgb_CHW3
    ]
    return Surface(
        depth_Chw=torch.where(known_Chw, depth_Chw, 0).half(),
        confidence_Chw=sampled(confidence_CHW).clamp(0, _LARGEST).half(),
        rgb_Chw3=torch.from_numpy(np.stack(colours)),
    )
