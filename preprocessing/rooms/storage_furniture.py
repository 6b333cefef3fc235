"""Furniture that holds things: shelves, cabinets, desks, television stands, boxes, plants.

Frame: see mesh.py (y is the front).
"""

from itertools import pairwise

import numpy as np

from preprocessing.rooms import materials as m
from preprocessing.rooms.furniture import chair, table
from preprocessing.rooms.materials import Rng
from preprocessing.rooms.mesh import Furniture, Material, Object, Part, blade, box, cylinder


def bookshelf(rng: Rng) -> Furniture:
    """Sides, back and boards, with rows of books and a few boxes on them."""
    w, d, h = rng.uniform(0.7, 1.2), rng.uniform(0.28, 0.34), rng.uniform(1.3, 2.05)
    wood, side = m.wood(rng), m.wood(rng, upright=True)
    x, y = w / 2, d / 2
    parts = [
        box(side, (-x, -y, 0), (-x + 0.02, y, h)),
        box(side, (x - 0.02, -y, 0), (x, y, h)),
        box(side, (-x + 0.02, -y, 0), (x - 0.02, -y + 0.01, h)),
    ]
    levels = np.linspace(0.06, h - 0.02, int(h / 0.34) + 1)
    for z in levels:
        parts.append(box(wood, (-x + 0.02, -y + 0.01, z - 0.02), (x - 0.02, y - 0.005, z)))
    for z, above in pairwise(levels):
        parts += _row(rng, (-x + 0.03, x - 0.03), y - 0.03, float(z), float(above - z - 0.04))
    return Furniture((w, d, h), (Object("bookshelf", tuple(parts)),))


def _row(rng: Rng, span: tuple[float, float], front: float, z: float, room: float) -> list[Part]:
    """What stands on one board: blocks of books of several heights, and gaps or a box."""
    parts, x = [], span[0]
    while x < span[1] - 0.1:
        width = min(rng.uniform(0.12, 0.35), span[1] - x)
        kind = rng.random()
        top = z + room * rng.uniform(0.6, 0.98)
        deep = front - rng.uniform(0.0, 0.05)
        if kind < 0.65:
            books = m.sheet(rng, "books", (0.5, top - z), (rng.uniform(0, 0.5), (z + top) / 2))
            parts.append(box(books, (x, deep - 0.18, z), (x + width, deep, top)))
        elif kind < 0.8:
            parts.append(box(m.painted(rng), (x, deep - 0.2, z), (x + width * 0.9, deep, top)))
        x += width + 0.01
    return parts


def cabinet(rng: Rng) -> Furniture:
    """A wardrobe or a sideboard: body, plinth, doors and handles."""
    tall = rng.random() < 0.5
    w = rng.uniform(0.9, 1.5)
    d, h = (0.56, rng.uniform(1.8, 2.1)) if tall else (0.45, rng.uniform(0.75, 1.0))
    body = m.wood(rng, upright=True) if rng.random() < 0.6 else m.painted(rng)
    front = body if rng.random() < 0.6 else m.painted(rng)
    handle, x, y = m.metal(rng), w / 2, d / 2
    parts = [
        box(body, (-x + 0.02, -y, 0), (x - 0.02, y - 0.06, 0.08)),
        box(body, (-x, -y, 0.08), (x, y - 0.02, h)),
    ]
    doors = 2 if w < 1.2 else 3
    step = w / doors
    for i in range(doors):
        a, b = -x + i * step + 0.008, -x + (i + 1) * step - 0.008
        parts.append(box(front, (a, y - 0.02, 0.1), (b, y, h - 0.02)))
        at = b - 0.06 if i % 2 == 0 else a + 0.04
        z = h * 0.5
        parts.append(box(handle, (at, y, z - 0.08), (at + 0.02, y + 0.025, z + 0.08)))
    return Furniture((w, d + 0.05, h), (Object("cabinet", tuple(parts)).placed(0, -0.025),))


def tv_stand(rng: Rng) -> Furniture:
    """A low cabinet with a television on it."""
    w, d, h = rng.uniform(1.2, 1.7), 0.42, rng.uniform(0.42, 0.55)
    body, front = m.wood(rng), m.painted(rng)
    x, y = w / 2, d / 2
    parts = [
        box(body, (-x, -y, 0.06), (x, y - 0.02, h)),
        box(body, (-x, -y, 0), (x, y - 0.08, 0.06)),
    ]
    for i in range(3):
        a = -x + i * w / 3 + 0.01
        parts.append(box(front, (a, y - 0.02, 0.08), (a + w / 3 - 0.02, y, h - 0.03)))
    stand = Object("cabinet", tuple(parts))
    screen = _television(rng, rng.uniform(0.85, min(1.25, w - 0.1)))
    top = float(max(part.vertices[:, 2].max() for part in screen.parts))
    return Furniture((w, d, h + top), (stand, screen.placed(0, -0.04, h)))


def _television(rng: Rng, width: float) -> Object:
    """A flat screen on a foot; half of them show a picture."""
    height, dark = width * 0.57, m.painted(rng, dark=True)
    x, low = width / 2, 0.07
    centre = (0.0, low + height / 2)
    if rng.random() < 0.5:
        shown = m.sheet(rng, m.pick(rng, "landscape", "abstract"), (width - 0.04, height), centre)
        screen = Material(
            texture=shown.texture,
            colours=shown.colours * 0.7,
            tile=shown.tile,
            offset=shown.offset,
            emission=0.6,
        )
    else:
        screen = Material(texture="plain", colours=np.full((3, 3), 0.012, np.float32))
    return Object(
        "tv",
        (
            box(dark, (-0.15, -0.09, 0), (0.15, 0.09, 0.015)),
            box(dark, (-0.03, -0.02, 0.015), (0.03, 0.02, low)),
            box(dark, (-x, -0.025, low), (x, 0.02, low + height)),
            box(screen, (-x + 0.02, 0.02, low + 0.02), (x - 0.02, 0.024, low + height - 0.02)),
        ),
    )


def desk_set(rng: Rng) -> Furniture:
    """A desk with a monitor, a few things on it and a chair drawn up to it."""
    w, d = rng.uniform(1.1, 1.5), 0.65
    board = m.painted(rng)
    desk = table(rng, w, d, 0.74, "desk")
    drawers = [box(board, (w / 2 - 0.42, -d / 2 + 0.06, 0.3), (w / 2 - 0.09, d / 2 - 0.08, 0.63))]
    drawers += [
        box(board, (w / 2 - 0.4, d / 2 - 0.08, z), (w / 2 - 0.11, d / 2 - 0.06, z + 0.14))
        for z in (0.32, 0.48)
    ]
    desk = Object("desk", desk.parts + tuple(drawers)).placed(0, -0.3)
    things = [
        _television(rng, 0.55).placed(rng.uniform(-0.15, 0.1), -0.42, 0.74),
        carton(rng, 0.22, 0.28, 0.08).placed(-w / 2 + 0.25, -0.16, 0.74, rng.normal(0, 0.1)),
    ]
    seat = chair(rng).objects[0].placed(rng.uniform(-0.2, 0), 0.33, 0, np.pi + rng.normal(0, 0.25))
    return Furniture((w, 1.3, 1.2), (desk, *things, seat))


def carton(rng: Rng, width: float, depth: float, height: float) -> Object:
    """A cardboard or gift box with tape over its lid."""
    tone = m.hsv(rng.uniform(0.07, 0.1), rng.uniform(0.35, 0.6), rng.uniform(0.55, 0.75))
    plain = Material(texture="plaster", colours=np.stack([tone, tone * 0.8, tone]), tile=(0.5, 0.5))
    skin = plain if rng.random() < 0.6 else m.fabric(rng, "checks", "stripes", "dots", tile=0.3)
    x, y, tape = width / 2, depth / 2, m.painted(rng)
    return Object(
        "box",
        (
            box(skin, (-x, -y, 0), (x, y, height)),
            box(tape, (-x - 0.002, -0.025, 0), (x + 0.002, 0.025, height + 0.002)),
        ),
    )


def boxes(rng: Rng) -> Furniture:
    """One or two boxes on top of each other."""
    w, d, h = (float(v) for v in rng.uniform((0.35, 0.3, 0.25), (0.6, 0.5, 0.5)))
    objects = [carton(rng, w, d, h)]
    if rng.random() < 0.5:
        upper = carton(rng, w * 0.7, d * 0.75, h * 0.6)
        objects.append(upper.placed(0.02, 0.0, h, rng.normal(0, 0.1)))
    return Furniture((w, d, h * 1.6), tuple(objects))


def plant(rng: Rng) -> Furniture:
    """A pot with a stem and leaning leaves."""
    pot, stem = m.painted(rng), m.wood(rng)
    green = m.hsv(rng.uniform(0.25, 0.36), 0.7, rng.uniform(0.35, 0.55))
    leaf = Material(texture="plain", colours=np.stack([green, green * 0.4, green]), tile=(0.2, 0.2))
    height = rng.uniform(0.8, 1.3)
    parts: list[Part] = [
        cylinder(pot, (0, 0, 0), 0.14, 0.3, top_radius=0.18, sides=18),
        cylinder(stem, (0, 0, 0.28), 0.02, height - 0.5, sides=8),
    ]
    for _ in range(26):
        a, z, reach = (
            rng.uniform(0, 2 * np.pi),
            rng.uniform(0.35, height - 0.2),
            rng.uniform(0.1, 0.2),
        )
        parts.append(blade(leaf, float(a), float(z), float(reach)))
    return Furniture((0.44, 0.44, height + 0.1), (Object("plant", tuple(parts)),))
