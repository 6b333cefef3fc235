import numpy as np
import pytest

from spa3r.viz.pca import fit_basis


def tokens(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(500, 3)) * [5, 2, 1] @ rng.normal(size=(3, 12)) + 7


def test_colours_follow_the_strongest_directions_and_span_the_range() -> None:
    x = tokens()
    colours = fit_basis(x).colours(x)
    assert colours.shape == (500, 3) and colours.min() == 0 and colours.max() == 1
    basis = fit_basis(x)
    spread = ((x - basis.mean_D) @ basis.axes_D3).var(axis=0)
    assert spread[0] > spread[1] > spread[2]
    assert spread.sum() == pytest.approx(x.var(axis=0).sum())


def test_equal_features_get_equal_colours_whatever_else_is_shown() -> None:
    x = tokens()
    basis = fit_basis(x)
    other = np.concatenate([x[:4] + 100, x[4:8]])
    np.testing.assert_array_equal(basis.colours(other)[4:], basis.colours(x)[4:8])


def test_the_sign_does_not_depend_on_the_order_of_tokens() -> None:
    x = tokens()
    a, b = fit_basis(x).colours(x), fit_basis(x[::-1]).colours(x)
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_constant_features_are_mid_grey_and_too_few_are_refused() -> None:
    x = np.ones((10, 5))
    np.testing.assert_array_equal(fit_basis(x).colours(x), 0.5)
    with pytest.raises(ValueError, match="colour basis"):
        fit_basis(np.ones((3, 5)))
