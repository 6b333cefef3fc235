"""VGGT's aggregator: alternating attention within a view ("frame") and across views ("global").

With `is_target_BV` the global attention is asymmetric (Spa3R paper, eq. 5): context sees context,
targets see everything. Tokens are brought into context-first order once before the blocks and back
once at the end, so that in every layer the partition is a plain slice.

Legend: B scenes, V views, N patches per view, P = special + N tokens per view, C width, H W pixels.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from spa3r.errors import ConfigError
from spa3r.teachers import imagenet
from spa3r.teachers.chunks import VIEWS_PER_CHUNK, by_chunks
from spa3r.teachers.dinov2 import DinoV2, DinoV2Config, PatchEmbed
from spa3r.teachers.rope import Rope, view_rope
from spa3r.teachers.vggt_blocks import Block


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregatorConfig:
    """Defaults: VGGT-1B."""

    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_register_tokens: int = 4
    rope_freq: float = 100.0
    init_values: float = 0.01
    patch_embed: Literal["dinov2", "conv"] = "dinov2"
    dinov2: DinoV2Config = field(default_factory=DinoV2Config)
    """Only with patch_embed="dinov2"."""
    global_qk_norm: Literal["layernorm", "rms"] = "layernorm"

    def __post_init__(self) -> None:
        if self.embed_dim % self.num_heads or (self.embed_dim // self.num_heads) % 4:
            raise ConfigError(
                f"width {self.embed_dim} over {self.num_heads} heads must give a head width that"
                " is a multiple of 4 (two-dimensional RoPE)"
            )
        ours, theirs = (
            (self.embed_dim, self.patch_size),
            (self.dinov2.embed_dim, self.dinov2.patch_size),
        )
        if self.patch_embed == "dinov2" and ours != theirs:
            raise ConfigError(
                f"(width, patch size): aggregator has {ours}, its DINOv2 patch embedding {theirs}"
            )


class Aggregator(nn.Module):
    """Images to tokens of every layer; see `forward`."""

    def __init__(self, config: AggregatorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embed_dim
        self.num_special = 1 + config.num_register_tokens
        """Leading tokens of every view: one camera token, then registers."""
        if config.patch_embed == "dinov2":
            self.patch_embed = DinoV2(config.dinov2)
        else:
            self.patch_embed = PatchEmbed(config.patch_size, width)
        # Index 0 belongs to view 0, which defines the world frame; index 1 to every other view.
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, width))
        self.register_token = nn.Parameter(torch.zeros(1, 2, config.num_register_tokens, width))
        nn.init.normal_(self.camera_token, std=1e-6)
        nn.init.normal_(self.register_token, std=1e-6)
        self.frame_blocks = _blocks(config, "layernorm")
        self.global_blocks = _blocks(config, config.global_qk_norm)

    def forward(
        self,
        images_BV3HW: Tensor,
        is_target_BV: Tensor | None = None,
        *,
        layers: Collection[int],
        views_per_chunk: int = VIEWS_PER_CHUNK,
    ) -> dict[int, Tensor]:
        """Tokens of the layers asked for; no other layer's output is kept.

        Args:
            images_BV3HW: RGB in [0, 1]; H and W are multiples of the patch size.
            is_target_BV: bool, any number of targets per scene; None: all views are context.
                Special tokens go by the view's index, not by its role.
            layers: indices of layers; blocks above the highest one are not run.
            views_per_chunk: all but the global attention itself works on so many views at once.

        Returns:
            Layer to (B, V, P, 2C): the frame block's output, then the global block's. Per view:
            camera token, registers, patches row by row.
        """
        num_scenes, num_views = images_BV3HW.shape[:2]
        if is_target_BV is None:
            roles = [[False] * num_views] * num_scenes
        else:
            roles = is_target_BV.tolist()
        counts = [row.count(False) for row in roles]
        if len(set(counts)) == 1:
            return self._forward_equal(images_BV3HW, roles, layers, views_per_chunk)
        groups = [[b for b, n in enumerate(counts) if n == count] for count in sorted(set(counts))]
        parts = [
            self._forward_equal(images_BV3HW[g], [roles[b] for b in g], layers, views_per_chunk)
            for g in groups
        ]
        back_B = torch.tensor([b for group in groups for b in group]).argsort()
        back_B = back_B.to(images_BV3HW.device)
        return {i: torch.cat([part[i] for part in parts])[back_B] for i in layers}

    def _forward_equal(
        self,
        images_BV3HW: Tensor,
        roles: Sequence[Sequence[bool]],
        layers: Collection[int],
        views_per_chunk: int,
    ) -> dict[int, Tensor]:
        """`forward` for scenes with the same number of context views."""
        num_scenes, num_views, _, height, width = images_BV3HW.shape
        config, device = self.config, images_BV3HW.device
        assert height % config.patch_size == width % config.patch_size == 0, (height, width)
        grid_hw = (height // config.patch_size, width // config.patch_size)
        head_width = config.embed_dim // config.num_heads
        rope = view_rope(grid_hw, self.num_special, head_width, config.rope_freq, device)
        context = roles[0].count(False)

        # sorted() is stable: context in order of view index, then targets in order.
        orders = [sorted(range(num_views), key=row.__getitem__) for row in roles]
        permuted = any(order != sorted(order) for order in orders)
        order_BV = torch.tensor(orders, device=device)
        scene_B1 = torch.arange(num_scenes, device=device)[:, None]
        x_BVPC = self._embed(images_BV3HW, views_per_chunk)
        if permuted:
            x_BVPC = x_BVPC[scene_B1, order_BV]

        kept: dict[int, Tensor] = {}
        for i in range(max(layers) + 1):
            frame_block, global_block = self.frame_blocks[i], self.global_blocks[i]
            assert isinstance(global_block, Block)
            x_BVPC = _within_views(frame_block, x_BVPC, rope, views_per_chunk)
            across_BVPC = global_block.across_views(
                x_BVPC, rope, context=context, views_per_chunk=views_per_chunk
            )
            if i in layers:
                both = torch.cat([x_BVPC, across_BVPC], dim=-1)
                kept[i] = both[scene_B1, order_BV.argsort(dim=1)] if permuted else both
            x_BVPC = across_BVPC
        return kept

    def _embed(self, images_BV3HW: Tensor, views_per_chunk: int) -> Tensor:
        """Patch tokens with the special tokens before them, (B, V, P, C)."""
        num_scenes, num_views = images_BV3HW.shape[:2]
        special_12XC = torch.cat([self.camera_token, self.register_token], dim=2)
        others = special_12XC[:, 1:].expand(-1, num_views - 1, -1, -1)
        special_1VXC = torch.cat([special_12XC[:, :1], others], dim=1)
        special_FXC = special_1VXC.expand(num_scenes, -1, -1, -1).flatten(0, 1)
        frames_F3HW = images_BV3HW.flatten(0, 1)

        def embed(chunk: slice) -> list[Tensor]:
            patches_FNC = self.patch_embed(imagenet.normalise(frames_F3HW[chunk]))
            return [torch.cat([special_FXC[chunk], patches_FNC], dim=1)]

        (tokens_FPC,) = by_chunks(embed, len(frames_F3HW), views_per_chunk)
        return tokens_FPC.unflatten(0, (num_scenes, num_views))


def _within_views(block: nn.Module, x_BVPC: Tensor, rope: Rope, views_per_chunk: int) -> Tensor:
    """A frame block: every view attends to itself alone."""
    frames_FPC = x_BVPC.flatten(0, 1)
    (out_FPC,) = by_chunks(
        lambda chunk: [block(frames_FPC[chunk], rope)], len(frames_FPC), views_per_chunk
    )
    return out_FPC.view(x_BVPC.shape)


def _blocks(config: AggregatorConfig, qk_norm: Literal["layernorm", "rms"]) -> nn.ModuleList:
    return nn.ModuleList(
        Block(
            config.embed_dim,
            config.num_heads,
            mlp_ratio=config.mlp_ratio,
            init_values=config.init_values,
            qk_norm=qk_norm,
        )
        for _ in range(config.depth)
    )
