"""Materials with believable colours: wood, fabric, paint, metal, paper. Colours are linear RGB."""

import colorsys

import numpy as np

from preprocessing.rooms.mesh import Material, Vec2

Rng = np.random.Generator

WOODS = ((0.42, 0.25, 0.12), (0.55, 0.36, 0.18), (0.24, 0.13, 0.07), (0.62, 0.47, 0.30))
PAINTS = ((0.80, 0.76, 0.68), (0.62, 0.72, 0.74), (0.72, 0.76, 0.62), (0.80, 0.66, 0.54))
PAINTS += ((0.66, 0.62, 0.74), (0.82, 0.80, 0.78), (0.76, 0.58, 0.52), (0.52, 0.62, 0.68))


def hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """Linear RGB of a colour named by hue, saturation and displayed brightness, each in [0, 1]."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value)) ** 2.2


def pick(rng: Rng, *names: str) -> str:
    """One of the names."""
    return names[int(rng.integers(len(names)))]


def _colours(base: np.ndarray, second: np.ndarray, accent: np.ndarray) -> np.ndarray:
    return np.stack([base, second, accent]).astype(np.float32)


def _hue(rng: Rng) -> float:
    """A hue people furnish with: mostly reds to yellows and blues, seldom greens or purples."""
    centre, spread = ((0.06, 0.05), (0.58, 0.05), (0.35, 0.1), (0.9, 0.08))[
        int(rng.choice(4, p=[0.45, 0.33, 0.14, 0.08]))
    ]
    return float(rng.normal(centre, spread))


def _offset(rng: Rng) -> Vec2:
    return (float(rng.random()), float(rng.random()))


def wood(rng: Rng, *, upright: bool = False) -> Material:
    """Grained wood; the grain runs along x and y, or upright."""
    tone = np.array(WOODS[int(rng.integers(len(WOODS)))]) * rng.uniform(0.8, 1.25)
    colours = _colours(tone * 1.15, tone * 0.6, tone * 0.3)
    return Material(
        texture="wood", colours=colours, tile=(0.9, 0.5), offset=_offset(rng), turned=upright
    )


def fabric(rng: Rng, *textures: str, tile: float = 0.4) -> Material:
    """Coloured cloth with one of the textures (default: plain weaves and patterns)."""
    names = textures or ("weave", "weave", "plaid", "stripes", "dots", "checks", "damask")
    hue, value = _hue(rng), rng.uniform(0.35, 0.85)
    base = hsv(hue, rng.uniform(0.1, 0.65), value)
    second = hsv(hue + rng.normal(0, 0.05), rng.uniform(0.1, 0.5), value * rng.uniform(0.55, 0.8))
    accent = hsv(_hue(rng), rng.uniform(0.2, 0.6), rng.uniform(0.5, 0.9))
    return Material(
        texture=pick(rng, *names),
        colours=_colours(base, second, accent),
        tile=(tile, tile),
        offset=_offset(rng),
    )


def painted(rng: Rng, *, dark: bool = False) -> Material:
    """Lacquer or painted board, nearly plain."""
    value = rng.uniform(0.12, 0.3) if dark else rng.uniform(0.55, 0.95)
    strong = rng.random() < 0.2
    base = hsv(_hue(rng), rng.uniform(0.3, 0.6) if strong else rng.uniform(0.0, 0.15), value)
    colours = _colours(base, base * 0.75, base * 0.5)
    return Material(texture="plain", colours=colours, tile=(0.6, 0.6), offset=_offset(rng))


def trim(rng: Rng) -> Material:
    """White, off-white or wooden: frames, sills and skirting boards."""
    if rng.random() < 0.3:
        return wood(rng, upright=True)
    base = hsv(0.1, rng.uniform(0.0, 0.12), rng.uniform(0.8, 0.97))
    return Material(texture="plain", colours=_colours(base, base * 0.85, base), tile=(0.6, 0.6))


def metal(rng: Rng) -> Material:
    """Grey metal of legs, handles and stands."""
    base = hsv(0.6, 0.05, rng.uniform(0.25, 0.75))
    return Material(texture="plain", colours=_colours(base, base * 0.8, base), tile=(0.3, 0.3))


def wall(rng: Rng, texture: str) -> Material:
    """A wall's finish: paint, wallpaper or bricks."""
    base = np.array(PAINTS[int(rng.integers(len(PAINTS)))]) * rng.uniform(0.75, 1.05)
    second, accent = base * rng.uniform(0.6, 0.85), base * rng.uniform(0.4, 1.3, 3)
    tile = {"plaster": 2.2, "stripes": 0.7, "damask": 0.75, "dots": 0.8, "bricks": 0.95}[texture]
    if texture == "bricks":
        base, second = hsv(0.03, 0.6, 0.72), hsv(0.05, 0.45, 0.5)
        accent = np.array((0.62, 0.6, 0.56))
    colours = _colours(base, second, np.clip(accent, 0, 0.9))
    return Material(texture=texture, colours=colours, tile=(tile, tile), offset=_offset(rng))


def floor(rng: Rng) -> Material:
    """Planks, parquet, tiles, marble, carpet or checks."""
    texture = pick(rng, "planks", "planks", "parquet", "tiles", "carpet", "marble", "checks")
    if texture in ("planks", "parquet"):
        tone = np.array(WOODS[int(rng.integers(len(WOODS)))]) * rng.uniform(0.9, 1.2)
        colours, tile = _colours(tone * 1.15, tone * 0.62, tone * 0.4), (1.6, 1.1)
    elif texture == "carpet":
        base = hsv(_hue(rng), rng.uniform(0.1, 0.45), rng.uniform(0.45, 0.75))
        colours, tile = _colours(base, base * 0.6, base), (1.3, 1.3)
    else:
        base = hsv(_hue(rng), rng.uniform(0.02, 0.2), rng.uniform(0.7, 0.88))
        second = base * rng.uniform(0.35, 0.75)
        colours, tile = _colours(base, second, hsv(0.1, 0.05, rng.uniform(0.3, 0.85))), (1.5, 1.5)
    return Material(texture=texture, colours=colours, tile=tile, offset=_offset(rng))


def sheet(rng: Rng, texture: str, size: Vec2, centre: Vec2 = (0.0, 0.0)) -> Material:
    """A texture shown once over a face of `size` metres around `centre` (a picture, a rug)."""
    base = hsv(_hue(rng), rng.uniform(0.15, 0.6), rng.uniform(0.6, 0.95))
    second = hsv(_hue(rng), rng.uniform(0.3, 0.75), rng.uniform(0.25, 0.55))
    accent = hsv(_hue(rng), rng.uniform(0.3, 0.8), rng.uniform(0.7, 1.0))
    return Material(
        texture=texture,
        colours=_colours(base, second, accent),
        tile=size,
        offset=(0.5 - centre[0] / size[0], 0.5 - centre[1] / size[1]),
    )


def glowing(colour: np.ndarray, emission: float) -> Material:
    """A surface that gives off light: lamp shades."""
    colours = _colours(colour, colour * 0.9, colour)
    return Material(texture="weave", colours=colours, tile=(0.2, 0.2), emission=emission)


def window_view(size: Vec2, centre: Vec2) -> Material:
    """Sky and trees as seen through a window, bright against the room."""
    colours = _colours(
        np.array((0.75, 0.88, 1.0)), np.array((0.35, 0.55, 0.95)), np.array((0.2, 0.34, 0.14))
    )
    offset = (0.5 - centre[0] / size[0], 0.5 - centre[1] / size[1])
    return Material(texture="sky", colours=colours, tile=size, offset=offset, emission=1.6)
