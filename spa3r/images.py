"""The one place where images are decoded, resized, mirrored and encoded, K along with them.

Ingest, training and serving all come through here, so a picture means the same pixels everywhere.
Images are RGB uint8 (H, W, 3), depth is uint16 millimetres (H, W) with 0 = no measurement, masks
are uint8 (H, W) with 255 = use and 0 = do not. How files hold them is known to `spa3r.codecs` only.
Legend: H W pixels, C channels; sizes are always (width, height).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spa3r import codecs
from spa3r.codecs import MAX_SIDE, EncodedDepth, EncodedImage
from spa3r.errors import ImageError


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

    A picture taller than wide is cut to a square from its centre, as VGGT's own loading does it.

    The height is rounded; the published release cuts its fraction off, and so may have a row less
    before the crop. At width 518, multiple 14: 640 x 480 -> 518 x 388 -> 518 x 378 by both, and
    480 x 640 -> 518 x 691 -> 518 x 518.

    Raises:
        ImageError: so flat that no multiple is left, or so tall that a side passes MAX_SIDE.
    """
    source_width, source_height = source
    scaled_height = round(source_height * width / source_width)
    if width < multiple or not multiple <= scaled_height <= MAX_SIDE:
        raise ImageError(
            f"an image of {codecs.by(source)} does not fit width {width}; leave it out"
        )
    return WorkingSize(
        width=width // multiple * multiple,
        height=min(scaled_height, width) // multiple * multiple,
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
    header = codecs.read_header(image)
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


def decode_color(image: EncodedImage, min_size: tuple[int, int] = codecs.FULL_SIZE) -> np.ndarray:
    """RGB (H, W, 3) of the whole image, at full size or reduced by 2, 4 or 8.

    JPEG can be decoded at a fraction of its size for a fraction of the work. The strongest
    reduction is taken whose sides are no smaller than `min_size` and are exact fractions, so that
    the picture covers the same field of view. The default asks for full size.

    Raises:
        ImageError: not an image, cut short, too large, or another size than declared.
    """
    if image.codec == "raw_rgb8":
        return codecs.raw_pixels(image, 3)
    if image.codec == "raw_gray8":
        raise ImageError("raw gray pixels where a colour image is needed")
    header = codecs.read_header(image)
    width, height = header.width, header.height
    factor = codecs.reduction(header, min_size)
    flags = codecs.REDUCED.get(factor, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = codecs.orient(codecs.imdecode(image.data, flags), header.orientation)
    if bgr.shape != (height // factor, width // factor, 3):
        raise ImageError(f"image decodes to {bgr.shape}, its header says {width} x {height}")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def decode_depth(depth: EncodedDepth) -> np.ndarray:
    """Depth (H, W) in uint16 millimetres; beyond 65.535 m counts as no measurement.

    Raises:
        ImageError: corrupt, or not exactly width x height values.
    """
    if depth.codec == "png_u16":
        values = codecs.decode_gray(depth.data, depth.size)
        if values.dtype != np.uint16:
            raise ImageError(f"depth PNG holds {values.dtype}, 16-bit values are needed")
    elif depth.codec == "pgm_u16":
        values = codecs.decode_pgm(depth.data, depth.size)
    else:
        width, height = codecs.checked_size(depth.size)
        count = width * height * 2
        raw = codecs.inflate(depth.data, count) if depth.codec == "zlib_u16" else depth.data
        if len(raw) != count:
            raise ImageError(f"depth map of {width} x {height} has {len(raw)} bytes")
        values = np.frombuffer(raw, "<u2").reshape(height, width)
    if depth.units_per_metre == 1000.0:
        return values
    millimetres = np.rint(values * (1000.0 / depth.units_per_metre))
    return np.where(millimetres <= np.iinfo(np.uint16).max, millimetres, 0).astype(np.uint16)


def decode_labels(data: bytes, to_nyu40: np.ndarray) -> np.ndarray:
    """NYU40 ids (H, W) uint8 from a PNG of dataset ids; ids beyond the table are unlabelled, 0."""
    ids = codecs.decode_gray(data)
    known = ids < len(to_nyu40)
    return np.where(known, to_nyu40[np.where(known, ids, 0)], 0).astype(np.uint8)


def decode_mask(image: EncodedImage) -> np.ndarray:
    """Mask (H, W) uint8 of 0 and 255; whatever is stored below 255 is 0, as half-used is unsafe.

    Raises:
        ImageError: corrupt, of more than one channel or 8 bits, or another size than declared.
    """
    if image.codec == "raw_rgb8":
        raise ImageError("raw RGB pixels where a mask is needed")
    if image.codec == "raw_gray8":
        values = codecs.raw_pixels(image, 1)[..., 0]
    else:
        values = codecs.decode_gray(image.data, image.size)
    if values.dtype != np.uint8:
        raise ImageError(f"mask holds {values.dtype}, 8-bit values are needed")
    return np.where(values == 255, values, np.uint8(0))


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
    return codecs.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_depth_png(depth_mm_HW: np.ndarray) -> bytes:
    """16-bit PNG bytes, lossless, tuned for speed.

    Unfiltered at level 1: on ScanNet-like depth at 518 x 378 half the time of OpenCV's level-1
    default (2.6 against 4.8 ms) and no larger, because noise in millimetres defeats PNG's filters.
    """
    assert depth_mm_HW.dtype == np.uint16, f"depth must be uint16 mm, got {depth_mm_HW.dtype}"
    return codecs.encode_gray(depth_mm_HW)


def encode_label_png(labels_HW: np.ndarray) -> bytes:
    """8-bit PNG bytes of label ids, lossless."""
    assert labels_HW.dtype == np.uint8, f"labels must be uint8, got {labels_HW.dtype}"
    return codecs.encode_gray(labels_HW)


def encode_mask_png(mask_HW: np.ndarray) -> bytes:
    """8-bit PNG bytes of a mask, lossless."""
    assert mask_HW.dtype == np.uint8, f"mask must be uint8, got {mask_HW.dtype}"
    return codecs.encode_gray(mask_HW)


def decode_jpeg(data: bytes) -> np.ndarray:
    """RGB (H, W, 3) of a shard's colour part. Raises ImageError."""
    return decode_color(EncodedImage(data=data, codec="file"))


def decode_depth_png(data: bytes) -> np.ndarray:
    """uint16 millimetres (H, W) of a shard's depth part. Raises ImageError."""
    return decode_depth(EncodedDepth(data=data, codec="png_u16"))


def decode_label_png(data: bytes) -> np.ndarray:
    """uint8 NYU40 ids (H, W) of a shard's label part. Raises ImageError."""
    labels = codecs.decode_gray(data)
    if labels.dtype != np.uint8:
        raise ImageError(f"label part holds {labels.dtype}, uint8 is needed")
    return labels


def decode_mask_png(data: bytes) -> np.ndarray:
    """uint8 (H, W) of 0 and 255 of a shard's mask part. Raises ImageError."""
    return decode_mask(EncodedImage(data=data, codec="file"))
