"""Pieces of furniture that stand on the floor, each built of boxes and cylinders.

Every builder draws its own proportions and materials. Frame: see mesh.py (y is the front).
"""

from dataclasses import replace

import numpy as np

from preprocessing.rooms import materials as m
from preprocessing.rooms.materials import Rng
from preprocessing.rooms.mesh import Furniture, Material, Object, Part, Vec3, blade, box, cylinder


def _legs(material: Material, size: Vec3, thick: float, inset: float = 0.03) -> list[Part]:
    """Four square legs under a top of this width, depth and height."""
    x, y = size[0] / 2 - inset - thick, size[1] / 2 - inset - thick
    corners = [(sx * x, sy * y) for sx in (-1, 1) for sy in (-1, 1)]
    t, upright = thick, replace(material, turned=True)
    return [box(upright, (a - t, b - t, 0), (a + t, b + t, size[2])) for a, b in corners]


def chair(rng: Rng) -> Furniture:
    """A chair with legs, seat and back; the back is a board or three rails."""
    w, d, seat, top = rng.uniform(0.42, 0.5), 0.45, rng.uniform(0.43, 0.48), rng.uniform(0.85, 1.0)
    frame = m.wood(rng) if rng.random() < 0.6 else m.metal(rng)
    cover = m.fabric(rng) if rng.random() < 0.6 else frame
    parts = _legs(frame, (w, d, seat - 0.05), 0.02)
    parts.append(box(cover, (-w / 2, -d / 2, seat - 0.05), (w / 2, d / 2, seat), taper=0.01))
    back, post = -d / 2, replace(frame, turned=True)
    for side in (-1, 1):
        x = side * (w / 2 - 0.02)
        parts.append(box(post, (x - 0.02, back, seat), (x + 0.02, back + 0.03, top), lean=0.07))
    rails = [(seat + 0.12, top)]
    if rng.random() < 0.5:
        rails = [(top - under, top - under + 0.07) for under in (0.08, 0.22, 0.36)]
    for low, high in rails:
        y = back - 0.07 * (low - seat) / (top - seat)
        lean = 0.07 * (high - low) / (top - seat)
        parts.append(
            box(cover, (-w / 2 + 0.03, y, low), (w / 2 - 0.03, y + 0.025, high), lean=lean)
        )
    return Furniture((w, d + 0.08, top), (Object("chair", tuple(parts)).placed(0, 0.04),))


def stool(rng: Rng) -> Furniture:
    """A round stool: a seat on a stem and a foot plate."""
    seat, radius = rng.uniform(0.45, 0.65), rng.uniform(0.16, 0.2)
    frame = m.metal(rng)
    parts = (
        cylinder(frame, (0, 0, 0), radius, 0.03, sides=18),
        cylinder(frame, (0, 0, 0.03), 0.025, seat - 0.08),
        cylinder(m.fabric(rng), (0, 0, seat - 0.06), radius, 0.06, sides=18),
    )
    return Furniture((2 * radius, 2 * radius, seat), (Object("chair", parts),))


def _seat(rng: Rng, category: str, width: float, cushions: int) -> Object:
    """An upholstered seat with arms, back and loose cushions: armchair or couch."""
    d, cover = rng.uniform(0.8, 0.92), m.fabric(rng, tile=0.5)
    soft = m.fabric(rng) if rng.random() < 0.4 else cover
    foot, arm, back = m.wood(rng), rng.uniform(0.14, 0.2), rng.uniform(0.75, 0.88)
    w, y = width / 2, d / 2
    parts = _legs(foot, (width, d, 0.1), 0.03)
    parts += [
        box(cover, (-w, -y, 0.1), (w, y, 0.28)),
        box(cover, (-w, -y, 0.28), (w, -y + 0.2, back), taper=0.02),
        box(cover, (-w, -y + 0.2, 0.28), (-w + arm, y, 0.58), taper=0.015),
        box(cover, (w - arm, -y + 0.2, 0.28), (w, y, 0.58), taper=0.015),
    ]
    inner = (width - 2 * arm) / cushions
    for i in range(cushions):
        x = -w + arm + i * inner
        low, high = (x + 0.01, -y + 0.2, 0.28), (x + inner - 0.01, y + 0.02, 0.44)
        parts.append(box(soft, low, high, taper=0.015))
        low, high = (x + 0.03, -y + 0.2, 0.44), (x + inner - 0.03, -y + 0.38, back - 0.04)
        parts.append(box(soft, low, high, lean=0.1, taper=0.02))
    return Object(category, tuple(parts))


def armchair(rng: Rng) -> Furniture:
    """A wide upholstered chair."""
    return Furniture((0.9, 0.96, 0.88), (_seat(rng, "chair", 0.9, 1),))


def _pillow(rng: Rng, width: float, height: float) -> Object:
    half = width / 2
    part = box(m.fabric(rng), (-half, -0.07, 0), (half, 0.07, height), lean=0.1, taper=0.03)
    return Object("pillow", (part,))


def rug(rng: Rng, width: float, depth: float) -> Object:
    """A patterned rug, one centimetre thick."""
    cover = m.sheet(rng, "rug", (width, depth))
    return Object("rug", (box(cover, (-width / 2, -depth / 2, 0), (width / 2, depth / 2, 0.01)),))


def table(rng: Rng, width: float, depth: float, height: float, category: str = "table") -> Object:
    """Four legs, an apron and a top."""
    top = m.wood(rng) if rng.random() < 0.75 else m.painted(rng)
    legs = top if rng.random() < 0.6 else m.metal(rng)
    x, y = width / 2, depth / 2
    parts = _legs(legs, (width, depth, height - 0.03), 0.03, 0.02)
    parts.append(
        box(top, (-x + 0.06, -y + 0.06, height - 0.11), (x - 0.06, y - 0.06, height - 0.03))
    )
    parts.append(box(top, (-x, -y, height - 0.03), (x, y, height)))
    return Object(category, tuple(parts))


def _vase(rng: Rng) -> Object:
    """A pot with leaves, small enough for a table."""
    green = m.hsv(rng.uniform(0.22, 0.36), 0.6, 0.5)
    leaf = Material(texture="plain", colours=np.stack([green, green * 0.5, green]), tile=(0.1, 0.1))
    parts = [cylinder(m.painted(rng), (0, 0, 0), 0.05, 0.15, top_radius=0.07, sides=12)]
    for a in 2 * np.pi * (np.arange(7) + rng.random()) / 7:
        parts.append(blade(leaf, float(a), 0.13, float(rng.uniform(0.1, 0.16))))
    return Object("plant", tuple(parts))


def dining_set(rng: Rng) -> Furniture:
    """A table with two to four chairs around it, sometimes on a rug."""
    w, d = rng.uniform(1.1, 1.6), rng.uniform(0.75, 0.95)
    objects = [table(rng, w, d, 0.75), _vase(rng).placed(rng.uniform(-0.2, 0.2), 0, 0.75)]
    seed = int(rng.integers(2**31))  # the chairs of a set are alike
    places = [
        (-w / 4, d / 2, np.pi),
        (w / 4, -d / 2, 0),
        (w / 4, d / 2, np.pi),
        (-w / 4, -d / 2, 0),
    ]
    for x, y, yaw in places[: int(rng.integers(2, 5))]:
        one = chair(np.random.default_rng(seed)).objects[0]
        out = np.sign(y) * rng.uniform(0.22, 0.34)
        objects.append(one.placed(x + rng.normal(0, 0.03), y + out, 0, yaw + rng.normal(0, 0.07)))
    size = (w + 0.3, d + 1.3, 1.0)
    if rng.random() < 0.5:
        objects.append(rug(rng, size[0] + 0.1, size[1]))
    return Furniture(size, tuple(objects))


def sofa_set(rng: Rng) -> Furniture:
    """A couch with pillows and a coffee table before it, usually on a rug."""
    w = rng.uniform(1.5, 2.2)
    size = (w, 2.1, 0.9)
    couch = _seat(rng, "couch", w, 2 if w < 1.8 else 3).placed(0, -0.58)
    objects = [couch]
    for side in (-1, 1):
        pillow = _pillow(rng, 0.4, 0.38)
        objects.append(pillow.placed(side * (w / 2 - 0.45), -0.5, 0.44, side * 0.15))
    low = table(rng, rng.uniform(0.8, 1.1), 0.55, rng.uniform(0.36, 0.46))
    height = float(low.parts[-1].vertices[:, 2].max())
    objects += [low.placed(0, 0.7), _vase(rng).placed(rng.uniform(-0.2, 0.2), 0.7, height)]
    if rng.random() < 0.7:
        objects.append(rug(rng, w, 1.3).placed(0, 0.4))
    return Furniture(size, tuple(objects))


def bed(rng: Rng) -> Furniture:
    """A bed with headboard, mattress, blanket and one or two pillows, head to the wall."""
    w, d, frame = rng.choice([1.0, 1.4, 1.6]), 2.05, m.wood(rng)
    x, y, head = w / 2, d / 2, rng.uniform(0.85, 1.15)
    blanket = m.fabric(rng, tile=0.7)
    linen = m.fabric(rng, "weave", "stripes")
    parts = [
        *_legs(frame, (w, d, 0.15), 0.04),
        box(frame, (-x, -y, 0.0), (x, -y + 0.06, head)),
        box(frame, (-x, -y + 0.06, 0.15), (x, y, 0.3)),
        box(linen, (-x + 0.02, -y + 0.07, 0.3), (x - 0.02, y - 0.02, 0.5), taper=0.02),
        box(blanket, (-x - 0.01, -0.3, 0.24), (x + 0.01, y + 0.005, 0.535), taper=0.01),
    ]
    places = (0.0,) if w < 1.2 else (-w / 4, w / 4)
    pillows = [_pillow(rng, 0.55, 0.34).placed(p, -y + 0.32, 0.5) for p in places]
    return Furniture((w, d, head), (Object("bed", tuple(parts)), *pillows))


def bed_set(rng: Rng) -> Furniture:
    """A bed between two night stands, one with a lamp."""
    base = bed(rng)
    w, d, head = base.size
    objects, half = list(base.objects), w / 2 + 0.29
    for side, lit in ((-1, True), (1, bool(rng.random() < 0.5))):
        objects.append(_nightstand(rng).placed(side * half, -d / 2 + 0.22))
        if lit:
            objects.append(_table_lamp(rng).placed(side * half, -d / 2 + 0.22, 0.52))
    return Furniture((w + 1.06, d, max(head, 1.0)), tuple(objects))


def _nightstand(rng: Rng) -> Object:
    board, knob = m.wood(rng), m.metal(rng)
    parts = [
        box(board, (-0.22, -0.2, 0.08), (0.22, 0.18, 0.52)),
        *_legs(board, (0.44, 0.4, 0.08), 0.02),
    ]
    for z in (0.11, 0.32):
        parts.append(box(board, (-0.2, 0.18, z), (0.2, 0.2, z + 0.18)))
        parts.append(box(knob, (-0.04, 0.2, z + 0.08), (0.04, 0.215, z + 0.1)))
    return Object("nightstand", tuple(parts))


def _shade(rng: Rng) -> Material:
    return m.glowing(m.hsv(rng.uniform(0.06, 0.14), rng.uniform(0.15, 0.5), 0.95), 1.3)


def _table_lamp(rng: Rng) -> Object:
    foot = m.painted(rng)
    return Object(
        "lamp",
        (
            cylinder(foot, (0, 0, 0), 0.08, 0.22, top_radius=0.03),
            cylinder(_shade(rng), (0, 0, 0.22), 0.15, 0.2, top_radius=0.1, sides=18),
        ),
    )


def floor_lamp(rng: Rng) -> Furniture:
    """A foot, a stand and a shade."""
    height, foot = rng.uniform(1.4, 1.65), m.metal(rng)
    parts = (
        cylinder(foot, (0, 0, 0), 0.14, 0.03, sides=18),
        cylinder(foot, (0, 0, 0.03), 0.015, height - 0.28, sides=8),
        cylinder(_shade(rng), (0, 0, height - 0.28), 0.2, 0.28, top_radius=0.14, sides=18),
    )
    return Furniture((0.42, 0.42, height), (Object("lamp", parts),))
