"""A contact sheet: the kept frames of a scene in order, colour above depth."""

import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from spa3r.data.shards import FrameSample

TILE_WIDTH = 224
COLUMNS = 6
MAX_FRAMES = 36


def contact_sheet(samples: Sequence[FrameSample]) -> bytes:
    """PNG of frames of one scene, in order; show no more than MAX_FRAMES.

    Depth shares one colour scale, from 0 to the scene's 98th percentile; unmeasured is black.
    """
    measured = [s.depth_mm[s.depth_mm > 0] for s in samples if s.depth_mm is not None]
    far_mm = float(np.percentile(np.concatenate(measured), 98)) if measured else 1.0
    tiles = [_tile(sample, far_mm) for sample in samples]
    width, height = tiles[0].size
    rows = math.ceil(len(tiles) / COLUMNS)
    sheet = Image.new("RGB", (width * min(COLUMNS, len(tiles)), height * rows), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % COLUMNS * width, i // COLUMNS * height))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _tile(sample: FrameSample, far_mm: float) -> Image.Image:
    color = Image.fromarray(sample.color)
    size = (TILE_WIDTH, round(TILE_WIDTH * color.height / color.width))
    parts = [color.resize(size, Image.Resampling.LANCZOS)]
    if sample.depth_mm is not None:
        shaded = colormaps["turbo"](np.clip(sample.depth_mm / far_mm, 0, 1))[..., :3]
        shaded[sample.depth_mm == 0] = 0
        depth = Image.fromarray((shaded * 255).astype(np.uint8))
        parts.append(depth.resize(size, Image.Resampling.NEAREST))
    tile = Image.new("RGB", (size[0], size[1] * len(parts)))
    for i, part in enumerate(parts):
        tile.paste(part, (0, i * size[1]))
    ImageDraw.Draw(tile).text(
        (5, 4), f"{sample.frame}", fill="white", stroke_width=2, stroke_fill="black"
    )
    return tile


def stacked(top: bytes, bottom: bytes) -> bytes:
    """PNG of two PNGs, one above the other, the second as wide as the first."""
    above, below = (Image.open(io.BytesIO(data)).convert("RGB") for data in (top, bottom))
    width = max(above.width, 3 * TILE_WIDTH)
    below = below.resize(
        (width, round(width * below.height / below.width)), Image.Resampling.LANCZOS
    )
    both = Image.new("RGB", (width, above.height + below.height), "white")
    both.paste(above, (0, 0))
    both.paste(below, (0, above.height))
    out = io.BytesIO()
    both.save(out, "PNG")
    return out.getvalue()
