"""Images in whatever form a user holds them, brought to one working size.

Legend: V views, H W pixels.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from spa3r.errors import ImageError, SizesError
from spa3r.images import (
    MAX_SIDE,
    EncodedImage,
    WorkingSize,
    decode_color,
    fit_size,
    resize_color,
    stored_size,
)
from spa3r.storage import read_bytes


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """An image file that lies nowhere, such as an upload. Its name is a label, never a path."""

    data: bytes
    name: str


GivenImage = str | Path | ImageBytes | Image.Image | np.ndarray | Tensor
"""Path or URL, or a file's bytes; PIL image; (H, W, 3) uint8 RGB; (3, H, W) tensor of uint8 or
floats in [0, 1]."""
GivenImages = GivenImage | Sequence[GivenImage]
"""One of them or a sequence, mixed or not; or a (V, H, W, 3) array; or a (V, 3, H, W) tensor."""

_FORMS: Final = (
    "a path, a PIL image, an (H, W, 3) uint8 array, a (3, H, W) tensor, a sequence of these,"
    " a (V, H, W, 3) uint8 array or a (V, 3, H, W) tensor"
)
_ORIENTATION: Final = 0x0112  # of EXIF; from 5 on the sides are exchanged
# What Pillow raises, besides OSError, for files whose bytes were changed or cut.
_DAMAGE: Final = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkingImages:
    """Images of one scene at one working size, and what they were before."""

    rgb_VHW3: np.ndarray  # uint8
    sizes: tuple[WorkingSize, ...]
    names: tuple[str, ...]  # of the files, "" for an image without one; empty where none has one


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """An image whose size is known and whose pixels are not yet decoded."""

    label: str  # what errors call it
    name: str  # "" without a file
    size: tuple[int, int]  # (width, height), upright
    decode: Callable[[WorkingSize], np.ndarray]


def to_working_size(images: GivenImages, *, width: int, multiple: int) -> WorkingImages:
    """Every image resized and centre-cropped as training images were.

    Sizes are read from the headers and compared before anything is decoded; then one image at a
    time is held at its own size.

    Args:
        width: working width in pixels; both sides are cropped to a multiple of `multiple`.

    Raises:
        ImageError: no images, one that does not decode or is too large, values of the wrong shape
            or type, or images that do not come to one working size.
    """
    opened = [_open(image, index) for index, image in enumerate(as_sequence(images))]
    if not opened:
        raise ImageError("no images to encode: give at least one view")
    sizes = [_fit(one, width, multiple) for one in opened]
    _require_one_size(opened, sizes)
    pixels = [_decode(one, size) for one, size in zip(opened, sizes, strict=True)]
    names = tuple(one.name for one in opened)
    return WorkingImages(
        rgb_VHW3=np.stack(pixels), sizes=tuple(sizes), names=names if any(names) else ()
    )


def as_sequence(images: Any) -> Sequence[GivenImage]:
    """The images one by one. Raises ImageError for anything but GivenImages."""
    if is_one(images):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return list(images)
    if isinstance(images, Tensor) and images.ndim == 4:
        return list(images)
    if isinstance(images, list | tuple):
        return images
    shape = getattr(images, "shape", None)
    got = type(images).__name__ if shape is None else f"{tuple(shape)} of {images.dtype}"
    raise ImageError(f"images must be {_FORMS}, got {got}")


def is_one(images: Any) -> bool:
    """Whether this is a single image, not a sequence of them."""
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim == 3 and images.shape[-1 if isinstance(images, np.ndarray) else 0] == 3
    return isinstance(images, str | Path | ImageBytes | Image.Image)


def _require_one_size(opened: Sequence[_Opened], sizes: Sequence[WorkingSize]) -> None:
    """Raises ImageError unless all images come to one working size."""
    found: dict[tuple[int, int], str] = {}
    for one, size in zip(opened, sizes, strict=True):
        line = f"{one.size[0]} x {one.size[1]} -> {size.width} x {size.height} ({one.label})"
        found.setdefault((size.width, size.height), line)
    if len(found) > 1:
        raise SizesError(
            f"images of {len(found)} working sizes in one scene: {', '.join(found.values())};"
            " crop them to one aspect ratio, or encode them as separate scenes"
        )


# --- one image ------------------------------------------------------------------------------------


def _open(image: GivenImage, index: int) -> _Opened:
    if isinstance(image, str | Path):
        return _open_file(image)
    if isinstance(image, ImageBytes):
        return _open_bytes(image.data, image.name, image.name or f"image {index}")
    if isinstance(image, Image.Image):
        name = _base_name(getattr(image, "filename", ""))
        return _open_pil(image, name, name or f"image {index}")
    if isinstance(image, np.ndarray | Tensor):
        label = f"image {index}"
        rgb_HW3 = _rgb_of_tensor(image, label) if isinstance(image, Tensor) else image
        fits = rgb_HW3.ndim == 3 and rgb_HW3.shape[2] == 3 and rgb_HW3.dtype == np.uint8
        if not fits or rgb_HW3.size == 0:
            raise ImageError(
                f"images must be (H, W, 3) arrays of uint8 RGB, got {rgb_HW3.shape} of"
                f" {rgb_HW3.dtype} for {label}"
            )
        size = (rgb_HW3.shape[1], rgb_HW3.shape[0])
        _check_side(size, label)
        return _Opened(label=label, name="", size=size, decode=lambda _: rgb_HW3)
    raise ImageError(f"image {index} is {type(image).__name__}: images must be {_FORMS}")


def _open_file(path: str | Path) -> _Opened:
    label = str(path)
    try:
        data = read_bytes(path)
    except IsADirectoryError as error:
        raise ImageError(f"{label}: a folder; give the image files in it") from error
    except FileNotFoundError as error:
        raise ImageError(f"{label}: no such file") from error
    except (OSError, ValueError, ImportError) as error:  # the last two: of a URL
        raise ImageError(f"{label}: {error}; leave it out") from error
    return _open_bytes(data, _base_name(path), label)


def _open_bytes(data: bytes, name: str, label: str) -> _Opened:
    encoded = EncodedImage(data=data, codec="file", oriented=True)
    try:
        size = stored_size(encoded)
    except ImageError as error:
        raise ImageError(f"{label}: {error}; leave it out") from error
    image = Image.open(io.BytesIO(data))
    if image.has_transparency_data:  # OpenCV would show the colours that nobody was meant to see
        return _open_pil(image, name, label)

    def decode(wanted: WorkingSize) -> np.ndarray:
        # As ingest does: a JPEG may be decoded at a half, a quarter or an eighth of its size.
        return decode_color(encoded, (wanted.scaled_width, wanted.scaled_height))

    return _Opened(label=label, name=name, size=size, decode=decode)


def _open_pil(image: Image.Image, name: str, label: str) -> _Opened:
    """Any 8-bit mode becomes RGB, what is transparent white; EXIF orientation is undone."""
    if image.mode.startswith(("I", "F")):
        raise ImageError(f"{label}: mode {image.mode} has no 8-bit colours; convert it to RGB")
    _check_side(image.size, label)
    try:
        turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except _DAMAGE as error:
        raise ImageError(f"{label}: does not decode ({error}); leave it out") from error
    width, height = image.size

    def decode(_: WorkingSize) -> np.ndarray:
        upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data:
            white = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(white, upright.convert("RGBA"))
        return np.asarray(upright.convert("RGB"))

    size = (height, width) if turned else (width, height)
    return _Opened(label=label, name=name, size=size, decode=decode)


def _rgb_of_tensor(image: Tensor, label: str) -> np.ndarray:
    """(H, W, 3) uint8 of a (3, H, W) tensor; floats are rounded to the nearest of 256 levels."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ImageError(f"images must be (3, H, W) tensors, got {tuple(image.shape)} for {label}")
    if image.dtype != torch.uint8:
        if not image.is_floating_point():
            raise ImageError(
                f"images must be uint8 or floats in [0, 1], got {image.dtype} for {label}"
            )
        if not bool(((image >= 0) & (image <= 1)).all()):
            raise ImageError(
                f"{label}: floats must lie in [0, 1], got {float(image.min()):.4g} to"
                f" {float(image.max()):.4g}; divide by 255 or undo the normalisation"
            )
        image = (image.detach().float() * 255).round().to(torch.uint8)
    return image.permute(1, 2, 0).cpu().numpy()


def _check_side(size: tuple[int, int], label: str) -> None:
    if max(size) > MAX_SIDE:
        raise ImageError(
            f"{label}: {size[0]} x {size[1]} pixels; no side may pass {MAX_SIDE}: make it smaller"
        )


def _base_name(path: str | Path) -> str:
    return str(path).rstrip("/").rpartition("/")[2]


def _fit(one: _Opened, width: int, multiple: int) -> WorkingSize:
    try:
        return fit_size(one.size, width, multiple)
    except ImageError as error:
        raise ImageError(f"{one.label}: {error}") from error


def _decode(one: _Opened, size: WorkingSize) -> np.ndarray:
    """(H, W, 3) uint8 at working size."""
    try:
        return resize_color(one.decode(size), size)
    except (ImageError, *_DAMAGE) as error:
        raise ImageError(f"{one.label}: does not decode ({error}); leave it out") from error
