"""Ray casting and shading of a room: colour, z-depth and object ids of one view.

R rays, H rows, W columns. Lengths in metres, colours linear RGB until the last step.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from preprocessing.rooms.layout import Light, Room
from preprocessing.rooms.textures import SIDE, TEXTURE_INDEX, sample

# A 3x3 pattern of points on the shadow-casting lamp: neighbouring pixels test different ones and a
# 3x3 box over the result is the soft shadow of an area light, for one shadow ray a pixel.
LAMP_RADIUS = 0.12
EXPOSURE = 1.5


@dataclass(frozen=True, slots=True)
class View:
    """What a camera sees: rgb (H, W, 3) uint8, depth (H, W) float32 z in metres (0: nothing hit),
    part (H, W) int32 index of the mesh part."""

    rgb: np.ndarray
    depth: np.ndarray
    part: np.ndarray


@cache
def camera_rays(width: int, height: int, focal: float) -> np.ndarray:
    """(H, W, 3) float32 ray directions in the camera frame with z = 1; pixel centres at +0.5."""
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = (np.arange(height) + 0.5 - height / 2) / focal
    return np.stack(np.broadcast_arrays(x[None], y[:, None], 1.0), -1).astype(np.float32)


@cache
def _vignette(width: int, height: int) -> np.ndarray:
    """(H, W, 1) float32 fall-off of the lens, 12 % in the corners."""
    x = (np.arange(width) + 0.5) / width * 2 - 1
    y = (np.arange(height) + 0.5) / height * 2 - 1
    return (1 - 0.06 * (x[None] ** 2 + y[:, None] ** 2))[..., None].astype(np.float32)


class Renderer:
    """A room made ready for ray casting on one thread."""

    def __init__(self, room: Room) -> None:
        import open3d as o3d

        self._tensor: Any = o3d.core.Tensor
        self._scene: Any = o3d.t.geometry.RaycastingScene(nthreads=1)
        mesh = room.mesh
        self._scene.add_triangles(
            self._tensor(mesh.vertices), self._tensor(mesh.faces.astype(np.uint32))
        )
        self._room = room
        self._normals = mesh.normals
        self._uv_from_world = mesh.uv_from_world.reshape(-1, 8)
        self._texels_per_metre = SIDE * np.linalg.norm(mesh.uv_from_world[:, 0, :3], axis=-1)
        self._face_part = mesh.face_part
        materials = mesh.materials
        self._texture = np.array([TEXTURE_INDEX[m.texture] for m in materials], np.int32)
        self._palette = np.stack([m.colours for m in materials]).astype(np.float32).reshape(-1, 9)
        self._emission = np.array([m.emission for m in materials], np.float32)

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances, in units of each direction's length (inf: nothing hit), and faces hit (R,)."""
        rays = np.empty((len(directions), 6), np.float32)
        rays[:, :3], rays[:, 3:] = origin, directions
        hits = self._scene.cast_rays(self._tensor(rays), nthreads=1)
        faces = hits["primitive_ids"].numpy()
        distances = hits["t_hit"].numpy()
        return distances, np.where(np.isfinite(distances), faces, 0).astype(np.int32)

    def depth(self, world_from_camera: np.ndarray, rays_HW3: np.ndarray) -> np.ndarray:
        """(H, W) z-depth along camera rays whose z is 1, in metres; 0 where nothing is hit."""
        directions = rays_HW3.reshape(-1, 3) @ world_from_camera[:3, :3].T.astype(np.float32)
        distances, _ = self.cast(world_from_camera[:3, 3], directions)
        return np.where(np.isfinite(distances), distances, 0).reshape(rays_HW3.shape[:2])

    def render(self, world_from_camera: np.ndarray, width: int, height: int, focal: float) -> View:
        """One view; pixels on the edges of parts are the mean of three rays.

        Args:
            world_from_camera: (4, 4) pose, OpenCV axes.
            width: Pixels. height: Pixels.
            focal: Focal length in pixels; the principal point is the image's middle.
        """
        rotation = world_from_camera[:3, :3].astype(np.float32)
        origin = world_from_camera[:3, 3].astype(np.float32)
        rays = camera_rays(width, height, focal).reshape(-1, 3)
        directions = rays @ rotation.T
        distances, faces = self.cast(origin, directions)
        colour, lamp, above = self._shade(origin, directions, distances, faces, focal)
        rows, columns = np.divmod(np.arange(len(rays)), width)
        seen = self._in_sight(above, self._room.lights[0], (rows % 3) * 3 + columns % 3)
        lit = _box3(seen.reshape(height, width)).reshape(-1, 1)
        image = _tone(colour + lamp * lit)
        part = self._face_part[faces].reshape(height, width)

        edge = np.flatnonzero(_edges(part))
        shifts = np.array([[-3, -1, 0], [3, 1, 0]], np.float32) / (8 * focal)
        fine = (rays[edge] + shifts[:, None]).reshape(-1, 3) @ rotation.T
        colour, lamp, _ = self._shade(origin, fine, *self.cast(origin, fine), focal)
        smooth = _tone(colour + lamp * np.tile(lit[edge], (2, 1))).reshape(2, -1, 3)
        image[edge] = (image[edge] + smooth.sum(0)) / 3
        image = image.reshape(height, width, 3) * _vignette(width, height)
        rgb = (255 * np.sqrt(image) + 0.5).astype(np.uint8)
        depth = np.where(np.isfinite(distances), distances, 0).reshape(height, width)
        return View(rgb, depth.astype(np.float32), part)

    def _shade(
        self,
        origin: np.ndarray,
        directions: np.ndarray,
        distances: np.ndarray,
        faces: np.ndarray,
        focal: float,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Light of hit points: all but the pendant's, the pendant's when nothing is in its way, and
        places just above the surfaces to look for the pendant from; each (R, 3)."""
        distances = np.where(np.isfinite(distances), distances, 0).astype(np.float32)
        points = origin + directions * distances[:, None]
        normals = self._normals[faces]
        facing = np.einsum("rc,rc->r", normals, directions)
        normals = normals * -np.sign(facing)[:, None]
        part = self._face_part[faces]
        albedo = self._albedo(points, faces, part, distances, facing, focal)

        room = self._room
        sky = (0.8 + 0.2 * normals[:, 2]) * _corner_shade(points, normals, room.size)
        light = sky[:, None] * np.array(room.ambient, np.float32)
        light += self._emission[part][:, None]
        for extra in room.lights[1:]:
            light += _lambert(points, normals, extra)
        lamp = _lambert(points, normals, room.lights[0])
        return light * albedo, lamp * albedo, points + normals * np.float32(2e-3)

    def _albedo(
        self,
        points: np.ndarray,
        faces: np.ndarray,
        part: np.ndarray,
        distances: np.ndarray,
        facing: np.ndarray,
        focal: float,
    ) -> np.ndarray:
        """(R, 3) surface colours."""
        rows = self._uv_from_world[faces]
        u = np.einsum("rc,rc->r", rows[:, :3], points) + rows[:, 3]
        v = np.einsum("rc,rc->r", rows[:, 4:7], points) + rows[:, 7]
        slant = np.sqrt(np.maximum(np.abs(facing), 0.05))
        texels = distances * self._texels_per_metre[faces] / (focal * slant)
        weights = sample(self._texture[part], u, v, texels)
        palette = self._palette[part]
        base, second, accent = palette[:, :3], palette[:, 3:6], palette[:, 6:]
        colour = base + (second - base) * weights[:, :1]
        colour += (accent - colour) * weights[:, 1:2]
        return colour * weights[:, 2:]

    def _in_sight(self, points: np.ndarray, light: Light, phase: np.ndarray) -> np.ndarray:
        """(R,) float32, 1 where nothing stands between a point and its point on the lamp."""
        row, column = np.divmod(np.arange(9), 3)
        spots = np.stack([row - 1, column - 1, np.zeros(9)], -1) * LAMP_RADIUS
        target = (np.array(light.position) + spots).astype(np.float32)[phase]
        rays = np.concatenate([points, target - points], -1)
        tensor = self._tensor(rays)
        hidden = self._scene.test_occlusions(tensor, tnear=0.0, tfar=0.98, nthreads=1)
        return 1.0 - hidden.numpy().astype(np.float32)


def _lambert(points: np.ndarray, normals: np.ndarray, light: Light) -> np.ndarray:
    """(R, 3) light of a small lamp; softened within half a metre of it."""
    towards = np.array(light.position, np.float32) - points
    square = np.einsum("rc,rc->r", towards, towards)
    cosine = np.maximum(np.einsum("rc,rc->r", towards, normals), 0) / np.sqrt(square + 1e-6)
    return (cosine / (0.8 + 0.55 * square))[:, None] * np.array(light.colour, np.float32)


def _corner_shade(
    points: np.ndarray, normals: np.ndarray, size: tuple[float, float, float]
) -> np.ndarray:
    """(R,) share of ambient light left near walls, floor and ceiling that a surface faces along."""
    shade = np.ones(len(points), np.float32)
    for axis in range(3):
        across = 1 - np.abs(normals[:, axis])
        for distance in (points[:, axis], size[axis] - points[:, axis]):
            shade *= 1 - 0.42 * across / (1 + (distance * 4) ** 2)
    return shade


def _box3(image: np.ndarray) -> np.ndarray:
    """Mean of 3x3 pixels, borders repeated."""
    padded = np.pad(image, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) * np.float32(1 / 9)


def _edges(part: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels with a horizontal or vertical neighbour of another part."""
    edge = np.zeros(part.shape, bool)
    across, down = part[:, 1:] != part[:, :-1], part[1:] != part[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _tone(linear: np.ndarray) -> np.ndarray:
    """Linear light to [0, 1): bright parts are compressed, not clipped."""
    return 1 - np.exp(-EXPOSURE * linear)
