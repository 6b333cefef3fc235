"""Masks: what is not wholly usable is hidden, and something else is refused."""

import cv2
import numpy as np
import pytest

from spa3r import images
from spa3r.errors import ImageError
from spa3r.images import EncodedImage

MASK = np.array([[255, 254, 128], [1, 0, 255]], np.uint8)
HARD = [[255, 0, 0], [0, 0, 255]]


RGBA = np.zeros((4, 8, 4), np.uint8)


def coded(data: bytes, size: tuple[int, int] | None = None) -> EncodedImage:
    return EncodedImage(data=data, codec="file", size=size)


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array)[1].tobytes()


def test_only_what_is_wholly_usable_stays_in_a_mask():
    raw = EncodedImage(data=MASK.tobytes(), codec="raw_gray8", size=(3, 2))
    for stored in (coded(png(MASK)), coded(png(MASK), size=(3, 2)), raw):
        found = images.decode_mask(stored)
        assert found.dtype == np.uint8 and found.tolist() == HARD
    assert images.decode_mask_png(images.encode_mask_png(MASK)).tolist() == HARD


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (coded(png(RGBA[..., :3])), "one-channel"),
        (coded(png(RGBA)), "one-channel"),
        (coded(png(MASK.astype(np.uint16) * 257)), "uint16, 8-bit"),
        (coded(png(MASK), size=(2, 3)), "declares 2 x 3"),
        (coded(png(MASK)[:-20]), "does not decode"),
        (coded(b"no image"), "not a JPEG"),
        (EncodedImage(data=MASK.tobytes(), codec="raw_gray8", size=(3, 3)), "6 bytes"),
        (EncodedImage(data=MASK.tobytes(), codec="raw_gray8"), "without a declared size"),
        (EncodedImage(data=MASK.tobytes(), codec="raw_gray8", size=(1 << 20, 1)), "sides must"),
        (EncodedImage(data=bytes(18), codec="raw_rgb8", size=(3, 2)), "raw RGB pixels"),
    ],
)
def test_something_else_than_a_mask_is_refused(mask: EncodedImage, said: str):
    with pytest.raises(ImageError, match=said):
        images.decode_mask(mask)


def test_a_gray_mask_is_no_picture():
    gray = EncodedImage(data=MASK.tobytes(), codec="raw_gray8", size=(3, 2))
    assert images.stored_size(gray) == (3, 2)
    with pytest.raises(ImageError, match="gray pixels where a colour"):
        images.decode_color(gray)
