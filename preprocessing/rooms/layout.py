"""Where things stand: room sizes, what a kind of room holds, and placing it without collisions.

World frame: z up, floor at 0, the room is [0, width] x [0, depth] x [0, height] metres.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from preprocessing.rooms import fixtures, furniture, storage_furniture
from preprocessing.rooms.materials import Rng
from preprocessing.rooms.mesh import Furniture, Object, RoomMesh, Vec3, assemble

Builder = Callable[[Rng], Furniture]

# What each kind of room has, in the order of placing, and what may fill it up.
PROGRAMS: dict[str, tuple[Builder, ...]] = {
    "Living room / Lounge": (
        furniture.sofa_set,
        storage_furniture.tv_stand,
        storage_furniture.bookshelf,
        furniture.armchair,
        furniture.floor_lamp,
    ),
    "Bedroom / Hotel": (
        furniture.bed_set,
        storage_furniture.cabinet,
        storage_furniture.desk_set,
        furniture.floor_lamp,
        storage_furniture.boxes,
    ),
    "Office": (
        storage_furniture.desk_set,
        storage_furniture.desk_set,
        storage_furniture.bookshelf,
        storage_furniture.cabinet,
        storage_furniture.boxes,
    ),
    "Dining Room": (
        furniture.dining_set,
        storage_furniture.cabinet,
        storage_furniture.bookshelf,
        storage_furniture.plant,
        furniture.stool,
    ),
}
EXTRAS: tuple[Builder, ...] = (
    storage_furniture.bookshelf,
    storage_furniture.cabinet,
    furniture.armchair,
    furniture.chair,
    furniture.stool,
    furniture.floor_lamp,
    storage_furniture.plant,
    storage_furniture.boxes,
    storage_furniture.tv_stand,
)
FREE_STANDING = (furniture.dining_set,)
MAX_OBJECTS = 14
FIXTURE_DEPTH = 0.2  # metres that sills, curtains and open space before pictures take


@dataclass(frozen=True, slots=True)
class Light:
    """A light: position in metres, linear RGB intensity at about a metre."""

    position: Vec3
    colour: Vec3


@dataclass(frozen=True, slots=True)
class Room:
    """A furnished room.

    Attributes:
        size: Width, depth, height in metres.
        kind: ScanNet's scene type.
        mesh: All its triangles.
        lights: The first one, under the ceiling, casts shadows.
        ambient: Linear RGB of the light from everywhere.
        obstacles: (n, 2, 3) low and high corners of what a camera must stay out of, metres.
    """

    size: Vec3
    kind: str
    mesh: RoomMesh
    lights: tuple[Light, ...]
    ambient: Vec3
    obstacles: np.ndarray


@dataclass(slots=True)
class _Plan:
    """A room while it is being furnished.

    `taken` are floor rectangles (x0, y0, x1, y1); `on_wall[k]` rectangles (s0, z0, s1, z1) along
    wall k, counted from its left end as seen from inside, to the right in the wall's own x.
    """

    size: Vec3
    objects: list[Object] = field(default_factory=list)
    taken: list[tuple[float, ...]] = field(default_factory=list)
    on_wall: tuple[list[tuple[float, ...]], ...] = field(default_factory=lambda: ([], [], [], []))

    def wall(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
        """Start corner, direction along, direction inward, length and yaw of wall k."""
        w, d, _ = self.size
        start = np.array([(0.0, 0.0), (w, 0.0), (w, d), (0.0, d)][k])
        yaw = k * np.pi / 2
        along = np.array([np.cos(yaw), np.sin(yaw)])
        return start, along, np.array([-along[1], along[0]]), (w, d, w, d)[k], yaw

    def patches(
        self, rectangle: tuple[float, ...], height: float
    ) -> list[tuple[int, tuple[float, ...]]]:
        """Wall and rectangle on it, for every wall that a thing on this floor area hides."""
        corners = np.array(rectangle).reshape(2, 2)
        hidden = []
        for k in range(4):
            start, along, inward, _, _ = self.wall(k)
            s, away = (corners - start) @ along, (corners - start) @ inward
            if away.min() < FIXTURE_DEPTH:
                hidden.append((k, (float(s.min()), 0.0, float(s.max()), height)))
        return hidden


def _clear(rectangle: tuple[float, ...], others: list[tuple[float, ...]], gap: float) -> bool:
    a0, b0, a1, b1 = rectangle
    return all(
        a1 + gap <= c0 or c1 + gap <= a0 or b1 + gap <= d0 or d1 + gap <= b0
        for c0, d0, c1, d1 in others
    )


def _rectangle(centre: np.ndarray, size: Vec3, turned: bool) -> tuple[float, ...]:
    half = np.array([size[1], size[0]] if turned else [size[0], size[1]]) / 2
    return (*(centre - half).tolist(), *(centre + half).tolist())


def _hang(rng: Rng, plan: _Plan, item: Furniture, low: float, floor_space: float) -> bool:
    """Put a fixture on a wall where its part above `low` metres meets nothing.

    `floor_space` is the depth in metres to be kept clear before it (doors).
    """
    for _ in range(30):
        k = int(rng.integers(4))
        start, along, inward, length, yaw = plan.wall(k)
        half = item.size[0] / 2
        if length < 2 * half + 0.3:
            continue
        s = rng.uniform(half + 0.12, length - half - 0.12)
        patch = (s - half, low, s + half, item.size[2])
        if not _clear(patch, plan.on_wall[k], 0.08):
            continue
        centre = start + along * s
        if floor_space:
            before = _rectangle(
                centre + inward * floor_space / 2, (2 * half, floor_space, 0), k % 2 == 1
            )
            plan.taken.append(before)
        plan.on_wall[k].append(patch)
        plan.objects += [o.placed(float(centre[0]), float(centre[1]), 0, yaw) for o in item.objects]
        return True
    return False


def _stand(rng: Rng, plan: _Plan, item: Furniture, free: bool) -> bool:
    """Put furniture against a wall, or free in the room; False when there is no place for it."""
    w, d, height = item.size
    for _ in range(80):
        k = int(rng.integers(4))
        start, along, inward, length, yaw = plan.wall(k)
        room_deep = plan.size[1] if k % 2 == 0 else plan.size[0]
        if length < w + 0.1 or room_deep < d + 0.1:
            continue
        s = rng.uniform(w / 2 + 0.05, length - w / 2 - 0.05)
        low = d / 2 + 0.03
        away = low if not free else rng.uniform(low, room_deep - d / 2 - 0.03)
        centre = start + along * s + inward * away
        rectangle = _rectangle(centre, item.size, k % 2 == 1)
        if not _clear(rectangle, plan.taken, 0.08):
            continue
        patches = plan.patches(rectangle, height)
        if not all(_clear(patch, plan.on_wall[j], 0.02) for j, patch in patches):
            continue
        plan.taken.append(rectangle)
        for j, patch in patches:
            plan.on_wall[j].append(patch)
        x, y = float(centre[0]), float(centre[1])
        plan.objects += [o.placed(x, y, 0, yaw) for o in item.objects]
        return True
    return False


def _lights(rng: Rng, plan: _Plan) -> tuple[Light, ...]:
    """A pendant that casts shadows, daylight from a window, and the first other lamp."""
    w, d, h = plan.size
    x, y = w * rng.uniform(0.42, 0.58), d * rng.uniform(0.42, 0.58)
    plan.objects.append(fixtures.ceiling_lamp(rng, h).placed(x, y))
    power = float(np.clip(w * d / 16, 0.6, 1.7)) * rng.uniform(0.85, 1.1)
    below = fixtures.lamp_height(h) - 0.06
    lights = [Light((x, y, below), (2.3 * power, 2.05 * power, 1.7 * power))]
    for obj in plan.objects:
        if obj.category == "window":
            inward = np.array([-np.sin(obj.yaw), np.cos(obj.yaw)]) * 0.45
            place = (obj.origin[0] + float(inward[0]), obj.origin[1] + float(inward[1]), 1.6)
            lights.append(Light(place, (0.75, 0.9, 1.1)))
            break
    for obj in plan.objects[:-1]:
        if obj.category == "lamp":
            tip = float(max(part.vertices[:, 2].max() for part in obj.parts))
            place = (obj.origin[0], obj.origin[1], obj.origin[2] + tip + 0.05)
            lights.append(Light(place, (0.55, 0.42, 0.26)))
            break
    return tuple(lights)


def _obstacles(objects: list[Object]) -> np.ndarray:
    """Corner pairs of the world boxes around everything but the shell, rugs and wall fixtures."""
    corners = []
    for obj in objects:
        if obj.category in ("wall", "floor", "ceiling", "rug", "picture", "door"):
            continue
        c, s = np.cos(obj.yaw), np.sin(obj.yaw)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        points = np.concatenate([part.vertices for part in obj.parts]) @ turn.T
        points = points + np.array(obj.origin)
        corners.append((points.min(0), points.max(0)))
    return np.array(corners)


def furnish(rng: Rng) -> Room:
    """Draw a room: 3-8 m on a side, 2.4-3.1 m high, with 6-14 objects on its floor."""
    w, d = (float(v) for v in rng.uniform(3.2, 5.4, 2))
    if rng.random() < 0.15:
        w = float(rng.uniform(5.4, 8.0))
    plan = _Plan((w, d, float(rng.uniform(2.4, 3.1))))
    plan.objects += fixtures.shell(rng, *plan.size)
    _hang(rng, plan, fixtures.door(rng), 0.0, 0.9)
    for _ in range(int(rng.integers(1, 4))):
        _hang(rng, plan, fixtures.window(rng, plan.size[2]), 0.8, 0.0)
    kind = list(PROGRAMS)[int(rng.integers(len(PROGRAMS)))]
    standing, fixed = 0, len(plan.objects)
    wanted = int(np.clip(0.7 * w * d, 8, MAX_OBJECTS))
    extras = [EXTRAS[i] for i in rng.permutation(len(EXTRAS))]
    for build in (*PROGRAMS[kind], *extras, *extras):
        item = build(rng)
        if standing >= wanted or standing + len(item.objects) > MAX_OBJECTS:
            continue
        _stand(rng, plan, item, build in FREE_STANDING)
        standing = len(plan.objects) - fixed
    for _ in range(int(rng.integers(3, 7))):
        _hang(rng, plan, fixtures.picture(rng), 0.6, 0.0)
    lights = _lights(rng, plan)
    ambient = rng.uniform(0.2, 0.28) * np.array([1.0, 1.0, 1.02])
    return Room(
        size=plan.size,
        kind=kind,
        mesh=assemble(plan.objects),
        lights=lights,
        ambient=(float(ambient[0]), float(ambient[1]), float(ambient[2])),
        obstacles=_obstacles(plan.objects),
    )
