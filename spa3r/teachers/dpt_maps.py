"""Maps of the DPT heads: the embedding of a pixel's place, and enlarging only where it is read.

Legend: F views, C channels, H W pixels, h w patch grid, K = 3 pixels of a convolution.
"""

from functools import lru_cache

import torch
from torch import Tensor

UV_WEIGHT = 0.1
NEIGHBOURHOOD = 3
"""Pixels along each axis that the convolution after the enlargement sees."""


def uv_coordinates(length: int, span: float) -> Tensor:
    """Pixel centres of one axis in [-span, span], (length,) float32."""
    edge = span * (length - 1) / length
    return torch.linspace(-edge, edge, length)


def sincos(positions: Tensor, channels: int) -> Tensor:
    """(channels, positions) float32: sines, then cosines, of frequencies 100 ** (-2 i / channels).

    Computed in float64.
    """
    half = channels // 2
    frequencies = 100.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = frequencies[:, None] * positions.double()
    return torch.cat([angles.sin(), angles.cos()]).float()


def uv_axes(channels: int, size_hw: tuple[int, int], aspect: float) -> tuple[Tensor, Tensor]:
    """Sine-cosine embeddings of the columns (C / 2, W) and of the rows (C / 2, H).

    Coordinates are normalised by the image's diagonal; `aspect` is the image's width / height.
    """
    height, width = size_hw
    diagonal = (aspect**2 + 1) ** 0.5
    along_x = sincos(uv_coordinates(width, aspect / diagonal), channels // 2)
    along_y = sincos(uv_coordinates(height, 1 / diagonal), channels // 2)
    return along_x, along_y


def uv_embedding(channels: int, size_hw: tuple[int, int], aspect: float) -> Tensor:
    """Sine-cosine embedding (C, H, W) of the pixel's place: x in half the channels, then y."""
    along_x, along_y = uv_axes(channels, size_hw, aspect)
    x_half = along_x[:, None, :].expand(-1, size_hw[0], -1)
    y_half = along_y[:, :, None].expand(-1, -1, size_hw[1])
    return torch.cat([x_half, y_half])


def add_uv_embedding(x_FCHW: Tensor, aspect: float) -> Tensor:
    """Adds 0.1 x `uv_embedding` in place: at full size a copy of x would be the largest tensor."""
    channels, height, width = x_FCHW.shape[-3:]
    return _add_uv(x_FCHW, *_weighted_uv(channels, (height, width), aspect, x_FCHW.device))


def enlarge_around_patches(x_FChw: Tensor, image_hw: tuple[int, int], patch_size: int) -> Tensor:
    """A map at the images' size, with its embedding, around the first pixel of every patch.

    The same as bilinear `interpolate(size=image_hw, align_corners=True)`, then `add_uv_embedding`
    and a border of one zero, read at three rows and columns for every patch.

    Returns:
        (F, C, K h, K w): neighbourhoods side by side.
    """
    device = x_FChw.device
    for axis, length in ((2, image_hw[0]), (3, image_hw[1])):
        low, high, share = _between(x_FChw.shape[axis], length, patch_size, device)
        share = share[:, None] if axis == 2 else share
        x_FChw = torch.lerp(x_FChw.index_select(axis, low), x_FChw.index_select(axis, high), share)
    aspect = image_hw[1] / image_hw[0]
    along_x, along_y = _weighted_uv(x_FChw.shape[1], image_hw, aspect, device)
    rows, columns = (_pixels(length, patch_size).clamp(min=0).to(device) for length in image_hw)
    x_FCHW = _add_uv(x_FChw, along_x[:, columns], along_y[:, rows])
    # Patches begin at pixel 0: only there does the convolution look across the border.
    x_FCHW[:, :, 0] = 0
    x_FCHW[:, :, :, 0] = 0
    return x_FCHW


def _pixels(length: int, patch_size: int) -> Tensor:
    """The first pixel of every patch along an axis, with the one before and the one after."""
    first = torch.arange(0, length, patch_size)
    return (first[:, None] + torch.arange(-1, 2)).flatten()


@lru_cache(maxsize=16)
def _between(
    known: int, length: int, patch_size: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `_pixels`, its two neighbours among `known` samples and the second's share."""
    with torch.inference_mode(False):  # what is cached must serve training as well
        place = _pixels(length, patch_size).clamp(min=0) * ((known - 1) / (length - 1))
        low = place.floor().long()
        high = (low + 1).clamp(max=known - 1)
        return low.to(device), high.to(device), (place - low).float().to(device)


@lru_cache(maxsize=16)
def _weighted_uv(
    channels: int, size_hw: tuple[int, int], aspect: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """0.1 x `uv_axes` on the device."""
    with torch.inference_mode(False):
        along_x, along_y = uv_axes(channels, size_hw, aspect)
        return (UV_WEIGHT * along_x).to(device), (UV_WEIGHT * along_y).to(device)


def _add_uv(x_FCHW: Tensor, along_x: Tensor, along_y: Tensor) -> Tensor:
    x_half, y_half = x_FCHW.chunk(2, dim=1)
    x_half.add_(along_x[:, None, :])
    y_half.add_(along_y[:, :, None])
    return x_FCHW
