"""Pictures of held-out clips: one line per target view, truth and prediction side by side.

Legend: V views, C context views, T target views, N tokens per view, H W pixels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from PIL import Image

from spa3r.eval.examples import ClipExample
from spa3r.schema import KIND_NAMES
from spa3r.viz.pca import PcaBasis, fit_basis

TILE_WIDTH = 224
GAP = 8
_DEPTH_COLOURS = "viridis"
_UNKNOWN = (0.87, 0.87, 0.86)  # neutral grey: not measured
_FEATURES = tuple((kind, f"{name.capitalize()} features") for kind, name in KIND_NAMES.items())


@dataclass(frozen=True, slots=True)
class StripImage:
    """Encoded tiles of equal size: JPEG for photographs, PNG for maps."""

    label: str
    data: bytes
    mime: str


@dataclass(frozen=True, slots=True)
class StripGroup:
    """Columns that belong together, such as the target and the predicted features."""

    title: str
    columns: tuple[StripImage, ...]


@dataclass(frozen=True, slots=True)
class Strip:
    """One clip: its context views in a row, then columns of one tile per target view."""

    context: StripImage
    num_context: int
    groups: tuple[StripGroup, ...]
    depth_range: tuple[float, float]  # clip units, of both depth columns


def fit_bases(examples: Sequence[ClipExample]) -> dict[str, PcaBasis]:
    """One basis per kind of feature, fitted on the valid target tokens of all clips together."""
    kinds = sorted(set().union(*(example.target for example in examples)))
    return {
        kind: fit_basis(np.concatenate([e.target[kind][e.valid_TN] for e in examples]))
        for kind in kinds
    }


def clip_strip(example: ClipExample, bases: dict[str, PcaBasis]) -> Strip:
    """Photographs, target and predicted features in one basis, true and predicted depth."""
    is_target_V = np.asarray(example.is_target)
    context, asked = example.images_VHW3[~is_target_V], example.images_VHW3[is_target_V]
    height, width = example.images_VHW3.shape[1:3]
    tile = (TILE_WIDTH, max(1, round(TILE_WIDTH * height / width)))
    groups = [StripGroup("Held-out view", (_photos("photograph", asked, tile),))]
    for kind, title in _FEATURES:
        if kind in example.predicted:
            sides = (("target", example.target), ("predicted", example.predicted))
            columns = []
            for label, tokens in sides:
                colours_TN3 = bases[kind].colours(tokens[kind])
                colours_TN3[~example.valid_TN] = _UNKNOWN
                columns.append(_maps(label, colours_TN3, example.grid_hw, tile))
            groups.append(StripGroup(title, tuple(columns)))
    depth, depth_range = _depth_group(example, tile)
    return Strip(
        context=_photos("context views", context, tile, along_row=True),
        num_context=len(context),
        groups=(*groups, depth),
        depth_range=depth_range,
    )


def depth_gradient(stops: int = 9) -> list[str]:
    """Hex colours of the depth scale from near to far, for a legend."""
    colours = colormaps[_DEPTH_COLOURS](np.linspace(0, 1, stops))[:, :3]
    return ["#" + "".join(f"{round(255 * c):02x}" for c in rgb) for rgb in colours]


def _depth_group(
    example: ClipExample, tile: tuple[int, int]
) -> tuple[StripGroup, tuple[float, float]]:
    """Both depths on one scale: 1st to 99th percentile of the true one."""
    known_TN = example.depth_TN > 0
    known = example.depth_TN[known_TN]
    low, high = np.percentile(known, (1, 99)) if known.size else (0.0, 1.0)
    columns = []
    for label, depth_TN in (("true", example.depth_TN), ("predicted", example.predicted_depth_TN)):
        scaled_TN = np.clip((depth_TN - low) / max(high - low, 1e-6), 0, 1)
        colours_TN3 = colormaps[_DEPTH_COLOURS](scaled_TN)[..., :3]
        colours_TN3[~known_TN] = _UNKNOWN
        columns.append(_maps(label, colours_TN3, example.grid_hw, tile))
    return StripGroup("Depth", tuple(columns)), (float(low), float(high))


def _photos(
    label: str, images: np.ndarray, tile: tuple[int, int], *, along_row: bool = False
) -> StripImage:
    sheet = _paste([Image.fromarray(image) for image in images], tile, along_row=along_row)
    return StripImage(label, _encode(sheet, "JPEG"), "image/jpeg")


def _maps(
    label: str, colours_TN3: np.ndarray, grid_hw: tuple[int, int], tile: tuple[int, int]
) -> StripImage:
    grids = (colours_TN3 * 255).round().astype(np.uint8)
    sheet = _paste([Image.fromarray(g.reshape(*grid_hw, 3)) for g in grids], tile, along_row=False)
    return StripImage(label, _encode(sheet, "PNG"), "image/png")


def _paste(tiles: Sequence[Image.Image], tile: tuple[int, int], *, along_row: bool) -> Image.Image:
    """Tiles in a row or a column on white, resized smoothly (bilinear: no false colours)."""
    step = (tile[0] + GAP, 0) if along_row else (0, tile[1] + GAP)
    last = (step[0] * (len(tiles) - 1), step[1] * (len(tiles) - 1))
    sheet = Image.new("RGB", (last[0] + tile[0], last[1] + tile[1]), "white")
    for index, image in enumerate(tiles):
        scaled = image.resize(tile, Image.Resampling.BILINEAR)
        sheet.paste(scaled, (index * step[0], index * step[1]))
    return sheet


def _encode(sheet: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, kind, quality=88)
    return buffer.getvalue()
