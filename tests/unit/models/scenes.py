"""Seeded cameras and small models for the tests of spa3r/models."""

import dataclasses

import torch
from torch import Tensor

from spa3r.config import ModelConfig
from spa3r.models.spa3r import Spa3RModel

SMALL = ModelConfig(
    geo_width=24,
    sem_width=12,
    lang_width=9,
    width=48,
    num_latents=7,
    encoder_layers=2,
    decoder_layers=2,
    num_heads=3,
    num_registers=2,
)


def small_model(**changes) -> Spa3RModel:
    """SMALL with changes, and with weights large enough that every path matters."""
    torch.manual_seed(0)
    model = Spa3RModel(dataclasses.replace(SMALL, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3).add_(0.1 * torch.randn_like(parameter))
    return model


def random_cameras(
    scenes: int, views: int, grid_hw: tuple[int, int], patch_size: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """(camera_from_world_BV44, K_BV33), float32: any rotation, about a unit away, fields of view
    near 60 degrees, off-centre principal points."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(scenes, views, 3, 3, generator=generator))
    q = q * torch.linalg.det(q)[..., None, None]
    pose = torch.eye(4).repeat(scenes, views, 1, 1)
    pose[..., :3, :3] = q
    pose[..., :3, 3] = torch.randn(scenes, views, 3, generator=generator)
    size = torch.tensor([grid_hw[1], grid_hw[0]]) * float(patch_size)
    jitter = torch.rand(scenes, views, 4, generator=generator)
    K = torch.zeros(scenes, views, 3, 3)
    K[..., 0, 0], K[..., 1, 1] = (size[0] * (0.7 + 0.4 * jitter[..., i]) for i in (0, 1))
    K[..., :2, 2] = size * (0.4 + 0.2 * jitter[..., 2:])
    K[..., 2, 2] = 1
    return pose, K
