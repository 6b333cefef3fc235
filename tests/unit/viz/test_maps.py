"""Feature and depth maps: one scale for all views, every value at its own pixel."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch

from spa3r.camera import Camera
from spa3r.errors import ConfigError
from spa3r.field_view import FieldView
from spa3r.viz.maps import depth_limits, depth_maps, feature_basis, pca_maps
from spa3r.viz.pca import MAX_TOKENS, fit_basis

PATCH = 14
GRID = (4, 6)
RNG = np.random.Generator(np.random.PCG64(0))


def view(depth: np.ndarray, features: np.ndarray | None = None) -> FieldView:
    """Depth (V, h, w), features (V, h, w, D)."""
    camera = Camera(np.eye(4), np.array([[70.0, 0, 42], [0, 70, 28], [0, 0, 1]]))
    return FieldView(
        cameras=(camera,) * len(depth),
        depth=torch.from_numpy(depth).float(),
        geometric=None if features is None else torch.from_numpy(features).float(),
        patch_size=PATCH,
        depth_offset=(0.5, 0.5),
    )


FEATURES = RNG.normal(size=(3, *GRID, 8))
VIEWS = view(RNG.uniform(1, 5, (3, *GRID)), FEATURES)


def test_patch_centres_show_the_shared_basis_exactly() -> None:
    maps = pca_maps(VIEWS, "geometric")
    assert maps.shape == (3, 56, 84, 3) and maps.dtype == np.uint8
    expected = 255 * fit_basis(FEATURES.astype(np.float32)).colours(FEATURES)
    # A patch of 14 pixels has its centre between pixels 6 and 7: their mean shows its colour but
    # for rounding and the change of slope there.
    rows, columns = np.arange(4) * PATCH + 6, np.arange(6) * PATCH + 6
    four = [maps[:, rows + i][:, :, columns + j].astype(float) for i in (0, 1) for j in (0, 1)]
    assert np.abs(np.mean(four, axis=0) - expected).max() < 255 / PATCH
    odd = dataclasses.replace(VIEWS, patch_size=15)  # centres on a pixel
    shown = pca_maps(odd, "geometric")[:, 7::15, 7::15]
    assert np.abs(shown - expected).max() <= 0.51


def test_one_basis_for_all_views_and_a_given_one_for_others() -> None:
    whole = pca_maps(VIEWS, "geometric")
    basis = feature_basis(VIEWS, "geometric")
    one = dataclasses.replace(VIEWS, cameras=VIEWS.cameras[:1], depth=VIEWS.depth[1],
                              geometric=VIEWS.features("geometric")[1])  # fmt: skip
    np.testing.assert_array_equal(pca_maps(one, "geometric", basis), whole[1:2])
    assert not np.array_equal(pca_maps(one, "geometric"), whole[1:2])
    with pytest.raises(ConfigError, match="'semantic'"):
        pca_maps(VIEWS, "semantic")


def test_depth_is_shown_at_the_pixel_it_belongs_to() -> None:
    centred = dataclasses.replace(VIEWS, depth_offset=(7.5, 3.5))
    for views, (x, y) in ((VIEWS, (0, 0)), (centred, (7, 3))):
        maps = depth_maps(views, limits=(0.0, 5.0))
        levels = np.rint(views.depth.numpy() / 5 * 255).astype(np.uint8)
        expected = np.stack(
            [cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS)[..., ::-1] for level in levels]
        )
        np.testing.assert_array_equal(maps[:, y::PATCH, x::PATCH], expected)


def test_near_is_dark_far_is_bright_and_the_range_is_that_of_positive_depths() -> None:
    ramp = np.tile(np.linspace(1, 3, GRID[1]), (1, GRID[0], 1))
    maps = depth_maps(view(ramp)).astype(int).sum(axis=-1)
    assert maps[0, 0, 0] < maps[0, 0, 40] < maps[0, 0, -1]
    holes = np.concatenate([ramp, np.zeros_like(ramp), -ramp])
    holes[1, 0, 0] = math.nan
    assert depth_limits(view(holes)) == pytest.approx(np.percentile(ramp, (2, 98)))
    assert depth_limits(view(0 * ramp)) == (0.0, 1.0)
    assert depth_maps(view(0 * ramp + 2)).shape == (1, 56, 84, 3)


def test_a_grid_of_one_patch_and_many_tokens_have_a_picture() -> None:
    assert len(np.unique(depth_maps(view(np.full((2, 1, 1), 2.0)), limits=(0, 4)))) <= 3
    many = RNG.normal(size=(3 * MAX_TOKENS + 5, 4)) * (5, 3, 2, 1)
    thinned, whole = fit_basis(many), np.linalg.svd(many - many.mean(0), full_matrices=False)[2]
    for found, expected in zip(thinned.axes_D3.T, whole, strict=False):
        assert abs(found @ expected) > 0.99
