"""Lens distortion undone: from a fisheye or radial picture to a pinhole camera's.

Legend: H W pixels; sizes are always (width, height). OpenCV counts pixel centres at integers; here,
as in the toolkits whose numbers must be matched, its maps are taken as they are, and the half pixel
between their convention and ours (centres at +0.5) is knowingly left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from spa3r.errors import FormatError, ImageError
from spa3r.images import MAX_SIDE

MAX_PIXELS: Final = 1 << 26
"""Of a picture that is undistorted, its maps taking 8 bytes a pixel; known ones have 24 million."""
# COLMAP's names: how many focal lengths, how many distortion coefficients, whether theirs is the
# fisheye model. In between stand the two coordinates of the principal point.
_MODELS: Final = {
    "SIMPLE_PINHOLE": (1, 0, False),
    "PINHOLE": (2, 0, False),
    "SIMPLE_RADIAL": (1, 1, False),
    "RADIAL": (1, 2, False),
    "OPENCV": (2, 4, False),
    "FULL_OPENCV": (2, 8, False),
    "OPENCV_FISHEYE": (2, 4, True),
    "SIMPLE_RADIAL_FISHEYE": (1, 1, True),
    "RADIAL_FISHEYE": (1, 2, True),
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Undistortion:
    """Where each pixel of the pinhole picture lies in the picture as stored; both of one size."""

    size: tuple[int, int]
    """(width, height)."""
    K_33: np.ndarray
    """float64, of the pinhole picture."""
    map_x_HW: np.ndarray
    """float32 column in the stored picture."""
    map_y_HW: np.ndarray
    """float32 row in the stored picture."""

    def color(self, rgb_HW3: np.ndarray) -> np.ndarray:
        """The pinhole camera's picture (H, W, 3); past the stored one's edge it is reflected.

        Raises:
            ImageError: a picture of another size.
        """
        self._check(rgb_HW3)
        return cv2.remap(
            rgb_HW3, self.map_x_HW, self.map_y_HW, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT_101
        )

    def mask(self, mask_HW: np.ndarray) -> np.ndarray:
        """The pinhole camera's mask (H, W) of 0 and 255; past the stored one's edge it is 255.

        A pixel that mixes in anything below 255 becomes 0.

        Raises:
            ImageError: a mask of another size.
        """
        self._check(mask_HW)
        if (mask_HW == 255).all():
            return mask_HW
        constant = (cv2.INTER_LINEAR, None, cv2.BORDER_CONSTANT, 255)
        mixed_HW = cv2.remap(mask_HW, self.map_x_HW, self.map_y_HW, *constant)
        return np.where(mixed_HW == 255, mixed_HW, np.uint8(0))

    def _check(self, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        if (width, height) != self.size:
            raise ImageError(
                f"an image of {width} x {height}, the lens is calibrated for"
                f" {self.size[0]} x {self.size[1]}"
            )


def camera(
    model: str, parameters: Sequence[float], size: tuple[int, int]
) -> tuple[np.ndarray, Undistortion | None]:
    """Intrinsics of the pinhole picture, and what makes it; None: it is one as stored.

    Args:
        model: a name of COLMAP's camera models.
        parameters: focal lengths, principal point, coefficients, in COLMAP's order and in pixels.
        size: (width, height) of the stored picture.

    Raises:
        FormatError: an unknown model, another number of parameters, or no possible camera.
    """
    if model not in _MODELS:
        raise FormatError(
            f"camera model {model[:40]!r} is unknown; use one of {', '.join(_MODELS)}"
        )
    focals, extra, is_fisheye = _MODELS[model]
    if len(parameters) != focals + 2 + extra:
        raise FormatError(
            f"{model} camera has {len(parameters)} parameters, {focals + 2 + extra} are needed"
        )
    (fx, *_), fy = parameters[:focals], parameters[focals - 1]
    cx, cy = parameters[focals : focals + 2]
    K_33 = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)
    coefficients = np.array(parameters[focals + 2 :], np.float64)
    if not is_fisheye and not coefficients.any():
        _check_camera(K_33, coefficients, size)
        return K_33, None
    padded = np.pad(coefficients, (0, max(4 - extra, 0)))
    lens = (fisheye if is_fisheye else radial)(K_33, padded, size)
    return lens.K_33, lens


def fisheye(K_33: np.ndarray, coefficients: np.ndarray, size: tuple[int, int]) -> Undistortion:
    """Of OpenCV's fisheye model, as the ScanNet++ toolkit does it.

    The pinhole picture shows no more than the stored one does; its principal point is put at its
    middle.

    Args:
        K_33: of the stored picture, pixels.
        coefficients: (4,) k1 k2 k3 k4.
        size: (width, height) of both pictures.

    Raises:
        FormatError: no possible camera.
    """
    assert coefficients.shape == (4,), f"coefficients must be (4,), got {coefficients.shape}"
    _check_camera(K_33, coefficients, size)
    upright = np.eye(3)
    try:
        new_K_33 = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
            K_33, coefficients, size, upright, balance=0.0
        )
        new_K_33[0, 2], new_K_33[1, 2] = size[0] / 2, size[1] / 2
        maps = cv2.fisheye.initUndistortRectifyMap(
            K_33, coefficients, upright, new_K_33, size, cv2.CV_32FC1
        )
    except cv2.error as error:
        raise _impossible(coefficients) from error
    return _checked(size, new_K_33, *maps, coefficients)


def radial(K_33: np.ndarray, coefficients: np.ndarray, size: tuple[int, int]) -> Undistortion:
    """Of OpenCV's pinhole model with radial and tangential distortion.

    The pinhole picture shows no more than the stored one does.

    Args:
        K_33: of the stored picture, pixels.
        coefficients: (4,), (5,) or (8,): k1 k2 p1 p2 [k3 [k4 k5 k6]].
        size: (width, height) of both pictures.

    Raises:
        FormatError: no possible camera.
    """
    assert coefficients.shape in ((4,), (5,), (8,)), f"4, 5 or 8 needed: {coefficients.shape}"
    _check_camera(K_33, coefficients, size)
    try:
        new_K_33, _ = cv2.getOptimalNewCameraMatrix(K_33, coefficients, size, 0)
        maps = cv2.initUndistortRectifyMap(
            K_33, coefficients, np.eye(3), new_K_33, size, cv2.CV_32FC1
        )
    except cv2.error as error:
        raise _impossible(coefficients) from error
    return _checked(size, new_K_33, *maps, coefficients)


def _check_camera(K_33: np.ndarray, coefficients: np.ndarray, size: tuple[int, int]) -> None:
    """Raises FormatError for what no camera can be, before anything of its size is allocated."""
    assert K_33.shape == (3, 3), f"K_33 must be (3, 3), got {K_33.shape}"
    width, height = size
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise FormatError(
            f"a camera of {width} x {height}; sides must lie in 1..{MAX_SIDE}, pixels in"
            f" 1..{MAX_PIXELS}"
        )
    if not np.isfinite(K_33).all() or not np.isfinite(coefficients).all():
        raise FormatError("camera parameters that are not finite; correct the calibration")
    fx, fy, cx, cy = K_33[0, 0], K_33[1, 1], K_33[0, 2], K_33[1, 2]
    if min(fx, fy) <= 0:
        raise FormatError(f"focal lengths {fx:g}, {fy:g} are not positive; correct the calibration")
    if not (0 < cx < width and 0 < cy < height):
        raise FormatError(
            f"principal point {cx:g}, {cy:g} lies outside the {width} x {height} picture; give the"
            " calibration of pictures of this size"
        )


def _checked(
    size: tuple[int, int],
    K_33: np.ndarray,
    map_x_HW: np.ndarray,
    map_y_HW: np.ndarray,
    coefficients: np.ndarray,
) -> Undistortion:
    """What OpenCV computed, if it is a camera: OpenCV does not say where it gave up.

    Along the middle row the stored columns must increase, and along the middle column the rows:
    otherwise the picture is folded over. Less than a twentieth of either is no picture of the room.
    """
    finite = all(np.isfinite(values).all() for values in (K_33, map_x_HW, map_y_HW))
    if not finite or min(K_33[0, 0], K_33[1, 1]) <= 0:
        raise _impossible(coefficients)
    columns, rows = map_x_HW[size[1] // 2], map_y_HW[:, size[0] // 2]
    for places in (columns, rows):
        if (np.diff(places) <= 0).any() or places[-1] - places[0] < (places.size - 1) / 20:
            raise _impossible(coefficients)
    return Undistortion(size=size, K_33=K_33, map_x_HW=map_x_HW, map_y_HW=map_y_HW)


def _impossible(coefficients: np.ndarray) -> FormatError:
    listed = ", ".join(f"{value:g}" for value in coefficients)
    return FormatError(
        f"distortion {listed} cannot be undone over the whole picture; correct the calibration"
    )
