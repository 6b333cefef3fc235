"""A world whose field is known in closed form, and students that know it, or only its mean.

A token of scene s seen from a camera at c is `paint[s] * wave(c, patch)`; every scene writes its
number into channel 0, which is how the oracle's encoder recognises it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spa3r.config import ModelConfig
from spa3r.data.batch import ClipBatch
from spa3r.data.clips import Clip
from spa3r.models.spa3r import FieldPrediction

GRID = (3, 4)
WIDTH, SEM_WIDTH, LANG_WIDTH = 8, 4, 5


def camera(scene: int, frame: int) -> Tensor:
    """camera_from_world of one frame: a walk along x with a slow turn about y."""
    angle = 0.15 * frame + 0.1 * scene
    pose = torch.eye(4)
    pose[0, 0] = pose[2, 2] = math.cos(angle)
    pose[0, 2], pose[2, 0] = math.sin(angle), -math.sin(angle)
    pose[0, 3] = -0.4 * frame
    return pose


def paint(scene: Tensor, pose_44: Tensor, width: int) -> Tensor:
    """(N, width) tokens of a scene through a camera; channel 0 is the scene's number."""
    patches = torch.arange(GRID[0] * GRID[1]).float()[:, None] / 6
    channels = torch.arange(1, width + 1).float()
    phase = pose_44[0, 3] * channels / 3 + 2 * pose_44[0, 2] + patches
    tokens = torch.sin(phase + 1.7 * scene * channels)
    tokens[:, 0] = scene
    return tokens


def depth_of(pose_44: Tensor) -> Tensor:
    """(N,) depths between one and three clip units."""
    patches = torch.arange(GRID[0] * GRID[1]).float() / 6
    return 2 + torch.sin(patches + pose_44[0, 3])


class FakeSource:
    """A TargetSource of `scenes` scenes; with holes, patch 0 of every view is unmeasured (NaN)."""

    def __init__(self, scenes: int, *, clips: int = 2, holes: bool = False) -> None:
        targets = (False, True, False, True, True)
        self.holes = holes
        self.clips = [
            Clip(
                dataset="fake",
                scene=f"scene{s:02d}",
                frames=tuple(range(c, c + 5)),
                is_target=targets,
            )
            for s in range(scenes)
            for c in range(clips)
        ]

    def load(self, clips: Sequence[Clip]) -> ClipBatch:
        (clip,) = clips
        scene = int(clip.scene[-2:])
        poses = torch.stack([camera(scene, frame) for frame in clip.frames])
        number = torch.tensor(float(scene))
        geo = torch.stack([paint(number, p, WIDTH) for p in poses])[None]
        sem = torch.stack([paint(number, p, SEM_WIDTH) for p in poses])[None]
        lang = torch.stack([paint(number, p, LANG_WIDTH) for p in poses])[None]
        depth = torch.stack([depth_of(p) for p in poses])[None]
        valid = torch.ones(geo.shape[:3], dtype=torch.bool)
        is_target = torch.tensor(clip.is_target)[None]
        context = geo[:, ~is_target[0]].clone()
        if self.holes:
            valid[:, :, 0] = False
            geo[:, :, 0] = sem[:, :, 0] = lang[:, :, 0] = float("nan")
            depth[:, :, 0] = 0
        return ClipBatch(
            clips=(clip,),
            grid_hw=GRID,
            is_target_BV=is_target,
            geo_BVND=geo,
            context_BCND=context,
            sem_BVND=sem,
            lang_BVND=lang,
            camera_from_world_BV44=poses[None],
            K_BV33=torch.eye(3).expand(1, len(poses), 3, 3),
            depth_BVN=depth,
            valid_BVN=valid,
        )


class Oracle(nn.Module):
    """Answers exactly; `knows` < 1 blends towards the mean answer (zero of the student space)."""

    def __init__(self, knows: float = 1.0, *, linguistic: bool = False) -> None:
        super().__init__()
        self.config = ModelConfig(
            geo_width=WIDTH, sem_width=SEM_WIDTH, lang_width=LANG_WIDTH, linguistic=linguistic
        )
        self.knows = knows
        self.anchor = nn.Parameter(torch.zeros(1))

    def encode(self, context_BCND: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        assert grid_hw == GRID
        return context_BCND[:, :1, :1, 0].clone()

    def decode(
        self, latents: Tensor, poses_BV44: Tensor, K_BV33: Tensor, grid_hw: tuple[int, int]
    ) -> Tensor:
        scene = latents[0, 0, 0]
        widths = (WIDTH, SEM_WIDTH, LANG_WIDTH)
        rows = [torch.cat([*(paint(scene, p, width) for width in widths), depth_of(p)[:, None]],
                          dim=1) for p in poses_BV44[0]]  # fmt: skip
        return torch.stack(rows)[None]

    def predict(self, hidden_BVND: Tensor) -> FieldPrediction:
        geo, sem, lang, depth = hidden_BVND.split([WIDTH, SEM_WIDTH, LANG_WIDTH, 1], dim=-1)
        return FieldPrediction(
            geo_BVND=self.knows * geo,
            sem_BVND=self.knows * sem,
            lang_BVND=self.knows * lang if self.config.linguistic else None,
            depth_BVN=depth[..., 0],
        )


def train_stats() -> dict[str, Tensor]:
    widths = {"geo": WIDTH, "sem": SEM_WIDTH, "lang": LANG_WIDTH}
    return {f"{kind}_mean": torch.zeros(width) for kind, width in widths.items()}
