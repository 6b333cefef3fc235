"""The texture atlas: ranges, repeats, and that far away a texture is its mean."""

import numpy as np
import pytest

from preprocessing.rooms.textures import BLOCK, SIDE, TEXTURES, atlas, sample

REPEATING = ("plaster", "wood", "planks", "tiles", "checks", "bricks", "weave", "carpet", "marble")


def finest(name: str) -> np.ndarray:
    """(SIDE, SIDE, 3) weights of a texture, row 0 at v = 0."""
    start = list(TEXTURES).index(name) * BLOCK
    return atlas()[start : start + SIDE * SIDE].reshape(SIDE, SIDE, 3)


def test_weights_are_in_range_and_textures_differ() -> None:
    table = atlas()
    assert table.shape == (len(TEXTURES) * BLOCK, 3)
    assert table.min() >= 0
    assert table.max() <= 1
    images = [finest(name) for name in TEXTURES]
    assert len(images) >= 9
    for i, image in enumerate(images):
        assert all(np.abs(image - other).mean() > 0.02 for other in images[:i])


@pytest.mark.parametrize("name", REPEATING)
def test_texture_repeats_without_a_seam(name: str) -> None:
    image = finest(name)
    for axis in (0, 1):
        steps = np.abs(np.diff(image, axis=axis)).mean(tuple({0, 1, 2} - {axis}))
        seam = np.abs(np.take(image, 0, axis) - np.take(image, -1, axis)).mean()
        assert seam <= steps.max() + 0.02


def test_lookup_at_texel_centres_is_exact_and_wraps() -> None:
    rows, columns = np.array([0, 10, SIDE - 1]), np.array([3, 0, SIDE - 1])
    u, v = (columns + 0.5) / SIDE, (rows + 0.5) / SIDE
    texture = np.full(3, list(TEXTURES).index("bricks"))
    for shift in (0.0, 2.0, -3.0):
        found = sample(texture, u + shift, v - shift, np.ones(3))
        np.testing.assert_allclose(found, finest("bricks")[rows, columns], atol=1e-4)


def test_far_away_a_texture_is_its_mean() -> None:
    for index, name in enumerate(TEXTURES):
        found = sample(np.array([index]), np.array([0.3]), np.array([0.8]), np.array([1e6]))
        np.testing.assert_allclose(found[0], finest(name).mean((0, 1), np.float64), atol=1e-4)
