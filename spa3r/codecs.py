"""Bytes in, arrays out: how pictures and depth maps are stored, and what is refused of them.

`spa3r.images` builds on these; nothing else calls the functions. Every size is checked against
what is declared before anything of that size is allocated. Legend: H W pixels; sizes are always
(width, height).
"""

import io
import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from PIL import Image

from spa3r.errors import ImageError

MAX_SIDE: Final = 16384
"""Images with a longer side are refused before anything is allocated."""
FULL_SIZE: Final = (MAX_SIDE, MAX_SIDE)
_EXIF_ORIENTATION: Final = 0x0112
# Width, height and largest value; a comment may stand wherever a blank may, one blank ends it all.
_PGM_HEADER: Final = re.compile(rb"P5" + rb"(?:\s|#[^\r\n]*[\r\n])+([0-9]{1,5})" * 3 + rb"\s")
_PGM_HEADER_BYTES: Final = 4096
REDUCED: Final = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """A colour image or a mask as stored."""

    data: bytes
    codec: Literal["file", "raw_rgb8", "raw_gray8"]
    """"file": JPEG, PNG, WebP or BMP bytes, told apart by their header. "raw_gray8": masks only."""
    size: tuple[int, int] | None = None
    """(width, height) that the dataset declares; None: whatever the image's own header says. Raw
    pixels have none: there it is required."""
    oriented: bool = False
    """Honour EXIF orientation (photos). A sensor's frames stay as stored: K belongs to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedDepth:
    """A depth map as stored; metres = value / units_per_metre."""

    data: bytes
    codec: Literal["zlib_u16", "raw_u16", "png_u16", "pgm_u16"]
    """"zlib_u16", "raw_u16": little endian. "pgm_u16": binary PGM (P5), big endian."""
    size: tuple[int, int] | None = None
    """(width, height); required but for PNG and PGM, which may take it from their own header."""
    units_per_metre: float = 1000.0


def by(size: tuple[int, int]) -> str:
    """ "640 x 480", for messages."""
    return f"{size[0]} x {size[1]}"


def checked_size(size: tuple[int, int] | None) -> tuple[int, int]:
    """The size, if it is there and within bounds. Raises ImageError."""
    if size is None:
        raise ImageError("raw pixels without a declared size")
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise ImageError(f"an image of {by(size)}; sides must lie in 1..{MAX_SIDE}")
    return size


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an image before it is decoded."""

    width: int
    height: int
    orientation: int  # EXIF, 1..8; width and height have it applied
    is_jpeg: bool


def read_header(image: EncodedImage) -> Header:
    """Size and orientation, checked against what is declared; nothing is decoded.

    Raises:
        ImageError: not an image, a side beyond MAX_SIDE, or another size than declared.
    """
    if image.codec != "file":
        return Header(*checked_size(image.size), orientation=1, is_jpeg=False)
    try:
        with Image.open(io.BytesIO(image.data), formats=("JPEG", "PNG", "WEBP", "BMP")) as opened:
            size, exif, codec = opened.size, opened.info.get("exif", b""), opened.format
    except Image.DecompressionBombError as error:
        raise ImageError("more than 178 million pixels; make it smaller") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError("not a JPEG, PNG, WebP or BMP image, or a damaged one") from error
    checked_size(size)
    if image.size is not None and size != image.size:
        raise ImageError(f"image header says {by(size)}, the scan declares {by(image.size)}")
    orientation = _exif_orientation(exif) if image.oriented else 1
    width, height = size if orientation < 5 else size[::-1]
    # Phones write JPEG with a second picture inside, which Pillow calls MPO.
    return Header(width, height, orientation, is_jpeg=codec in ("JPEG", "MPO"))


def _exif_orientation(data: bytes) -> int:
    """1..8; 1 (upright) where the block is absent or damaged: the picture itself may be fine."""
    exif = Image.Exif()
    try:
        exif.load(data)
        orientation = exif.get(_EXIF_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, struct.error):
        return 1
    return orientation if orientation in range(1, 9) else 1


def reduction(header: Header, min_size: tuple[int, int]) -> int:
    """Strongest of 8, 4, 2, 1 that divides both sides and leaves at least min_size."""
    if header.is_jpeg:  # OpenCV decodes other codecs in full and then interpolates
        for factor in sorted(REDUCED, reverse=True):
            width, rest_x = divmod(header.width, factor)
            height, rest_y = divmod(header.height, factor)
            if rest_x == rest_y == 0 and width >= min_size[0] and height >= min_size[1]:
                return factor
    return 1


def orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation: what is stored becomes upright."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def imdecode(data: bytes, flags: int) -> np.ndarray:
    """What OpenCV makes of a file's bytes, BGR. Raises ImageError."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"image does not decode ({error.err})") from error
    if image is None:
        raise ImageError("image does not decode: corrupt or cut short")
    return image


def decode_gray(data: bytes, declared: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W) uint8 or uint16 of a one-channel PNG. Raises ImageError."""
    header = read_header(EncodedImage(data=data, codec="file", size=declared))
    image = imdecode(data, cv2.IMREAD_UNCHANGED)
    if image.shape != (header.height, header.width) or image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"a one-channel PNG is needed, got {image.shape} {image.dtype}")
    return image


def raw_pixels(image: EncodedImage, channels: int) -> np.ndarray:
    """(H, W, channels) uint8 view of raw pixels. Raises ImageError unless the bytes fit exactly."""
    width, height = checked_size(image.size)
    if len(image.data) != width * height * channels:
        kind = "RGB" if channels == 3 else "gray"
        raise ImageError(f"raw {kind} image of {by((width, height))} has {len(image.data)} bytes")
    return np.frombuffer(image.data, np.uint8).reshape(height, width, channels)


def decode_pgm(data: bytes, declared: tuple[int, int] | None) -> np.ndarray:
    """(H, W) uint16 of a binary 16-bit PGM. Raises ImageError unless its bytes fit exactly."""
    header = _PGM_HEADER.match(data, 0, _PGM_HEADER_BYTES)
    if header is None:
        raise ImageError("not a binary PGM (P5), or one with a damaged header")
    width, height, largest = (int(number) for number in header.groups())
    checked_size((width, height))
    if declared is not None and declared != (width, height):
        raise ImageError(f"PGM header says {by((width, height))}, the scan declares {by(declared)}")
    if not 255 < largest <= 65535:
        raise ImageError(f"PGM of values up to {largest}; 16-bit values are needed")
    pixels = len(data) - header.end()
    if pixels != width * height * 2:
        raise ImageError(f"PGM of {by((width, height))} has {pixels} bytes of pixels")
    values = np.frombuffer(data, ">u2", offset=header.end())
    return values.reshape(height, width).astype(np.uint16)


def inflate(data: bytes, count: int) -> bytes:
    """Inflates a zlib stream of exactly `count` bytes; never holds more than one byte above it."""
    decompressor = zlib.decompressobj()
    try:
        raw = decompressor.decompress(data, count + 1)
    except zlib.error as error:
        raise ImageError(f"depth map does not decompress ({error})") from error
    if len(raw) != count or not decompressor.eof or decompressor.unused_data:
        raise ImageError(f"depth stream does not hold exactly {count} bytes")
    return raw


def imencode(extension: str, image: np.ndarray, parameters: list[int]) -> bytes:
    """A file's bytes of a BGR or gray image. Raises ImageError."""
    done, data = cv2.imencode(extension, image, parameters)
    if not done:
        raise ImageError(f"OpenCV cannot encode an array of {image.shape} as {extension}")
    return data.tobytes()


def encode_gray(image: np.ndarray) -> bytes:
    """PNG bytes of an (H, W) uint8 or uint16 array, unfiltered at level 1."""
    unfiltered = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    return imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1, *unfiltered])
