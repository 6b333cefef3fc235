"""Targets that cost nothing and know real geometry: empty box rooms with one colour per wall.

A token is a fixed projection of where its patch's central ray hits the room, seen from view 0:
Fourier features of the point, the wall's normal, the logarithm of the depth, the wall's colour.
Predicting it for an unseen view takes the room's size and the camera's place in it.

Legend: V views, N tokens per view, D width.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from spa3r.config import Recipe
from spa3r.data.batch import ClipBatch
from spa3r.data.clips import Clip, draw_clips
from spa3r.plain import config_hash, override
from spa3r.recipes import catalogue

GRID = (3, 4)
PATCH = 28
FRAMES = 24
K_33 = np.array([[100.0, 0, 56], [0, 100, 41], [0, 0, 1]])


def box_recipe(**settings: object) -> Recipe:
    """`debug`, smaller still: milliseconds a step. Settings use "__" for the dot."""
    base = catalogue.get("debug")
    recipe = replace(
        base,
        name="boxes",
        clips=replace(base.clips, view_counts=(4, 6), clips_per_scene=8, mirror=False),
        teacher=replace(base.teacher, width=64, semantic_width=48),
        model=replace(base.model, geo_width=64, sem_width=48),
        train=replace(base.train, views_per_batch=12),
    )
    return override(recipe, {name.replace("__", "."): x for name, x in settings.items()})


class BoxRooms:
    """A TargetSource of `rooms` rooms; picklable, deterministic, in memory."""

    def __init__(self, recipe: Recipe, rooms: int, seed: int = 0) -> None:
        self.spec, self.seed = recipe.clips, seed
        self.widths = (recipe.teacher.width, recipe.teacher.semantic_width)
        names = [f"box{seed}_{i:03d}" for i in range(rooms)]
        self.clips: Sequence[Clip] = [
            clip for n in names for clip in draw_clips("boxes", n, range(FRAMES), self.spec)
        ]
        self.target_hash = config_hash([clip.id for clip in self.clips], self.widths)
        tokens = [self._clip(clip) for clip in self.clips]
        self.stats = {}
        for kind in ("geo", "sem"):
            x_MD = torch.cat([t[kind].flatten(0, 1) for t in tokens])
            self.stats[f"{kind}_mean"] = x_MD.mean(0)
            self.stats[f"{kind}_std"] = x_MD.std(0).clamp_min(1e-3)

    def grid_hw(self, clip: Clip) -> tuple[int, int]:
        return GRID

    def load(self, clips: Sequence[Clip]) -> ClipBatch:
        parts = [self._clip(clip) for clip in clips]
        both = {name: torch.stack([p[name] for p in parts]) for name in parts[0]}
        is_target = torch.tensor([clip.is_target for clip in clips])
        context = [g[~t] for g, t in zip(both["geo"], is_target, strict=True)]
        return ClipBatch(
            clips=tuple(clips), grid_hw=GRID, is_target_BV=is_target, geo_BVND=both["geo"],
            context_BCND=torch.stack(context), sem_BVND=both["sem"],
            camera_from_world_BV44=both["pose"], K_BV33=both["K"], depth_BVN=both["depth"],
            valid_BVN=torch.ones(both["depth"].shape, dtype=torch.bool),
        )  # fmt: skip

    def _clip(self, clip: Clip) -> dict[str, torch.Tensor]:
        rng = np.random.Generator(np.random.PCG64(int(clip.scene[-3:]) + 1000 * self.seed))
        half = np.array([rng.uniform(1.5, 3), rng.uniform(1.1, 1.5), rng.uniform(1.5, 3)])
        colours = rng.uniform(-1, 1, (6, 3))
        yaw = rng.uniform(0, 6.3) + np.cumsum(rng.normal(0.12, 0.05, FRAMES))
        centre = rng.uniform(-0.3, 0.3, 3) * half + np.cumsum(rng.normal(0, 0.04, (FRAMES, 3)), 0)
        poses = np.stack([_pose(yaw[f], centre[f]) for f in clip.frames])
        points_VN3, normals_VN3, depth_VN, wall_VN = _hit(poses, half)
        kind_VN = np.where(wall_VN // 2 == 1, wall_VN % 2, 2)  # ceiling, floor, wall
        first = np.linalg.inv(poses[0])
        context = ~np.array(clip.is_target)
        points_VN3 = points_VN3 @ first[:3, :3].T + first[:3, 3]
        unit = np.linalg.norm(points_VN3[context], axis=-1).mean()
        points_VN3 /= unit
        waves = [f(np.pi * k * points_VN3) for k in (0.5, 1, 2) for f in (np.sin, np.cos)]
        parts = [*waves, normals_VN3 @ first[:3, :3].T, np.log(depth_VN / unit)[..., None],
                 2 * colours[wall_VN]]  # fmt: skip
        geo_VND = np.concatenate(parts, -1) @ _projection(sum(p.shape[-1] for p in parts),
                                                          self.widths[0])  # fmt: skip
        pose_V44 = np.linalg.inv(poses) @ poses[0]
        pose_V44[:, :3, 3] /= unit
        found = {
            "geo": geo_VND.astype(np.float16), "pose": pose_V44.astype(np.float32),
            "sem": (np.eye(3)[kind_VN] @ _projection(3, self.widths[1])).astype(np.float16),
            "K": np.repeat(K_33[None], len(poses), 0).astype(np.float32),
            "depth": (depth_VN / unit).astype(np.float32),
        }  # fmt: skip
        return {name: torch.from_numpy(x) for name, x in found.items()}


def _pose(yaw: float, centre: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    c, s = np.cos(yaw), np.sin(yaw)
    pose[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    pose[:3, 3] = centre
    return pose


def _hit(poses: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, ...]:
    """World points, inward normals, z-depths and walls that the patches' central rays meet."""
    rows, columns = GRID
    v, u = np.meshgrid(np.arange(rows) + 0.5, np.arange(columns) + 0.5, indexing="ij")
    pixels = np.stack([u * PATCH, v * PATCH, np.ones_like(u)], -1).reshape(-1, 3)
    rays = pixels @ np.linalg.inv(K_33).T @ poses[:, :3, :3].swapaxes(1, 2)  # z = 1 in camera
    centre = poses[:, None, :3, 3]
    depths = (np.sign(rays) * half - centre) / rays
    axis = depths.argmin(-1)
    depth = depths.min(-1)
    side = np.take_along_axis(np.sign(rays), axis[..., None], -1)[..., 0]
    normals = -side[..., None] * np.eye(3)[axis]
    return centre + depth[..., None] * rays, normals, depth, axis * 2 + (side > 0)


def _projection(features: int, width: int) -> np.ndarray:
    q, _ = np.linalg.qr(np.random.Generator(np.random.PCG64(7)).normal(size=(width, width)))
    return q[:features]
