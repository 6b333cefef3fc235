"""DINOv2 with registers: VGGT's patch embedding.

Legend: F frames, H W pixels, h w patch grid, N = h w patches, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from spa3r.teachers.vggt_blocks import Block


@dataclass(frozen=True, kw_only=True, slots=True)
class DinoV2Config:
    """Defaults: ViT-L/14 with registers at 518 pixels, as inside VGGT-1B."""

    img_size: int = 518
    """Side of the square images whose position embedding is stored."""
    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_register_tokens: int = 4
    init_values: float = 1.0
    layernorm_eps: float = 1e-6


class PatchEmbed(nn.Module):
    """One linear map per patch: images (F, 3, H, W) to row-major tokens (F, N, D)."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images_F3HW: Tensor) -> Tensor:
        return self.proj(images_F3HW).flatten(2).mT


class DinoV2(nn.Module):
    """DINOv2 with registers; `forward` gives the normalised patch tokens."""

    def __init__(self, config: DinoV2Config) -> None:
        super().__init__()
        width = config.embed_dim
        self.patch_size = config.patch_size
        self.num_prefix = 1 + config.num_register_tokens
        self.side = config.img_size // config.patch_size
        self.patch_embed = PatchEmbed(config.patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.side**2, width))
        # Part of the checkpoint, used by DINOv2's own training only.
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                init_values=config.init_values,
                norm_eps=config.layernorm_eps,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=config.layernorm_eps)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.normal_(self.register_tokens, std=1e-6)

    def position_embedding(self, grid_hw: tuple[int, int]) -> Tensor:
        """(1, 1 + N, D): class token and patches, resized (bicubic, antialiased) to the grid."""
        if grid_hw == (self.side, self.side):
            return self.pos_embed
        stored = self.pos_embed[:, 1:].unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
        resized = interpolate(stored.float(), size=grid_hw, mode="bicubic", antialias=True)
        return torch.cat([self.pos_embed[:, :1], resized.flatten(2).mT], dim=1)

    def features(self, images_F3HW: Tensor) -> Tensor:
        """(F, prefix + N, D) before the final norm: class token, registers, patches."""
        height, width = images_F3HW.shape[-2:]
        patches_FND = self.patch_embed(images_F3HW)
        cls_F1D = self.cls_token.expand(len(patches_FND), -1, -1)
        grid_hw = (height // self.patch_size, width // self.patch_size)
        x = torch.cat([cls_F1D, patches_FND], dim=1) + self.position_embedding(grid_hw)
        registers = self.register_tokens.expand(len(x), -1, -1)
        # The registers stand between class token and patches and have no position.
        x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, images_F3HW: Tensor) -> Tensor:
        return self.norm(self.features(images_F3HW))[:, self.num_prefix :]
