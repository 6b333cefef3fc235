"""The shell of a room and what hangs on its walls: doors, windows, pictures, curtains.

A fixture's local origin is at the wall's foot, y pointing into the room.
"""

import numpy as np

from preprocessing.rooms import materials as m
from preprocessing.rooms.materials import Rng
from preprocessing.rooms.mesh import Furniture, Material, Object, box

WALL_THICKNESS = 0.1
"""Metres that floor, walls and ceiling reach outwards."""


def shell(rng: Rng, width: float, depth: float, height: float) -> tuple[Object, ...]:
    """Floor, ceiling and four walls as slabs outside [0, width] x [0, depth] x [0, height]."""
    t = WALL_THICKNESS  # slabs overlap in the corners, so that no ray slips through
    floor = Object("floor", (box(m.floor(rng), (-t, -t, -t), (width + t, depth + t, 0)),))
    white = np.full((3, 3), 0.82) * [[1.0], [0.93], [1.0]]
    plain = Material(texture="plaster", colours=white, tile=(2.0, 2.0))
    top = (width + t, depth + t, height + t)
    ceiling = Object("ceiling", (box(plain, (-t, -t, height), top),))
    main = m.wall(rng, m.pick(rng, "plaster", "plaster", "stripes", "damask", "dots"))
    accent = m.wall(rng, m.pick(rng, "plaster", "bricks", "damask", "stripes"))
    board = m.trim(rng)
    w, d, h, skirt = width, depth, height, 0.015  # skirting boards are 9 cm high
    slabs = (
        ((-t, -t, 0), (w + t, 0, h), (0, 0, 0), (w, skirt, 0.09)),
        ((w, -t, 0), (w + t, d + t, h), (w - skirt, 0, 0), (w, d, 0.09)),
        ((-t, d, 0), (w + t, d + t, h), (0, d - skirt, 0), (w, d, 0.09)),
        ((-t, -t, 0), (0, d + t, h), (0, 0, 0), (skirt, d, 0.09)),
    )
    special = int(rng.integers(4))
    walls = [
        Object("wall", (box(accent if k == special else main, a, b), box(board, c, e)))
        for k, (a, b, c, e) in enumerate(slabs)
    ]
    return (floor, ceiling, *walls)


def door(rng: Rng) -> Furniture:
    """A frame, a leaf with two panels, and a handle."""
    w, h = 0.95, 2.08
    leaf = m.wood(rng, upright=True) if rng.random() < 0.6 else m.painted(rng)
    frame, metal, x = m.trim(rng), m.metal(rng), w / 2
    parts = [
        box(frame, (-x, 0, 0), (-x + 0.07, 0.05, h)),
        box(frame, (x - 0.07, 0, 0), (x, 0.05, h)),
        box(frame, (-x + 0.07, 0, h - 0.07), (x - 0.07, 0.05, h)),
        box(leaf, (-x + 0.07, 0, 0.01), (x - 0.07, 0.025, h - 0.07)),
    ]
    for low, high in ((0.2, 0.9), (1.1, 1.85)):
        parts.append(box(leaf, (-x + 0.2, 0.025, low), (x - 0.2, 0.04, high), taper=0.0))
    parts.append(box(metal, (x - 0.2, 0.025, 1.0), (x - 0.1, 0.07, 1.025)))
    return Furniture((w, 0.07, h), (Object("door", tuple(parts)),))


def window(rng: Rng, ceiling: float) -> Furniture:
    """A framed view of the sky with a sill, often between curtains."""
    w, low, high = rng.uniform(1.0, 1.7), rng.uniform(0.85, 1.0), min(2.15, ceiling - 0.25)
    frame, x = m.trim(rng), w / 2
    view = m.window_view((w, high - low), (0.0, (low + high) / 2))
    parts = [
        box(view, (-x, 0, low), (x, 0.015, high)),
        box(frame, (-x, 0, high - 0.06), (x, 0.045, high)),
        box(frame, (-x, 0, low), (x, 0.045, low + 0.06)),
        box(frame, (-x - 0.05, 0, low - 0.04), (x + 0.05, 0.14, low)),
    ]
    for at in (-x, -0.03, x - 0.06):
        parts.append(box(frame, (at, 0, low + 0.06), (at + 0.06, 0.045, high - 0.06)))
    objects = [Object("window", tuple(parts))]
    if rng.random() < 0.65:
        cloth, rod = m.fabric(rng, "folds", tile=0.9), m.metal(rng)
        foot = 0.06 if rng.random() < 0.5 else low - 0.12
        hangings = [box(rod, (-x - 0.35, 0.09, high + 0.06), (x + 0.35, 0.11, high + 0.08))]
        for side in (-1, 1):
            a, b = sorted((side * (x + 0.3), side * (x - 0.05)))
            hangings.append(box(cloth, (a, 0.06, foot), (b, 0.13, high + 0.06)))
        objects.append(Object("curtain", tuple(hangings)))
    return Furniture((w + 0.72, 0.14, high + 0.1), tuple(objects))


def picture(rng: Rng) -> Furniture:
    """A framed painting at eye height."""
    w, h = rng.uniform(0.35, 1.0), rng.uniform(0.35, 0.75)
    z, x = rng.uniform(1.45, 1.6) - h / 2, w / 2
    frame = m.wood(rng) if rng.random() < 0.6 else m.painted(rng, dark=True)
    painting = m.sheet(
        rng, m.pick(rng, "landscape", "abstract", "abstract", "portrait"), (w, h), (0.0, z + h / 2)
    )
    parts = (
        box(painting, (-x, 0, z), (x, 0.015, z + h)),
        box(frame, (-x - 0.03, 0, z - 0.03), (-x, 0.03, z + h + 0.03)),
        box(frame, (x, 0, z - 0.03), (x + 0.03, 0.03, z + h + 0.03)),
        box(frame, (-x, 0, z + h), (x, 0.03, z + h + 0.03)),
        box(frame, (-x, 0, z - 0.03), (x, 0.03, z)),
    )
    return Furniture((w + 0.06, 0.03, z + h + 0.03), (Object("picture", parts),))


def lamp_height(ceiling: float) -> float:
    """Height of the pendant's lower edge, metres."""
    return ceiling - 0.35


def ceiling_lamp(rng: Rng, ceiling: float) -> Object:
    """A pendant lamp; its light is put below its shade, where nothing hides it."""
    cord = m.painted(rng, dark=True)
    shade = m.glowing(m.hsv(0.12, 0.2, 0.97), 1.4)
    z = lamp_height(ceiling)
    return Object(
        "lamp",
        (
            box(cord, (-0.008, -0.008, z + 0.1), (0.008, 0.008, ceiling)),
            box(shade, (-0.2, -0.2, z), (0.2, 0.2, z + 0.1), taper=0.08),
        ),
    )
