"""VGGT's camera head: camera tokens to pose encodings by iterative refinement.

Legend: B scenes, V views, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, relu

from spa3r.teachers.vggt_blocks import Block, Mlp

ENCODING = 9
NUM_ITERATIONS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraHeadConfig:
    """Defaults: VGGT-1B."""

    trunk_depth: int = 4
    num_heads: int = 16
    mlp_ratio: float = 4.0
    init_values: float = 0.01


class CameraHead(nn.Module):
    """Every view attends to every view, targets included: cameras ignore the partition."""

    def __init__(self, width: int, config: CameraHeadConfig) -> None:
        super().__init__()
        self.token_norm = nn.LayerNorm(width)
        self.trunk_norm = nn.LayerNorm(width)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, ENCODING))
        self.embed_pose = nn.Linear(ENCODING, width)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.trunk = nn.ModuleList(
            Block(
                width,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                init_values=config.init_values,
            )
            for _ in range(config.trunk_depth)
        )
        self.pose_branch = Mlp(width, width // 2, ENCODING)

    def forward(self, camera_tokens_BVD: Tensor) -> list[Tensor]:
        """Encodings (B, V, 9) after each iteration, best last; see pose_encoding.py.

        Iterations pass on the raw encoding, before the ReLU that keeps fields of view >= 0.
        """
        tokens_BVD = self.token_norm(camera_tokens_BVD)
        plain_BVD = layer_norm(tokens_BVD, tokens_BVD.shape[-1:], eps=1e-6)
        raw_BV9 = self.empty_pose_tokens.expand(*tokens_BVD.shape[:2], -1)
        # The first input is the learnt empty pose, but the sum of updates starts at zero.
        total_BV9 = torch.zeros_like(raw_BV9)
        encodings = []
        for _ in range(NUM_ITERATIONS):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(raw_BV9)).chunk(3, dim=-1)
            x_BVD = gate * (plain_BVD * (1 + scale) + shift) + tokens_BVD
            for block in self.trunk:
                x_BVD = block(x_BVD)
            total_BV9 = total_BV9 + self.pose_branch(self.trunk_norm(x_BVD))
            raw_BV9 = total_BV9.detach()
            encodings.append(torch.cat([total_BV9[..., :7], relu(total_BV9[..., 7:])], dim=-1))
        return encodings
