"""Hand-held camera paths: arcs around a room looking in, pans from a place, walks through.

Poses are world_from_camera (4, 4), OpenCV axes (x right, y down, z forward), world z up, metres.
"""

from dataclasses import dataclass

import numpy as np

from preprocessing.rooms.layout import Room
from preprocessing.rooms.materials import Rng
from preprocessing.rooms.render import Renderer, camera_rays
from spa3r.errors import SceneError

PROBE_WIDTH, PROBE_HEIGHT = 32, 24  # images that only decide whether a path will do
MIN_MEDIAN_DEPTH = 0.9
MIN_OVERLAP = 0.6
CLEARANCE = 0.12  # metres between a camera and any object
PROPOSALS = 400


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Poses (frames, 4, 4) float64 and the horizontal field of view in radians."""

    world_from_camera: np.ndarray
    field_of_view: float


def look(position: np.ndarray, yaw: float, pitch: float, roll: float) -> np.ndarray:
    """World_from_camera of a camera that looks along `yaw` (about z, from x), `pitch` down."""
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([c * right + s * down, c * down - s * right, forward], -1)
    pose[:3, 3] = position
    return pose


def _sway(rng: Rng, frames: int, amplitude: float) -> np.ndarray:
    """(frames,) smooth unrest of a hand: three slow sines and a little tremor."""
    t = np.arange(frames)
    total = rng.normal(0, 0.15, frames)
    for period in (5.0, 9.0, 17.0):
        total += np.sin(2 * np.pi * (t / (period * rng.uniform(0.8, 1.2)) + rng.random()))
    return amplitude * total / 2


def _arc(rng: Rng, room: Room, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Around the middle on an ellipse, looking across it. Positions (F, 2) and yaws (F,)."""
    middle = np.array(room.size[:2]) / 2
    radii = middle * rng.uniform(0.4, 0.78, 2)
    step = rng.uniform(0.14, 0.23) * rng.choice([-1, 1])
    angle = rng.uniform(0, 2 * np.pi) + step * np.arange(frames)
    position = middle + radii * np.stack([np.cos(angle), np.sin(angle)], -1)
    target = middle + rng.uniform(-0.25, 0.25, 2) * middle - 0.3 * (position - middle)
    inward = target - position
    return position, np.arctan2(inward[:, 1], inward[:, 0])


def _pan(rng: Rng, room: Room, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Turning on the spot, the arms describing a small circle."""
    middle = np.array(room.size[:2]) / 2
    step = rng.uniform(0.15, 0.25) * rng.choice([-1, 1])
    yaw = rng.uniform(0, 2 * np.pi) + step * np.arange(frames)
    place = middle + rng.uniform(-0.45, 0.45, 2) * middle
    reach = rng.uniform(0.12, 0.3)
    return place + reach * np.stack([np.cos(yaw), np.sin(yaw)], -1), yaw


def _walk(rng: Rng, room: Room, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Along a closed, smooth loop of random places, looking ahead and aside in slow turns."""
    middle = np.array(room.size[:2]) / 2
    phase = rng.uniform(0, 2 * np.pi, (2, 2))
    t = rng.uniform(0.15, 0.24) * np.arange(frames + 1)
    waves = np.cos(t[:, None] + phase[0]) + 0.45 * np.cos(2 * t[:, None] + phase[1])
    position = middle + middle * rng.uniform(0.3, 0.55, 2) * waves
    ahead = np.diff(position, axis=0)
    yaw = np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0]))
    aside = rng.uniform(-0.9, 0.9) + _sway(rng, frames, 0.12)
    return position[:-1], yaw + aside


def _propose(rng: Rng, room: Room, frames: int) -> np.ndarray:
    """(frames, 4, 4) poses: 55 % arcs, 20 % pans, 25 % walks."""
    kind = rng.choice(3, p=[0.55, 0.2, 0.25])
    position, yaw = (_arc, _pan, _walk)[kind](rng, room, frames)
    height = rng.uniform(1.3, 1.6) + _sway(rng, frames, 0.05)
    height = np.clip(height, 1.2, min(1.7, room.size[2] - 0.5))
    pitch = rng.uniform(0.2, 0.42) + _sway(rng, frames, 0.035)
    roll, turn = _sway(rng, frames, 0.02), _sway(rng, frames, 0.02)
    jitter = np.stack([_sway(rng, frames, 0.02), _sway(rng, frames, 0.02)], -1)
    place = np.concatenate([position + jitter, height[:, None]], -1)
    return np.stack([look(place[i], yaw[i] + turn[i], pitch[i], roll[i]) for i in range(frames)])


def _free(room: Room, positions: np.ndarray) -> bool:
    """Whether all positions (F, 3) keep their distance from objects and the shell."""
    low, high = room.obstacles[:, 0] - CLEARANCE, room.obstacles[:, 1] + CLEARANCE
    inside = ((positions[:, None] > low) & (positions[:, None] < high)).all(-1).any()
    walls = (positions < 0.25).any() or (positions > np.array(room.size) - 0.25).any()
    return not inside and not walls


def overlap(
    depth: np.ndarray, other_depth: np.ndarray, other_from_camera: np.ndarray, rays: np.ndarray
) -> float:
    """Share of one view's pixels that another view of the same camera sees too.

    Args:
        depth: (H, W) metres. other_depth: (H, W) metres, of the other view.
        other_from_camera: (4, 4). rays: (H, W, 3) camera rays with z = 1.
    """
    height, width = depth.shape
    points = (rays * depth[..., None]).reshape(-1, 3)
    moved = points @ other_from_camera[:3, :3].T + other_from_camera[:3, 3]
    z = np.maximum(moved[:, 2], 1e-6)
    focal = 1 / (rays[0, 1, 0] - rays[0, 0, 0])
    x = np.floor(moved[:, 0] / z * focal + width / 2).astype(int)
    y = np.floor(moved[:, 1] / z * focal + height / 2).astype(int)
    inside = (moved[:, 2] > 0.1) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    there = other_depth[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    # A tenth of the depth: at the edge of an object these few pixels are coarse.
    return float((inside & (np.abs(there - z) < 0.1 * z + 0.05)).mean())


def _sees_enough(renderer: Renderer, poses: np.ndarray, field_of_view: float) -> bool:
    """Whether no frame is too close to things and every two neighbours overlap."""
    focal = PROBE_WIDTH / 2 / np.tan(field_of_view / 2)
    rays = camera_rays(PROBE_WIDTH, PROBE_HEIGHT, float(focal))
    last = None
    for index, pose in enumerate(poses):
        depth = renderer.depth(pose, rays)
        if np.median(depth) < MIN_MEDIAN_DEPTH:
            return False
        if last is not None:
            last_from_camera = np.linalg.inv(poses[index - 1]) @ pose
            if overlap(depth, last, last_from_camera, rays) < MIN_OVERLAP:
                return False
        last = depth
    return True


def draw_trajectory(rng: Rng, room: Room, renderer: Renderer, frames: int) -> Trajectory:
    """Draw paths until one stays clear of things and its neighbours overlap.

    Raises:
        SceneError: None of many proposals did.
    """
    field_of_view = float(np.radians(rng.uniform(58, 75)))
    for _ in range(PROPOSALS):
        poses = _propose(rng, room, frames)
        if _free(room, poses[:, :3, 3]) and _sees_enough(renderer, poses, field_of_view):
            return Trajectory(poses, field_of_view)
    raise SceneError(
        f"no camera path of {frames} frames fits a generated room of "
        f"{room.size[0]:.1f} x {room.size[1]:.1f} m: ask for fewer frames or another seed"
    )
