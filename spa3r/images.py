"""The one place where images are decoded, resized, mirrored and encoded, K along with them.

Ingest, training and serving all come through here, so a picture means the same pixels everywhere.
Images are RGB uint8 (H, W, 3), depth is uint16 millimetres (H, W) with 0 = no measurement. Numpy
and OpenCV only. Legend: H W pixels, C channels; sizes are always (width, height).
"""

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from PIL import Image

from spa3r.errors import ImageError

MAX_SIDE: Final = 16384
"""Images with a longer side are refused before anything is allocated."""
_FULL_SIZE: Final = (MAX_SIDE, MAX_SIDE)
_EXIF_ORIENTATION: Final = 0x0112
_REDUCED: Final = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """A colour image as stored."""

    data: bytes
    codec: Literal["file", "raw_rgb8"]
    """"file": JPEG, PNG, WebP or BMP bytes, told apart by their header."""
    size: tuple[int, int] | None = None
    """(width, height) that the dataset declares; None: whatever the image's own header says."""
    oriented: bool = False
    """Honour EXIF orientation (photos). A sensor's frames stay as stored: K belongs to them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedDepth:
    """A depth map as stored; metres = value / units_per_metre."""

    data: bytes
    codec: Literal["zlib_u16", "raw_u16", "png_u16"]
    size: tuple[int, int] | None = None
    """(width, height); required but for png_u16, which may take it from its own header."""
    units_per_metre: float = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkingSize:
    """One resize and one centre crop: source -> scaled -> cropped. All sizes in pixels."""

    width: int
    height: int
    scaled_width: int
    scaled_height: int
    source_width: int
    source_height: int

    @property
    def left(self) -> int:
        """Columns of the scaled image cut off at the left."""
        return (self.scaled_width - self.width) // 2

    @property
    def top(self) -> int:
        """Rows of the scaled image cut off at the top."""
        return (self.scaled_height - self.height) // 2


# --- sizes ----------------------------------------------------------------------------------------


def fit_size(source: tuple[int, int], width: int, multiple: int) -> WorkingSize:
    """Scales to exactly `width`, the height by the same ratio, crops both to a multiple.

    The height is rounded; the published release cuts its fraction off, and so may have a row less
    before the crop. At width 518, multiple 14: 640 x 480 -> 518 x 388 -> 518 x 378 by both.

    Raises:
        ImageError: so flat that no multiple is left, or so tall that a side passes MAX_SIDE.
    """
    source_width, source_height = source
    scaled_height = round(source_height * width / source_width)
    if width < multiple or not multiple <= scaled_height <= MAX_SIDE:
        raise ImageError(f"an image of {_by(source)} does not fit width {width}; leave it out")
    return WorkingSize(
        width=width // multiple * multiple,
        height=scaled_height // multiple * multiple,
        scaled_width=width,
        scaled_height=scaled_height,
        source_width=source_width,
        source_height=source_height,
    )


def stored_size(image: EncodedImage) -> tuple[int, int]:
    """(width, height) as it will decode at full size, EXIF orientation applied; reads the header.

    Raises:
        ImageError: not an image, a side beyond MAX_SIDE, or another size than declared.
    """
    header = _read_header(image)
    return header.width, header.height


def scale_K(K_33: np.ndarray, size: WorkingSize) -> np.ndarray:  # noqa: N802 (K is its name)
    """Intrinsics of the working image from those of the source image.

    Pixel centres lie at +0.5, so focal lengths and principal point scale alike; then the crop's
    offset comes off the principal point.
    """
    assert K_33.shape == (3, 3), f"K_33 must be (3, 3), got {K_33.shape}"
    K = K_33.astype(np.float64)
    K[0] *= size.scaled_width / size.source_width
    K[1] *= size.scaled_height / size.source_height
    K[:2, 2] -= (size.left, size.top)
    return K


# --- decoding what datasets store -----------------------------------------------------------------


def decode_color(image: EncodedImage, min_size: tuple[int, int] = _FULL_SIZE) -> np.ndarray:
    """RGB (H, W, 3) of the whole image, at full size or reduced by 2, 4 or 8.

    JPEG can be decoded at a fraction of its size for a fraction of the work. The strongest
    reduction is taken whose sides are no smaller than `min_size` and are exact fractions, so that
    the picture covers the same field of view. The default asks for full size.

    Raises:
        ImageError: not an image, cut short, too large, or another size than declared.
    """
    header = _read_header(image)
    width, height = header.width, header.height
    if image.codec == "raw_rgb8":
        if len(image.data) != width * height * 3:
            raise ImageError(f"raw RGB image of {width} x {height} has {len(image.data)} bytes")
        return np.frombuffer(image.data, np.uint8).reshape(height, width, 3)
    factor = _reduction(header, min_size)
    flags = _REDUCED.get(factor, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = _orient(_imdecode(image.data, flags), header.orientation)
    if bgr.shape != (height // factor, width // factor, 3):
        raise ImageError(f"image decodes to {bgr.shape}, its header says {width} x {height}")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def decode_depth(depth: EncodedDepth) -> np.ndarray:
    """Depth (H, W) in uint16 millimetres; beyond 65.535 m counts as no measurement.

    Raises:
        ImageError: corrupt, or not exactly width x height values.
    """
    if depth.codec == "png_u16":
        values = _decode_gray(depth.data, depth.size)
        if values.dtype != np.uint16:
            raise ImageError(f"depth PNG holds {values.dtype}, 16-bit values are needed")
    else:
        width, height = _checked_size(depth.size)
        count = width * height * 2
        raw = _inflate(depth.data, count) if depth.codec == "zlib_u16" else depth.data
        if len(raw) != count:
            raise ImageError(f"depth map of {width} x {height} has {len(raw)} bytes")
        values = np.frombuffer(raw, "<u2").reshape(height, width)
    if depth.units_per_metre == 1000.0:
        return values
    millimetres = np.rint(values * (1000.0 / depth.units_per_metre))
    return np.where(millimetres <= np.iinfo(np.uint16).max, millimetres, 0).astype(np.uint16)


def decode_labels(data: bytes, to_nyu40: np.ndarray) -> np.ndarray:
    """NYU40 ids (H, W) uint8 from a PNG of dataset ids; ids beyond the table are unlabelled, 0."""
    ids = _decode_gray(data)
    known = ids < len(to_nyu40)
    return np.where(known, to_nyu40[np.where(known, ids, 0)], 0).astype(np.uint8)


# --- resizing -------------------------------------------------------------------------------------


def resize_color(rgb: np.ndarray, size: WorkingSize) -> np.ndarray:
    """Resizes the whole image (at any reduction of the source) and crops: (height, width, 3)."""
    assert rgb.ndim == 3 and rgb.shape[2] == 3, f"rgb must be (H, W, 3), got {rgb.shape}"
    if rgb.shape[:2] != (size.scaled_height, size.scaled_width):
        # Averaging avoids aliasing when shrinking; when enlarging it would leave blocks.
        shrinks = rgb.shape[1] >= size.scaled_width
        how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        rgb = cv2.resize(rgb, (size.scaled_width, size.scaled_height), interpolation=how)
    rows = slice(size.top, size.top + size.height)
    return np.ascontiguousarray(rgb[rows, size.left : size.left + size.width])


def resize_nearest(values_HW: np.ndarray, size: WorkingSize) -> np.ndarray:
    """Depth or labels on the working grid of the colour image: (height, width).

    The map may have its own resolution; it covers the same field of view as the colour image
    (ScanNet: aligned, only rescaled). Each working pixel takes the value its centre falls on;
    nothing is blended across depth edges or labels.
    """
    assert values_HW.ndim == 2, f"values_HW must be (H, W), got {values_HW.shape}"
    height, width = values_HW.shape
    rows = (np.arange(size.height) + size.top + 0.5) * (height / size.scaled_height)
    columns = (np.arange(size.width) + size.left + 0.5) * (width / size.scaled_width)
    return values_HW.take(rows.astype(np.intp), axis=0).take(columns.astype(np.intp), axis=1)


def mirror(
    maps: Sequence[np.ndarray],
    K_33: np.ndarray | None,
    world_from_camera_44: np.ndarray | None,
) -> tuple[list[np.ndarray], np.ndarray | None, np.ndarray | None]:
    """The scene seen in a mirror: image maps, intrinsics and pose flipped together.

    Pixel x becomes W - x, so cx becomes W - cx; the world's and the camera's x axes are negated
    alike, which keeps the pose a rotation and the scene consistent across its views.

    Args:
        maps: (H, W) or (H, W, C) arrays of one width.
        K_33: None for an uncalibrated photo; the same for the pose.
    """
    widths = {m.shape[1] for m in maps}
    assert len(widths) == 1, f"maps must share one width, got {[m.shape for m in maps]}"
    flipped = [np.ascontiguousarray(m[:, ::-1]) for m in maps]
    if K_33 is not None:
        K_33 = K_33.copy()
        K_33[0, 2] = widths.pop() - K_33[0, 2]
        K_33[0, 1] = -K_33[0, 1]
    if world_from_camera_44 is not None:
        flip = np.diag([-1.0, 1.0, 1.0, 1.0])
        world_from_camera_44 = flip @ world_from_camera_44 @ flip
    return flipped, K_33, world_from_camera_44


# --- parts of our shards --------------------------------------------------------------------------


def encode_jpeg(rgb: np.ndarray, quality: int) -> bytes:
    """JPEG bytes of an RGB image, quality 1..100."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return _imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_depth_png(depth_mm_HW: np.ndarray) -> bytes:
    """16-bit PNG bytes, lossless, tuned for speed.

    Unfiltered at level 1: on ScanNet-like depth at 518 x 378 half the time of OpenCV's level-1
    default (2.6 against 4.8 ms) and no larger, because noise in millimetres defeats PNG's filters.
    """
    assert depth_mm_HW.dtype == np.uint16, f"depth must be uint16 mm, got {depth_mm_HW.dtype}"
    return _encode_gray(depth_mm_HW)


def encode_label_png(labels_HW: np.ndarray) -> bytes:
    """8-bit PNG bytes of label ids, lossless."""
    assert labels_HW.dtype == np.uint8, f"labels must be uint8, got {labels_HW.dtype}"
    return _encode_gray(labels_HW)


def decode_jpeg(data: bytes) -> np.ndarray:
    """RGB (H, W, 3) of a shard's colour part. Raises ImageError."""
    return decode_color(EncodedImage(data=data, codec="file"))


def decode_depth_png(data: bytes) -> np.ndarray:
    """uint16 millimetres (H, W) of a shard's depth part. Raises ImageError."""
    return decode_depth(EncodedDepth(data=data, codec="png_u16"))


def decode_label_png(data: bytes) -> np.ndarray:
    """uint8 NYU40 ids (H, W) of a shard's label part. Raises ImageError."""
    labels = _decode_gray(data)
    if labels.dtype != np.uint8:
        raise ImageError(f"label part holds {labels.dtype}, uint8 is needed")
    return labels


# --- codecs ---------------------------------------------------------------------------------------


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _checked_size(size: tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        raise ImageError("raw pixels without a declared size")
    if not all(1 <= side <= MAX_SIDE for side in size):
        raise ImageError(f"an image of {_by(size)}; sides must lie in 1..{MAX_SIDE}")
    return size


@dataclass(frozen=True, slots=True)
class _Header:
    width: int
    height: int
    orientation: int  # EXIF, 1..8; width and height have it applied
    is_jpeg: bool


def _read_header(image: EncodedImage) -> _Header:
    """Size and orientation, checked against what is declared; nothing is decoded."""
    if image.codec == "raw_rgb8":
        return _Header(*_checked_size(image.size), orientation=1, is_jpeg=False)
    try:
        with Image.open(io.BytesIO(image.data), formats=("JPEG", "PNG", "WEBP", "BMP")) as opened:
            size, exif, codec = opened.size, opened.info.get("exif", b""), opened.format
    except Image.DecompressionBombError as error:
        raise ImageError("more than 178 million pixels; make it smaller") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError("not a JPEG, PNG, WebP or BMP image, or a damaged one") from error
    _checked_size(size)
    if image.size is not None and size != image.size:
        raise ImageError(f"image header says {_by(size)}, the scan declares {_by(image.size)}")
    orientation = _exif_orientation(exif) if image.oriented else 1
    width, height = size if orientation < 5 else size[::-1]
    # Phones write JPEG with a second picture inside, which Pillow calls MPO.
    return _Header(width, height, orientation, is_jpeg=codec in ("JPEG", "MPO"))


def _exif_orientation(data: bytes) -> int:
    """1..8; 1 (upright) where the block is absent or damaged: the picture itself may be fine."""
    exif = Image.Exif()
    try:
        exif.load(data)
        orientation = exif.get(_EXIF_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, struct.error):
        return 1
    return orientation if orientation in range(1, 9) else 1


def _reduction(header: _Header, min_size: tuple[int, int]) -> int:
    """Strongest of 8, 4, 2, 1 that divides both sides and leaves at least min_size."""
    if header.is_jpeg:  # OpenCV decodes other codecs in full and then interpolates
        for factor in sorted(_REDUCED, reverse=True):
            width, rest_x = divmod(header.width, factor)
            height, rest_y = divmod(header.height, factor)
            if rest_x == rest_y == 0 and width >= min_size[0] and height >= min_size[1]:
                return factor
    return 1


def _orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation: what is stored becomes upright."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _imdecode(data: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f"image does not decode ({error.err})") from error
    if image is None:
        raise ImageError("image does not decode: corrupt or cut short")
    return image


def _decode_gray(data: bytes, declared: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W) uint8 or uint16 of a one-channel PNG."""
    size = stored_size(EncodedImage(data=data, codec="file", size=declared))
    image = _imdecode(data, cv2.IMREAD_UNCHANGED)
    if image.shape != size[::-1] or image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"a one-channel PNG is needed, got {image.shape} {image.dtype}")
    return image


def _inflate(data: bytes, count: int) -> bytes:
    """Inflates a zlib stream of exactly `count` bytes; never holds more than one byte above it."""
    decompressor = zlib.decompressobj()
    try:
        raw = decompressor.decompress(data, count + 1)
    except zlib.error as error:
        raise ImageError(f"depth map does not decompress ({error})") from error
    if len(raw) != count or not decompressor.eof or decompressor.unused_data:
        raise ImageError(f"depth stream does not hold exactly {count} bytes")
    return raw


def _imencode(extension: str, image: np.ndarray, parameters: list[int]) -> bytes:
    done, data = cv2.imencode(extension, image, parameters)
    if not done:
        raise ImageError(f"OpenCV cannot encode an array of {image.shape} as {extension}")
    return data.tobytes()


def _encode_gray(image: np.ndarray) -> bytes:
    unfiltered = [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    return _imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1, *unfiltered])
