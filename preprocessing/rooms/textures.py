"""Procedural, repeating textures in one mip-mapped atlas.

A texture is an image of three weights in [0, 1] that a material's colours are mixed with:
channel 0 goes from base to second colour, channel 1 from that to the accent, channel 2 is a
factor on the result. Looking textures up in an atlas, in place of evaluating them per pixel, costs
the same for all of them, and the mip levels keep far surfaces free of moire.
"""

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

SIDE = 256
LEVELS = 9  # 256, 128, ... 1
# Texels that a level has per texture, and where each level starts inside a texture's block.
LEVEL_START = np.cumsum([0] + [(SIDE >> k) ** 2 for k in range(LEVELS)])[:-1]
BLOCK = sum((SIDE >> k) ** 2 for k in range(LEVELS))

Field = np.ndarray  # (SIDE, SIDE) float


def _grid() -> tuple[Field, Field]:
    """Texel centres u (across) and v (down) in [0, 1)."""
    axis = (np.arange(SIDE) + 0.5) / SIDE
    v, u = np.meshgrid(axis, axis, indexing="ij")
    return u, v


def _noise(rng: np.random.Generator, nu: int, nv: int, octaves: int = 3) -> Field:
    """Repeating smooth noise in [0, 1] with nu x nv cells a repeat, finer by 2 each octave."""
    total = np.zeros((SIDE, SIDE))
    for k in range(octaves):
        cells_u, cells_v = min(nu << k, SIDE), min(nv << k, SIDE)
        lattice = np.pad(rng.random((cells_v, cells_u)), 2, mode="wrap").astype(np.float32)
        u, v = _grid()
        x = (u * cells_u + 1.5).astype(np.float32)
        y = (v * cells_v + 1.5).astype(np.float32)
        total += cv2.remap(lattice, x, y, cv2.INTER_CUBIC) * 0.5**k
    low, high = total.min(), total.max()
    return (total - low) / (high - low)


def _cells(rng: np.random.Generator, nu: int, nv: int, shift: float = 0.0) -> tuple[Field, ...]:
    """A wall of nu x nv bricks, each row moved by `shift`.

    Returns the random value of each brick and the distances to its left/right and upper/lower
    edge in bricks.
    """
    u, v = _grid()
    row = np.floor(v * nv).astype(int)
    x = u * nu + row * shift
    column = np.floor(x).astype(int) % nu
    value = rng.random((nv, nu))[row, column]
    fx, fy = x % 1, (v * nv) % 1
    return value, np.minimum(fx, 1 - fx), np.minimum(fy, 1 - fy)


def _texture(mix: Field, accent: Field | float = 0.0, shade: Field | float = 1.0) -> np.ndarray:
    channels = np.broadcast_arrays(mix, accent, shade)
    return np.clip(np.stack(channels, -1), 0, 1).astype(np.float32)


def _plaster(rng: np.random.Generator) -> np.ndarray:
    blotches = _noise(rng, 3, 3, 3)
    return _texture(0.7 * blotches, 0.0, 0.93 + 0.07 * _noise(rng, 40, 40, 2))


def _wood(rng: np.random.Generator) -> np.ndarray:
    _, v = _grid()
    rings = v * 9 + 1.6 * _noise(rng, 2, 4, 3)
    grain = _noise(rng, 4, 90, 2)
    return _texture(0.5 + 0.35 * np.sin(2 * np.pi * rings) + 0.3 * (grain - 0.5), 0.0, 0.9)


def _planks(rng: np.random.Generator) -> np.ndarray:
    value, ex, ey = _cells(rng, 2, 6, 0.5)
    gap = (ey < 0.03) | (ex < 0.006)
    grain = _noise(rng, 4, 60, 3)
    return _texture(0.7 * value + 0.5 * (grain - 0.4), 0.0, np.where(gap, 0.35, 0.95))


def _parquet(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    block = (np.floor(u * 4) + np.floor(v * 4)).astype(int) % 2
    strips = np.where(block == 0, u, v) * 16
    tone = rng.random((16, 4, 2))[
        strips.astype(int), (np.where(block == 0, v, u) * 4).astype(int), block
    ]
    gap = (strips % 1 < 0.06) | ((u * 4) % 1 < 0.02) | ((v * 4) % 1 < 0.02)
    return _texture(0.75 * tone + 0.2 * block, 0.0, np.where(gap, 0.5, 1.0))


def _tiles(rng: np.random.Generator) -> np.ndarray:
    value, ex, ey = _cells(rng, 4, 4)
    grout = np.minimum(ex, ey) < 0.025
    cloud = _noise(rng, 8, 8, 3)
    return _texture(0.4 * value + 0.4 * cloud, grout * 0.9, 1.0)


def _checks(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    check = (np.floor(u * 4) + np.floor(v * 4)) % 2
    return _texture(check, 0.25 * _noise(rng, 6, 6, 3), 0.96)


def _stripes(rng: np.random.Generator) -> np.ndarray:
    u, _ = _grid()
    phase = (u * 4) % 1
    thin = (np.abs(phase - 0.75) < 0.05) * 0.9
    return _texture(phase < 0.5, thin, 0.92 + 0.08 * _noise(rng, 30, 30, 2))


def _bricks(rng: np.random.Generator) -> np.ndarray:
    value, ex, ey = _cells(rng, 4, 12, 0.5)
    mortar = np.clip(1.6 - np.minimum(ex * 30, ey * 11), 0, 1)
    rough = _noise(rng, 32, 32, 3)
    return _texture(0.8 * value + 0.3 * (rough - 0.5), mortar, 0.8 + 0.2 * rough)


def _weave(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    over = np.sin(2 * np.pi * 32 * u) * np.sin(2 * np.pi * 32 * v)
    return _texture(0.5 + 0.4 * over + 0.3 * (_noise(rng, 5, 5, 3) - 0.5), 0.0, 0.9 + 0.1 * over)


def _carpet(rng: np.random.Generator) -> np.ndarray:
    fibre = _noise(rng, 100, 100, 2)
    return _texture(0.6 * _noise(rng, 4, 4, 3) + 0.4 * fibre, 0.0, 0.75 + 0.25 * fibre)


def _marble(rng: np.random.Generator) -> np.ndarray:
    vein = np.abs(np.sin(2 * np.pi * (_grid()[0] + 1.2 * _noise(rng, 3, 3, 5))))
    return _texture(0.5 * _noise(rng, 4, 4, 4), np.clip(0.9 - 5 * vein, 0, 1), 1.0)


def _plaid(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    bands = 0.5 * ((u * 3) % 1 < 0.4) + 0.5 * ((v * 3) % 1 < 0.4)
    line = 0.8 * ((np.abs((u * 3) % 1 - 0.7) < 0.04) | (np.abs((v * 3) % 1 - 0.7) < 0.04))
    return _texture(bands, line, 0.92 + 0.08 * _noise(rng, 64, 64, 1))


def _dots(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    row = np.floor(v * 4)
    fx, fy = (u * 4 + 0.5 * (row % 2)) % 1 - 0.5, (v * 4) % 1 - 0.5
    spot = np.clip((0.24 - np.hypot(fx, fy)) * 25, 0, 1)
    return _texture(0.4 * _noise(rng, 3, 3, 2), spot, 0.97)


def _damask(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    a, b = 2 * np.pi * 2 * u, 2 * np.pi * 2 * v
    flower = np.sin(a) * np.cos(b) + 0.6 * np.cos(2 * a) * np.cos(2 * b) + 0.4 * np.sin(3 * a + b)
    return _texture(np.clip(flower * 4 + 0.5, 0, 1), 0.0, 0.94 + 0.06 * _noise(rng, 24, 24, 2))


def _rug(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    edge = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
    border = ((edge > 0.04) & (edge < 0.13)).astype(float)
    angle, radius = np.arctan2(v - 0.5, u - 0.5), np.hypot(u - 0.5, v - 0.5)
    medallion = np.sin(26 * radius + 1.5 * np.sin(8 * angle)) > 0.2
    zigzag = np.abs((np.where(np.abs(u - 0.5) > np.abs(v - 0.5), v, u) * 14) % 1 - 0.5) < 0.2
    accent = np.where(border > 0, zigzag * 0.9, (edge < 0.02) * 1.0)
    return _texture(np.where(border > 0, 1.0, medallion), accent, 0.8 + 0.2 * _noise(rng, 90, 90))


def _landscape(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    far = 0.5 + 0.25 * (_noise(rng, 3, 1, 3)[0] - 0.5)
    near = 0.28 + 0.2 * (_noise(rng, 4, 1, 3)[0] - 0.5)
    sun = np.clip((0.09 - np.hypot(u - 0.7, v - 0.75)) * 60, 0, 1)
    mix = np.where(v < near, 1.0, np.where(v < far, 0.65, 0.3 * v))
    return _texture(mix, sun, 0.85 + 0.15 * _noise(rng, 20, 20, 3))


def _abstract(rng: np.random.Generator) -> np.ndarray:
    mix, accent = _noise(rng, 2, 2, 4), np.zeros((SIDE, SIDE))
    u, v = _grid()
    for _ in range(9):
        x, y, w, h = rng.uniform(0, 0.8, 2).tolist() + rng.uniform(0.08, 0.4, 2).tolist()
        inside = (u > x) & (u < x + w) & (v > y) & (v < y + h)
        mix = np.where(inside, rng.random(), mix)
        accent = np.where(inside, rng.random() < 0.35, accent)
    return _texture(mix, accent, 0.9)


def _portrait(rng: np.random.Generator) -> np.ndarray:
    u, v = _grid()
    head = np.hypot((u - 0.5) / 0.7, v - 0.62) < 0.2
    body = (np.hypot((u - 0.5) / 1.3, v - 0.05) < 0.34) & (v < 0.45)
    return _texture(0.5 * _noise(rng, 4, 4, 4) + 0.5 * body, head * 0.95, 0.85)


def _books(rng: np.random.Generator) -> np.ndarray:
    edges = np.sort(rng.random(22))
    u, v = _grid()
    book = np.searchsorted(edges, u)
    tone, lean = rng.random(23)[book], (rng.random(23) < 0.3)[book]
    gap = np.abs(u[..., None] - edges).min(-1) < 0.004
    label = (np.abs(v - 0.7) < 0.05) & (tone > 0.5)
    return _texture(tone, np.where(label, 0.9, lean * 0.8), np.where(gap, 0.25, 0.95))


def _sky(rng: np.random.Generator) -> np.ndarray:
    _, v = _grid()
    trees = v < 0.28 + 0.12 * _noise(rng, 8, 1, 3)[0]
    return _texture(np.where(trees, 0.0, 0.25 * (1 - v)), trees * 0.9, 1.0 - 0.3 * trees)


def _folds(rng: np.random.Generator) -> np.ndarray:
    u, _ = _grid()
    wave = np.sin(2 * np.pi * (6 * u + 0.25 * _noise(rng, 3, 1, 2)))
    return _texture(0.4 + 0.3 * wave, 0.0, 0.78 + 0.22 * wave)


def _plain(rng: np.random.Generator) -> np.ndarray:
    return _texture(0.3 * _noise(rng, 6, 6, 4))


TEXTURES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "plaster": _plaster,
    "wood": _wood,
    "planks": _planks,
    "parquet": _parquet,
    "tiles": _tiles,
    "checks": _checks,
    "stripes": _stripes,
    "bricks": _bricks,
    "weave": _weave,
    "carpet": _carpet,
    "marble": _marble,
    "plaid": _plaid,
    "dots": _dots,
    "damask": _damask,
    "rug": _rug,
    "landscape": _landscape,
    "abstract": _abstract,
    "portrait": _portrait,
    "books": _books,
    "sky": _sky,
    "folds": _folds,
    "plain": _plain,
}
TEXTURE_INDEX = {name: index for index, name in enumerate(TEXTURES)}


@cache
def atlas() -> np.ndarray:
    """(len(TEXTURES) * BLOCK, 3) float32: of each texture all levels, rows from v = 0 upwards.

    The same in every process and for every seed: rooms differ in colours, sizes and offsets.
    """
    blocks = []
    for index, make in enumerate(TEXTURES.values()):
        image = make(np.random.default_rng([20240, index]))
        for _ in range(LEVELS):
            blocks.append(image.reshape(-1, 3))
            half = len(image) // 2
            if half:
                image = image.reshape(half, 2, half, 2, 3).mean((1, 3))
    return np.concatenate(blocks)


def sample(texture: np.ndarray, u: np.ndarray, v: np.ndarray, texels: np.ndarray) -> np.ndarray:
    """Look textures up bilinearly, in the level whose texels are about as big as a pixel.

    Args:
        texture: (R,) index of each texture in `TEXTURES`.
        u: (R,) repeats across. v: (R,) repeats upwards.
        texels: (R,) texels of the finest level that a pixel covers.

    Returns:
        (R, 3) float32 weights.
    """
    level = np.log2(np.maximum(texels, 1.0)) + 0.25
    level = np.minimum(level, LEVELS - 1).astype(np.int32)
    size = np.right_shift(SIDE, level)
    start = texture.astype(np.int32) * BLOCK + LEVEL_START.astype(np.int32)[level]
    x, y = u * size - 0.5, v * size - 0.5
    x_floor, y_floor = np.floor(x), np.floor(y)
    fx, fy = (x - x_floor)[:, None], (y - y_floor)[:, None]
    x0 = x_floor.astype(np.int32) & (size - 1)
    y0 = start + (y_floor.astype(np.int32) & (size - 1)) * size
    x1 = (x0 + 1) & (size - 1)
    y1 = start + ((y_floor.astype(np.int32) + 1) & (size - 1)) * size
    table = atlas()
    low = table[y0 + x0] * (1 - fx) + table[y0 + x1] * fx
    high = table[y1 + x0] * (1 - fx) + table[y1 + x1] * fx
    return low * (1 - fy) + high * fy
