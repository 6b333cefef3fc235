"""Undistortion gives the toolkit's numbers, agrees with a formula written out, refuses nonsense."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from spa3r import lens
from spa3r.errors import FormatError, ImageError

SIZE = (64, 48)
# A wide lens, so that the corners of the pinhole picture lie well inside the stored one.
FISHEYE = [30.0, 31.0, 31.5, 24.5, -0.03, -0.006, -0.002, 0.0001]
# So far off that the pinhole picture, whose middle is forced, sees past the stored one's edge.
OFF_CENTRE = [45.0, 45.0, 22.0, 24.0, *FISHEYE[4:]]
RADIAL = [60.0, 61.0, 31.5, 24.5, 0.08, -0.05, 0.002, -0.001]


def smooth(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)]
    return np.stack([127 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


def fisheye_position(u: float, v: float, new_K: np.ndarray, parameters: list[float]):
    """Where pixel (u, v) of the pinhole picture lies in the stored one: the model, written out."""
    fx, fy, cx, cy, *k = parameters
    a, b = (u - new_K[0, 2]) / new_K[0, 0], (v - new_K[1, 2]) / new_K[1, 1]
    r = math.hypot(a, b)
    theta = math.atan(r)
    bent = theta * (1 + sum(c * theta ** (2 * i + 2) for i, c in enumerate(k)))
    scale = bent / r if r else 1.0
    return fx * scale * a + cx, fy * scale * b + cy


def radial_position(u: float, v: float, new_K: np.ndarray, parameters: list[float]):
    """The same of the radial model with k1 k2 p1 p2."""
    fx, fy, cx, cy, k1, k2, p1, p2 = parameters
    a, b = (u - new_K[0, 2]) / new_K[0, 0], (v - new_K[1, 2]) / new_K[1, 1]
    r2 = a * a + b * b
    bent = 1 + k1 * r2 + k2 * r2 * r2
    x = a * bent + 2 * p1 * a * b + p2 * (r2 + 2 * a * a)
    y = b * bent + p1 * (r2 + 2 * b * b) + 2 * p2 * a * b
    return fx * x + cx, fy * y + cy


def blended(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """The bilinear value at a place, pixels beyond the edge being reflected without repeating."""
    height, width = image.shape[:2]

    def reflected(i: int, n: int) -> int:
        i = abs(i) % (2 * n - 2)
        return 2 * n - 2 - i if i >= n else i

    left, top = math.floor(x), math.floor(y)
    total = np.zeros(image.shape[2:])
    for row, share_y in ((top, top + 1 - y), (top + 1, y - top)):
        for column, share_x in ((left, left + 1 - x), (left + 1, x - left)):
            pixel = image[reflected(row, height), reflected(column, width)]
            total = total + share_x * share_y * pixel.astype(float)
    return total


# --- parity ---------------------------------------------------------------------------------------


def cases(shared: Path) -> list[dict]:
    folder = shared / "data" / "scannetpp"
    one = json.loads((folder / "dslr_fisheye" / "undistort_expected.json").read_text())
    return [*json.loads((folder / "undistort_cases.json").read_text())["cases"], one]


def test_maps_are_the_toolkits(shared: Path):
    """OpenCV 4.10 and 5.0 gave the very same bits when the expected values were made."""
    for case in cases(shared):
        stated = case["camera"]
        names = ("fl_x", "fl_y", "cx", "cy", "k1", "k2", "k3", "k4")
        size = (stated["w"], stated["h"])
        K, made = lens.camera(stated["camera_model"], [stated[n] for n in names], size)
        assert made is not None and made.size == size
        np.testing.assert_allclose(K, case["new_K"], rtol=1e-12)
        np.testing.assert_array_equal(K, made.K_33)
        u, v = np.array(case["grid_uv"]).T
        found = np.stack([made.map_x_HW[v, u], made.map_y_HW[v, u]], axis=-1)
        np.testing.assert_allclose(found, case["map_xy"], atol=1e-3)


@pytest.mark.parametrize(
    ("model", "parameters", "position"),
    [
        ("OPENCV_FISHEYE", FISHEYE, fisheye_position),
        ("OPENCV_FISHEYE", OFF_CENTRE, fisheye_position),
        ("OPENCV", RADIAL, radial_position),
    ],
)
def test_a_picture_is_undistorted_as_the_formula_says(model, parameters, position):
    K, made = lens.camera(model, parameters, SIZE)
    assert made is not None
    stored = smooth(*SIZE)
    found = made.color(stored)
    assert found.shape == stored.shape and found.dtype == np.uint8
    for v in range(0, SIZE[1], 3):
        for u in range(0, SIZE[0], 3):
            x, y = position(u, v, K, parameters)
            assert made.map_x_HW[v, u] == pytest.approx(x, abs=1e-3)
            assert made.map_y_HW[v, u] == pytest.approx(y, abs=1e-3)
            # OpenCV may place pixels on a grid of 1/32: 11 levels a pixel at most, plus rounding.
            np.testing.assert_allclose(found[v, u], blended(stored, x, y), atol=1.5)


def test_the_fisheye_picture_has_its_principal_point_in_the_middle():
    K, _ = lens.camera("OPENCV_FISHEYE", FISHEYE, SIZE)
    assert (K[0, 2], K[1, 2]) == (32, 24)
    assert K[0, 0] > 0 and K[0, 1] == 0


# --- models ---------------------------------------------------------------------------------------

K_SQUARE = [[50, 0, 30], [0, 50, 20], [0, 0, 1]]


def test_pinholes_need_no_lens():
    K, made = lens.camera("SIMPLE_PINHOLE", [50, 30, 20], SIZE)
    assert (K.tolist(), made) == (K_SQUARE, None)
    K, made = lens.camera("PINHOLE", [50, 51, 30, 20], SIZE)
    assert K[1].tolist() == [0, 51, 20] and made is None


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("SIMPLE_RADIAL", [50, 30, 20, 0]),
        ("RADIAL", [50, 30, 20, 0, 0]),
        ("OPENCV", [50, 50, 30, 20, 0, 0, 0, 0]),
        ("FULL_OPENCV", [50, 50, 30, 20, *[0] * 8]),
    ],
)
def test_no_distortion_is_no_lens(model, parameters):
    K, made = lens.camera(model, parameters, SIZE)
    assert (K.tolist(), made) == (K_SQUARE, None)


@pytest.mark.parametrize(
    ("model", "parameters", "same"),
    [
        ("SIMPLE_RADIAL", [50, 30, 20, 0.1], [50, 50, 30, 20, 0.1, 0, 0, 0]),
        ("RADIAL", [50, 30, 20, 0.1, -0.02], [50, 50, 30, 20, 0.1, -0.02, 0, 0]),
    ],
)
def test_short_radial_models_are_cases_of_opencvs(model, parameters, same):
    K, made = lens.camera(model, parameters, SIZE)
    expected_K, expected = lens.camera("OPENCV", same, SIZE)
    assert made is not None and expected is not None
    np.testing.assert_array_equal(K, expected_K)
    np.testing.assert_array_equal(made.map_x_HW, expected.map_x_HW)


@pytest.mark.parametrize(
    ("model", "parameters", "same"),
    [
        ("SIMPLE_RADIAL_FISHEYE", [30, 31, 24, -0.02], [30, 30, 31, 24, -0.02, 0, 0, 0]),
        ("RADIAL_FISHEYE", [30, 31, 24, -0.02, 0.01], [30, 30, 31, 24, -0.02, 0.01, 0, 0]),
    ],
)
def test_short_fisheye_models_are_cases_of_opencvs(model, parameters, same):
    K, made = lens.camera(model, parameters, SIZE)
    expected_K, expected = lens.camera("OPENCV_FISHEYE", same, SIZE)
    assert made is not None and expected is not None
    np.testing.assert_array_equal(K, expected_K)
    np.testing.assert_array_equal(made.map_y_HW, expected.map_y_HW)


def test_a_fisheye_without_coefficients_is_still_no_pinhole():
    K, made = lens.camera("OPENCV_FISHEYE", [30, 30, 31, 24, 0, 0, 0, 0], SIZE)
    assert made is not None
    x, _ = fisheye_position(0, 24, K, [30, 30, 31, 24, 0, 0, 0, 0])
    assert made.map_x_HW[24, 0] == pytest.approx(x, abs=1e-3)


def test_the_rational_model_uses_all_its_coefficients():
    """k1 over k4 alone: (1 + k1 r2) / (1 + k4 r2) at a point computed by hand."""
    parameters = [50, 50, 31, 24, 0.1, 0, 0, 0, 0, 0.3, 0, 0]
    K, made = lens.camera("FULL_OPENCV", parameters, SIZE)
    assert made is not None
    a = (10 - K[0, 2]) / K[0, 0]
    b = (24 - K[1, 2]) / K[1, 1]
    r2 = a * a + b * b
    expected = 50 * a * (1 + 0.1 * r2) / (1 + 0.3 * r2) + 31
    assert made.map_x_HW[24, 10] == pytest.approx(expected, abs=1e-3)


# --- masks ----------------------------------------------------------------------------------------


def test_a_mask_keeps_only_pixels_that_are_wholly_usable():
    _, made = lens.camera("OPENCV_FISHEYE", FISHEYE, SIZE)
    assert made is not None
    mask = np.full((48, 64), 255, np.uint8)
    mask[20:28, 30:40] = 0
    found = made.mask(mask)
    assert set(np.unique(found)) == {0, 255}
    reached = [
        blended(mask, float(made.map_x_HW[v, u]), float(made.map_y_HW[v, u]))
        for v in range(48)
        for u in range(64)
    ]
    # OpenCV's weights are multiples of 1/32, so what is within them of a border may go either way.
    expected = np.array(reached).reshape(48, 64)
    assert (found[expected < 245] == 0).all()
    assert (found[expected == 255] == 255).mean() > 0.99
    assert (found == 0).sum() > 50


def test_a_mask_is_usable_past_the_edge_of_the_stored_one():
    """With the principal point forced to the middle, an off-centre lens is looked past."""
    _, shifted = lens.camera("OPENCV_FISHEYE", OFF_CENTRE, SIZE)
    assert shifted is not None
    outside = shifted.map_x_HW < -1
    assert outside.any()
    found = shifted.mask(np.zeros((48, 64), np.uint8))
    assert (found[outside] == 255).all()
    assert (found[~outside & (shifted.map_x_HW > 0) & (shifted.map_x_HW < 63)] == 0).all()


def test_a_mask_that_uses_everything_is_not_touched():
    _, made = lens.camera("OPENCV_FISHEYE", FISHEYE, SIZE)
    assert made is not None
    mask = np.full((48, 64), 255, np.uint8)
    assert made.mask(mask) is mask


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 48, 3), (48, 63, 3), (24, 32, 3)])
def test_a_picture_of_another_size_is_refused(shape):
    _, made = lens.camera("OPENCV", RADIAL, SIZE)
    assert made is not None
    with pytest.raises(ImageError, match="calibrated for 64 x 48"):
        made.color(np.zeros(shape, np.uint8))
    with pytest.raises(ImageError, match="calibrated for 64 x 48"):
        made.mask(np.zeros(shape[:2], np.uint8))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("model", "parameters", "size", "said"),
    [
        ("FOV", [50, 50, 30, 20, 0.1], SIZE, "'FOV' is unknown"),
        ("", [], SIZE, "is unknown"),
        ("OPENCV", RADIAL[:7], SIZE, "7 parameters, 8"),
        ("PINHOLE", RADIAL, SIZE, "8 parameters, 4"),
        ("PINHOLE", [], SIZE, "0 parameters, 4"),
        ("PINHOLE", [NAN, 50, 30, 20], SIZE, "not finite"),
        ("PINHOLE", [50, 50, INF, 20], SIZE, "not finite"),
        ("OPENCV", [*RADIAL[:7], NAN], SIZE, "not finite"),
        ("PINHOLE", [0, 50, 30, 20], SIZE, "not positive"),
        ("SIMPLE_PINHOLE", [-50, 30, 20], SIZE, "not positive"),
        ("PINHOLE", [50, 50, 64, 20], SIZE, "outside the 64 x 48"),
        ("PINHOLE", [50, 50, 30, -1], SIZE, "outside the 64 x 48"),
        ("PINHOLE", [50, 50, 30, 20], (0, 48), "0 x 48"),
        ("OPENCV", RADIAL, (20000, 48), "20000 x 48"),
        ("OPENCV_FISHEYE", FISHEYE, (16000, 16000), "16000 x 16000"),
        ("OPENCV", [*RADIAL[:4], 1e300, 1e300, 1e300, 1e300], SIZE, "cannot be undone"),
        ("OPENCV", [*RADIAL[:4], 1e5, 0, 0, 0], SIZE, "cannot be undone"),
        ("OPENCV", [*RADIAL[:4], -5, 0, 0, 0], SIZE, "cannot be undone"),
        ("OPENCV_FISHEYE", [*FISHEYE[:4], -5, 0, 0, 0], SIZE, "cannot be undone"),
        ("OPENCV_FISHEYE", [*FISHEYE[:4], 1e300, 0, 0, 0], SIZE, "cannot be undone"),
    ],
)
def test_impossible_cameras_are_refused(model, parameters, size, said):
    with pytest.raises(FormatError, match=said) as caught:
        lens.camera(model, parameters, size)
    assert "\n" not in str(caught.value)
