"""Solids, the objects made of them, and the one triangle mesh a room becomes.

Object-local frame: metres, z up, the origin on the floor in the middle of the footprint, x along
the wall the object would stand at, y to its front. World frame: z up, floor at 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Vec2 = tuple[float, float]
Vec3 = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A texture in three colours.

    Attributes:
        texture: Name in `textures.TEXTURES`.
        colours: (3, 3) linear RGB: base, second colour, accent.
        tile: Metres that one repeat of the texture covers, along its u and v.
        offset: Place of the object's origin inside the texture, in repeats.
        turned: Exchange u and v (the grain of a board that runs upright).
        emission: Light given off, as a multiple of the surface colour.
    """

    texture: str
    colours: np.ndarray
    tile: Vec2 = (1.0, 1.0)
    offset: Vec2 = (0.0, 0.0)
    turned: bool = False
    emission: float = 0.0


@dataclass(frozen=True, slots=True)
class Part:
    """One solid of an object: vertices (n, 3) float32 local metres, faces (m, 3) int32."""

    vertices: np.ndarray
    faces: np.ndarray
    material: Material


@dataclass(frozen=True, slots=True)
class Object:
    """Parts of one category that belong together, and where they stand.

    `origin` is in metres in the frame of whatever holds the object, `yaw` in radians about z.
    """

    category: str
    parts: tuple[Part, ...]
    origin: Vec3 = (0.0, 0.0, 0.0)
    yaw: float = 0.0

    def placed(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> "Object":
        """The object as seen from a parent frame in which its present frame stands so."""
        c, s = np.cos(yaw), np.sin(yaw)
        ox, oy, oz = self.origin
        origin = (float(x + c * ox - s * oy), float(y + s * ox + c * oy), z + oz)
        return replace(self, origin=origin, yaw=self.yaw + yaw)


@dataclass(frozen=True, slots=True)
class Furniture:
    """Objects that are placed together: `size` is their common width, depth and height, metres."""

    size: Vec3
    objects: tuple[Object, ...]


_BOX_FACES = np.array(
    [
        [0, 2, 1, 1, 2, 3, 4, 5, 6, 5, 7, 6, 0, 1, 4, 1, 5, 4],
        [2, 6, 3, 3, 6, 7, 0, 4, 2, 2, 4, 6, 1, 3, 5, 3, 7, 5],
    ],
    np.int32,
).reshape(12, 3)


def box(
    material: Material,
    low: Vec3,
    high: Vec3,
    *,
    lean: float = 0.0,
    taper: float = 0.0,
) -> Part:
    """A box between two corners; its top is moved back by `lean` and in by `taper` metres."""
    x, y, z = (np.array(pair) for pair in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(z, y, x, indexing="ij"), -1).reshape(8, 3)[:, ::-1].copy()
    top = grid[4:]
    top[:, 1] -= lean
    centre = top[:, :2].mean(0)
    top[:, :2] += np.sign(centre - top[:, :2]) * taper
    return Part(grid.astype(np.float32), _BOX_FACES, material)


def cylinder(
    material: Material,
    base: Vec3,
    radius: float,
    height: float,
    *,
    top_radius: float | None = None,
    sides: int = 14,
) -> Part:
    """An upright, closed cylinder, or a cone cut off at `top_radius`."""
    angle = np.arange(sides) * (2 * np.pi / sides)
    ring = np.stack([np.cos(angle), np.sin(angle)], -1)
    top = radius if top_radius is None else top_radius
    points = np.zeros((2 * sides + 2, 3))
    points[:sides, :2], points[sides:-2, :2] = ring * radius, ring * top
    points[sides:-2, 2] = points[-1, 2] = height
    i = np.arange(sides)
    j = (i + 1) % sides
    faces = [(i, j, i + sides), (j, j + sides, i + sides)]
    faces += [(i * 0 + 2 * sides, j, i), (i * 0 + 2 * sides + 1, i + sides, j + sides)]
    triangles = np.concatenate([np.stack(face, -1) for face in faces])
    return Part((points + np.array(base)).astype(np.float32), triangles.astype(np.int32), material)


def blade(material: Material, angle: float, z: float, reach: float) -> Part:
    """A flat blade from the z axis at height `z`, going out and up in the direction of `angle`."""
    out, side = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    tip, middle, broad = out * reach, out * reach * 0.6, side * 0.045
    points = np.zeros((4, 3), np.float32)
    points[:, 2] = z, z + 0.9 * reach, z + 0.9 * reach, z + 1.1 * reach
    points[1, :2], points[2, :2], points[3, :2] = middle + broad, middle - broad, tip
    return Part(points, np.array([[0, 1, 2], [1, 3, 2]], np.int32), material)


@dataclass(frozen=True, slots=True)
class RoomMesh:
    """All triangles of a room. N vertices, F faces, P parts, O objects; world frame, metres.

    Attributes:
        vertices: (N, 3) float32.
        faces: (F, 3) int32.
        normals: (F, 3) float32, unit length, of either sign.
        uv_from_world: (F, 2, 4) float32; texture u, v of a world point (x, y, z, 1), in repeats.
        face_part: (F,) int32.
        vertex_part: (N,) int32.
        materials: One a part.
        part_object: (P,) int32.
        categories: One a object: its raw category.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    uv_from_world: np.ndarray
    face_part: np.ndarray
    vertex_part: np.ndarray
    materials: tuple[Material, ...]
    part_object: np.ndarray
    categories: tuple[str, ...]


def _uv_from_world(local_normals: np.ndarray, obj: Object, material: Material) -> np.ndarray:
    """(F, 2, 4) map to texture repeats: the two local axes that lie nearest to each face."""
    axes = np.array([[1, 2], [0, 2], [0, 1]])[np.abs(local_normals).argmax(-1)]
    if material.turned:
        axes = axes[:, ::-1]
    c, s = np.cos(obj.yaw), np.sin(obj.yaw)
    local_from_world = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    rows = local_from_world[axes] / np.array(material.tile)[None, :, None]
    shift = np.array(material.offset) - rows @ np.array(obj.origin)
    return np.concatenate([rows, shift[..., None]], -1)


def assemble(objects: Sequence[Object]) -> RoomMesh:
    """Put placed objects into one mesh, in the order given."""
    vertices, faces, normals, uv, face_part, vertex_part = [], [], [], [], [], []
    materials: list[Material] = []
    part_object: list[int] = []
    count = 0
    for index, obj in enumerate(objects):
        c, s = np.cos(obj.yaw), np.sin(obj.yaw)
        world_from_local = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        for part in obj.parts:
            corners = part.vertices[part.faces]
            normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
            vertices.append(part.vertices @ world_from_local.T + np.array(obj.origin))
            faces.append(part.faces + count)
            normals.append(normal @ world_from_local.T)
            uv.append(_uv_from_world(normal, obj, part.material))
            face_part.append(np.full(len(part.faces), len(materials)))
            vertex_part.append(np.full(len(part.vertices), len(materials)))
            materials.append(part.material)
            part_object.append(index)
            count += len(part.vertices)
    return RoomMesh(
        vertices=np.concatenate(vertices).astype(np.float32),
        faces=np.concatenate(faces).astype(np.int32),
        normals=np.concatenate(normals).astype(np.float32),
        uv_from_world=np.concatenate(uv).astype(np.float32),
        face_part=np.concatenate(face_part).astype(np.int32),
        vertex_part=np.concatenate(vertex_part).astype(np.int32),
        materials=tuple(materials),
        part_object=np.array(part_object, np.int32),
        categories=tuple(obj.category for obj in objects),
    )
