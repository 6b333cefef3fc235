"""Pictures of what the field answers: feature and depth maps at the size of the working image.

Legend: V cameras, H W pixels of the working image, h w patch rows and columns, D width, X channels.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from spa3r.field_view import FieldView
from spa3r.viz.pca import PcaBasis, fit_basis

_TAILS = (2.0, 98.0)  # percentiles of the predicted depths that span the colour range


def pca_maps(views: FieldView, kind: str, basis: PcaBasis | None = None) -> np.ndarray:
    """Features as colours, (V, H, W, 3) uint8; between patch centres bilinear.

    Args:
        kind: "geometric", "semantic" or "linguistic".
        basis: of the colours (`feature_basis` of more views, to compare with them); None: fitted to
            all of these views together.

    Raises:
        ConfigError: features that the encoder does not predict.
    """
    if basis is None:
        basis = feature_basis(views, kind)
    features_VhwD = views.features(kind).numpy()
    grids = (basis.colours(features_hwD) for features_hwD in features_VhwD)
    centre = (views.patch_size / 2, views.patch_size / 2)
    maps = [np.rint(255 * x_HW3) for x_HW3 in _enlarge(grids, views, centre)]
    return np.stack(maps).astype(np.uint8)


def feature_basis(views: FieldView, kind: str) -> PcaBasis:
    """One basis of colours for all of these views. Raises ConfigError as `pca_maps`."""
    return fit_basis(views.features(kind).numpy())


def depth_maps(views: FieldView, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Predicted depth as viridis colours, dark near to bright far, (V, H, W, 3) uint8.

    Args:
        limits: nearest and farthest depth of the colours, in the scene's unit; None: `depth_limits`
            of these views.
    """
    near, far = depth_limits(views) if limits is None else limits
    depth_Vhw = views.depth.reshape(-1, *views.grid_hw).double().numpy()
    maps = []
    for depth_HW1 in _enlarge((d[..., None] for d in depth_Vhw), views, views.depth_offset):
        share_HW = np.clip((depth_HW1[..., 0] - near) / max(far - near, 1e-9), 0, 1)
        levels_HW = np.rint(255 * share_HW).astype(np.uint8)
        maps.append(cv2.applyColorMap(levels_HW, cv2.COLORMAP_VIRIDIS)[..., ::-1])
    return np.stack(maps)


def depth_limits(views: FieldView) -> tuple[float, float]:
    """2nd and 98th percentile of the positive predicted depths, in the scene's unit."""
    depth = views.depth.double().numpy()
    positive = depth[np.isfinite(depth) & (depth > 0)]
    near, far = np.percentile(positive, _TAILS) if positive.size else (0.0, 1.0)
    return float(near), float(far)


def _enlarge(
    grids: Iterator[np.ndarray], views: FieldView, place: tuple[float, float]
) -> Iterator[np.ndarray]:
    """Every grid (h, w, X) at the working size, (H, W, X), bilinear, constant beyond the outer
    values, which belong to pixel `place` (x, y) of their patches."""
    width, height = views.image_size
    rows, columns = views.grid_hw
    x_W = (torch.arange(width, dtype=torch.float64) + 0.5 - place[0]) / views.patch_size
    y_H = (torch.arange(height, dtype=torch.float64) + 0.5 - place[1]) / views.patch_size
    # grid_sample's image of patches has its edges at -1 and 1.
    x_W, y_H = 2 * (x_W + 0.5) / columns - 1, 2 * (y_H + 0.5) / rows - 1
    places_1HW2 = torch.stack(torch.meshgrid(x_W, y_H, indexing="xy"), dim=-1)[None]
    for grid_hwX in grids:
        image_1Xhw = torch.from_numpy(grid_hwX).double().permute(2, 0, 1)[None]
        enlarged_1XHW = F.grid_sample(
            image_1Xhw, places_1HW2, mode="bilinear", padding_mode="border", align_corners=False
        )
        yield enlarged_1XHW[0].permute(1, 2, 0).numpy()
