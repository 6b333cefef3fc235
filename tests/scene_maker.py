"""Hand-made scenes: views of an empty box room with an exact surface, and the untrained encoder.

Legend: C context views, h w raster.
"""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from spa3r.geometry import compose, invert_rigid
from spa3r.latent import SceneLatent, Surface
from spa3r.models.spa3r import Spa3RModel
from spa3r.query import query
from spa3r.recipes import catalogue

GRID = (6, 8)
PATCH = 28
HALF = np.array([2.0, 1.25, 2.5])  # of the room, in the scene's unit
K_33 = np.array([[150.0, 0, 110], [0, 148, 86], [0, 0, 1]])


def poses(count: int) -> np.ndarray:
    """world_from_camera (C, 4, 4) inside the room, whose centre is the room's own origin."""
    out = np.tile(np.eye(4), (count, 1, 1))
    for view in range(count):
        yaw, pitch = 0.4 * view, 0.1 * math.sin(view)
        c, s = math.cos(yaw), math.sin(yaw)
        about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        c, s = math.cos(pitch), math.sin(pitch)
        out[view, :3, :3] = about_y @ [[1, 0, 0], [0, c, -s], [0, s, c]]
        out[view, :3, 3] = (0.3 - 0.15 * view, 0.1 * math.cos(view), -0.8 + 0.1 * view)
    return out


def box_depth(room_from_camera_44: np.ndarray, raster_hw: tuple[int, int]) -> np.ndarray:
    """Exact z-depth (h, w) of the room's walls through the centres of raster cells."""
    rows, columns = raster_hw
    width, height = GRID[1] * PATCH, GRID[0] * PATCH
    x, y = np.meshgrid((np.arange(columns) + 0.5) * width / columns,
                       (np.arange(rows) + 0.5) * height / rows)  # fmt: skip
    pixels = np.stack([x, y, np.ones_like(x)], -1)
    rays = pixels @ np.linalg.inv(K_33).T @ room_from_camera_44[:3, :3].T  # z = 1 in the camera
    return ((np.sign(rays) * HALF - room_from_camera_44[:3, 3]) / rays).min(-1)


def box_scene(
    views: int = 3, raster_hw: tuple[int, int] | None = (24, 32), encoder: Any = None
) -> SceneLatent:
    """A scene of the room; colours of the surface are random, latents too."""
    rng = np.random.Generator(np.random.PCG64(views))
    room_from_camera = poses(views)
    camera_from_world = compose(invert_rigid(room_from_camera), room_from_camera[0])
    surface = None
    if raster_hw is not None:
        depth = np.stack([box_depth(pose, raster_hw) for pose in room_from_camera])
        surface = Surface(
            depth_Chw=torch.from_numpy(depth).half(),
            confidence_Chw=torch.from_numpy(rng.uniform(1, 9, depth.shape)).half(),
            rgb_Chw3=torch.from_numpy(rng.integers(0, 256, (*depth.shape, 3), np.uint8)),
        )
    model = catalogue.get("debug").model
    latents = rng.normal(size=(model.num_latents, model.width))
    return SceneLatent(
        latents_LD=torch.from_numpy(latents).half(),
        camera_from_world_C44=torch.from_numpy(camera_from_world).float(),
        K_C33=torch.from_numpy(np.tile(K_33, (views, 1, 1))).float(),
        grid_hw=GRID,
        patch_size=PATCH,
        surface=surface,
        provenance={"encoder_hash": "untrained"},
        encoder=encoder,
    )


def room_points(points_N3: np.ndarray) -> np.ndarray:
    """Points of `box_scene`'s world in the room's own frame, where walls lie at +-HALF."""
    pose = poses(1)[0]
    return points_N3 @ pose[:3, :3].T + pose[:3, 3]


def untrained(**model_settings: object) -> Any:
    """All that `spa3r.query` asks of an encoder, around random weights of the recipe `debug`."""
    recipe = catalogue.get("debug")
    config = dataclasses.replace(recipe.model, **model_settings)  # type: ignore[arg-type]
    torch.manual_seed(0)
    model = Spa3RModel(config).eval().requires_grad_(False)
    for name, buffer in model.named_buffers():  # else teacher units equal standardised ones
        buffer.uniform_(0.5, 2.0) if name.endswith("_std") else buffer.normal_()
    encoder: Any = SimpleNamespace(
        model=model,
        device=torch.device("cpu"),
        card=SimpleNamespace(
            image_width=recipe.ingest.width, image_multiple=recipe.ingest.multiple
        ),
        depth_offset=(PATCH / 2, PATCH / 2),
        precision="float32",
        hash="untrained",
        where="memory",
    )
    encoder.query = lambda scene, camera: query(encoder, scene, camera)
    return encoder
