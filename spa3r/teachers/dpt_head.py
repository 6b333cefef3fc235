"""VGGT's dense heads (DPT): tokens of four layers to a map and its confidence at full resolution.

Module names follow the published checkpoint. Legend: B scenes, V views, N = h w patches per view,
D token width, F views of one chunk, C channels, H W pixels, S channels of the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, relu

from spa3r.teachers.chunks import VIEWS_PER_CHUNK, by_chunks
from spa3r.teachers.dpt_maps import NEIGHBOURHOOD, add_uv_embedding, enlarge_around_patches


@dataclass(frozen=True, kw_only=True, slots=True)
class DptConfig:
    """Defaults: VGGT-1B."""

    patch_size: int = 14
    features: int = 256
    out_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    layers: tuple[int, int, int, int] = (4, 11, 17, 23)
    """Aggregator layers whose tokens the head reads, shallow to deep."""


class DptHead(nn.Module):
    """Depth ("exp", 1 channel) or points ("inv_log", 3 channels), each with a confidence > 1."""

    def __init__(
        self, width: int, config: DptConfig, *, channels: int, activation: Literal["exp", "inv_log"]
    ) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.activation = activation
        c0, c1, _, c3 = config.out_channels
        self.norm = nn.LayerNorm(width)
        self.projects = nn.ModuleList(nn.Conv2d(width, c, 1) for c in config.out_channels)
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(c0, c0, 4, stride=4),
                nn.ConvTranspose2d(c1, c1, 2, stride=2),
                nn.Identity(),
                nn.Conv2d(c3, c3, 3, stride=2, padding=1),
            ]
        )
        self.scratch = _Scratch(config, channels + 1)

    def forward(
        self,
        levels: Sequence[Tensor],
        image_hw: tuple[int, int],
        *,
        views_per_chunk: int = VIEWS_PER_CHUNK,
    ) -> tuple[Tensor, Tensor]:
        """Answer (B, V, H, W, S) and confidence (B, V, H, W).

        Args:
            levels: patch tokens (B, V, N, D) of the four layers, without special tokens.
            image_hw: size of the images, a multiple of the patch size.
        """
        views = levels[0].shape[:2]
        flat = [level.flatten(0, 1) for level in levels]
        answer_FHWS, confidence_FHW = by_chunks(
            lambda chunk: self._answer([level[chunk] for level in flat], image_hw),
            len(flat[0]), views_per_chunk,
        )  # fmt: skip
        return answer_FHWS.unflatten(0, views), confidence_FHW.unflatten(0, views)

    def at_patches(
        self,
        levels: Sequence[Tensor],
        image_hw: tuple[int, int],
        *,
        views_per_chunk: int = VIEWS_PER_CHUNK,
    ) -> Tensor:
        """`forward`'s answer at the first pixel of every patch (B, V, N, S), and no other pixel's.

        Arguments as of `forward`.
        """
        flat = [level.flatten(0, 1) for level in levels]
        (answer_FNS,) = by_chunks(
            lambda chunk: [self._answer_at_patches([level[chunk] for level in flat], image_hw)],
            len(flat[0]), views_per_chunk,
        )  # fmt: skip
        return answer_FNS.unflatten(0, levels[0].shape[:2])

    def _answer(self, levels: Sequence[Tensor], image_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """`forward` of one chunk of views, from tokens (F, N, D)."""
        x = interpolate(
            self._fused(levels, image_hw), size=image_hw, mode="bilinear", align_corners=True
        )
        x = add_uv_embedding(x, image_hw[1] / image_hw[0])
        logits_FHWS = self.scratch.output_conv2(x).permute(0, 2, 3, 1)
        return self._activate(logits_FHWS[..., :-1]), 1 + logits_FHWS[..., -1].exp()

    def _answer_at_patches(self, levels: Sequence[Tensor], image_hw: tuple[int, int]) -> Tensor:
        """`at_patches` of one chunk of views, from tokens (F, N, D).

        The first pixels of the patches and what the convolution sees around them stand side by
        side, so that its stride leaves out everything else.
        """
        x = enlarge_around_patches(self._fused(levels, image_hw), image_hw, self.patch_size)
        convolution, *others = self.scratch.output_conv2
        assert isinstance(convolution, nn.Conv2d)
        x = conv2d(x, convolution.weight, convolution.bias, stride=NEIGHBOURHOOD)
        for layer in others:
            x = layer(x)
        return self._activate(x.flatten(2).mT[..., :-1])

    def _activate(self, logits: Tensor) -> Tensor:
        if self.activation == "exp":
            return logits.exp()
        return logits.sign() * logits.abs().expm1()

    def _fused(self, levels: Sequence[Tensor], image_hw: tuple[int, int]) -> Tensor:
        """(F, C, 8 h, 8 w) of one chunk of views, from tokens (F, N, D)."""
        height, width = image_hw
        aspect = width / height
        grid_hw = (height // self.patch_size, width // self.patch_size)
        maps = []
        for tokens_FND, project, resize in zip(
            levels, self.projects, self.resize_layers, strict=True
        ):
            x_FChw = project(self.norm(tokens_FND).mT.unflatten(2, grid_hw))
            maps.append(resize(add_uv_embedding(x_FChw, aspect)))
        return self.scratch.fuse(maps)


class _Scratch(nn.Module):
    """RefineNet-style fusion from deep to shallow, and the output convolutions."""

    def __init__(self, config: DptConfig, channels_out: int) -> None:
        super().__init__()
        features, half = config.features, config.features // 2
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (
            nn.Conv2d(c, features, 3, padding=1, bias=False) for c in config.out_channels
        )
        self.refinenet1 = _Fusion(features)
        self.refinenet2 = _Fusion(features)
        self.refinenet3 = _Fusion(features)
        self.refinenet4 = _Fusion(features, skip=False)
        self.output_conv1 = nn.Conv2d(features, half, 3, padding=1)
        self.output_conv2 = nn.Sequential(
            nn.Conv2d(half, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, channels_out, 1)
        )

    def fuse(self, maps: Sequence[Tensor]) -> Tensor:
        one, two, three, four = (
            self.layer1_rn(maps[0]),
            self.layer2_rn(maps[1]),
            self.layer3_rn(maps[2]),
            self.layer4_rn(maps[3]),
        )
        x = self.refinenet4(four, None, three.shape[-2:])
        x = self.refinenet3(x, three, two.shape[-2:])
        x = self.refinenet2(x, two, one.shape[-2:])
        x = self.refinenet1(x, one, (2 * one.shape[-2], 2 * one.shape[-1]))
        return self.output_conv1(x)


class _Fusion(nn.Module):
    """Adds a skip, refines, upsamples; the deepest one has no skip."""

    def __init__(self, features: int, *, skip: bool = True) -> None:
        super().__init__()
        if skip:
            self.resConfUnit1 = _ResidualUnit(features)
        self.resConfUnit2 = _ResidualUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor, skip: Tensor | None, size_hw: Sequence[int]) -> Tensor:
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        x = self.resConfUnit2(x)
        x = interpolate(x, size=tuple(size_hw), mode="bilinear", align_corners=True)
        return self.out_conv(x)


class _ResidualUnit(nn.Module):
    """Two convolutions around relu(x): the published network rectifies the identity branch too."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        rectified = relu(x)
        return self.conv2(relu(self.conv1(rectified))) + rectified
