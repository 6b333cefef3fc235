"""Where scene geometry enters: one class for each kind of the paper's Tables 3 and 5 and its peers.

| kind            | geometry tokens                       | what they change                       |
|-----------------|---------------------------------------|----------------------------------------|
| cross_attention | latents, or a teacher's tokens        | image tokens before the language model |
| add             | a teacher's, 2x2 to one (VG-LLM)      | image tokens before the language model |
| deep_stack      | a teacher's layers, 2x2 to one        | image tokens before its first layers   |
|                 | (SpatialStack)                        |                                        |
| append          | latents, or a teacher's tokens        | placeholders in the prompt             |
| none            |                                       | nothing                                |

Every kind begins as no change at all: what it adds comes out of a layer that is zero. For `append`
this means that the logits are the base's on the same tokens, placeholders included; without the
placeholders the base reads another sequence and answers otherwise.

Legend: n tokens of one image, S image tokens of one conversation, N geometry tokens, D their width,
H width of the language model, V views of h x w patches, r x c image tokens of one view, m patches
along the side of an image token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from spa3r.errors import ConfigError
from spa3r.tune_config import FusionConfig
from spa3r.vlm.adapter import CrossAttentionAdapter, zero_last
from spa3r.vlm.batch import Geometry

Grids = Sequence[tuple[int, int]]
"""Image tokens of each image, rows and columns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fused:
    """What one conversation gives to the language model."""

    image_tokens: tuple[Tensor, ...]
    """(n, H) for each image."""
    added: tuple[Tensor, ...] = ()
    """Rows for the input of decoder layers 0, 1, ..., at the tokens that `Fusion.adds_at` says."""


class Fusion(nn.Module):
    """Geometry and image tokens of one conversation."""

    adds_at: ClassVar[Literal["nothing", "images", "placeholders"]] = "nothing"

    def num_placeholders(self, geometry: Geometry | None) -> int:
        """How many placeholder tokens the prompt must hold for this geometry."""
        del geometry
        return 0

    def forward(self, image_tokens: Sequence[Tensor], geometry: Geometry, grids_hw: Grids) -> Fused:
        """
        Args:
            image_tokens: (n, H) for each image.
            grids_hw: of each image.

        Raises:
            ConfigError: geometry of another kind, width or number of views than this takes.
        """
        raise NotImplementedError


class NoFusion(Fusion):
    """The base as it is (a control)."""

    def forward(self, image_tokens: Sequence[Tensor], geometry: Geometry, grids_hw: Grids) -> Fused:
        del geometry, grids_hw
        return Fused(image_tokens=tuple(image_tokens))


class CrossAttentionFusion(Fusion):
    """The paper's: `adapter` is what is attended with, for all images of a conversation at once."""

    def __init__(self, config: FusionConfig, hidden: int, heads: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.adapter = CrossAttentionAdapter(
            hidden, heads, width, form=config.form, metric_scale=config.metric_scale
        )

    def forward(self, image_tokens: Sequence[Tensor], geometry: Geometry, grids_hw: Grids) -> Fused:
        del grids_hw
        if not image_tokens:
            return Fused(image_tokens=())
        (tokens_ND,) = _checked(geometry, 1, self.width)
        fused_SH = self.adapter(torch.cat(tuple(image_tokens)), tokens_ND, geometry.log_scale)
        return Fused(image_tokens=fused_SH.split([len(x) for x in image_tokens]))


class AppendFusion(Fusion):
    """One token of the sequence for each geometry token (the paper's Table 5).

    A placeholder's own embedding stays and the projected geometry is added to it.
    """

    adds_at = "placeholders"

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.projector = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        zero_last(self.projector)

    def num_placeholders(self, geometry: Geometry | None) -> int:
        """One for each geometry token."""
        return 0 if geometry is None else len(geometry.tokens[0])

    def forward(self, image_tokens: Sequence[Tensor], geometry: Geometry, grids_hw: Grids) -> Fused:
        del grids_hw
        (tokens_ND,) = _checked(geometry, 1, self.width)
        dtype = next(self.projector.parameters()).dtype
        rows_NH = self.projector(tokens_ND.to(dtype))
        return Fused(image_tokens=tuple(image_tokens), added=(rows_NH,))


class PatchMerger(nn.Module):
    """A teacher's tokens of the patches under one image token, side by side, brought to the width
    of the language model: RMSNorm of each, then an MLP (4 D -> 2 D -> H at 2x2)."""

    def __init__(self, width: int, hidden: int, merge: int) -> None:
        super().__init__()
        self.merge, self.width = merge, width
        together = merge * merge * width
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(together, together // 2), nn.GELU(), nn.Linear(together // 2, hidden)
        )
        zero_last(self.mlp)

    def forward(self, patches_VhwD: Tensor) -> Tensor:
        """(S, H), view by view, rows first; from the tokens of all the tower's patches."""
        m = self.merge
        x_VhwD = self.norm(patches_VhwD.to(self.norm.weight.dtype))
        x_VrmcmD = x_VhwD.unflatten(2, (-1, m)).unflatten(1, (-1, m))
        return self.mlp(x_VrmcmD.transpose(2, 3).flatten(3).flatten(0, 2))


class AddFusion(Fusion):
    """A teacher's patch tokens added to the image tokens that cover the same pixels (VG-LLM)."""

    def __init__(self, hidden: int, width: int, merge: int) -> None:
        super().__init__()
        self.merger = PatchMerger(width, hidden, merge)

    def forward(self, image_tokens: Sequence[Tensor], geometry: Geometry, grids_hw: Grids) -> Fused:
        (tokens_ND,) = _checked(geometry, 1, self.merger.width)
        rows_SH = self.merger(_on_patches(tokens_ND, geometry, grids_hw, self.merger.merge))
        changes = rows_SH.split([len(x) for x in image_tokens])
        pairs = zip(image_tokens, changes, strict=True)
        return Fused(image_tokens=tuple(x + change.to(x.dtype) for x, change in pairs))


class DeepStackFusion(Fusion):
    """The i-th of a teacher's layers added to the image tokens before decoder layer i
    (SpatialStack)."""

    adds_at = "images"

    def __init__(self, hidden: int, width: int, merge: int, num_layers: int) -> None:
        super().__init__()
        self.mergers = nn.ModuleList(PatchMerger(width, hidden, merge) for _ in range(num_layers))
        self.merge, self.width = merge, width

    def forward(self, image_tokens: Sequence[Tensor], geometry: Geometry, grids_hw: Grids) -> Fused:
        tokens = _checked(geometry, len(self.mergers), self.width)
        added = tuple(
            merger(_on_patches(tokens_ND, geometry, grids_hw, self.merge))
            for merger, tokens_ND in zip(self.mergers, tokens, strict=True)
        )
        return Fused(image_tokens=tuple(image_tokens), added=added)


def build_fusion(
    config: FusionConfig, hidden: int, heads: int, geometry_width: int, *, merge: int = 2
) -> Fusion:
    """The fusion of a configuration, in its initial state.

    Args:
        hidden, heads: of the language model.
        geometry_width: of a latent, or of a teacher's token.
        merge: patches along the side of an image token (`VlmBase.merge`).
    """
    if config.kind == "cross_attention":
        return CrossAttentionFusion(config, hidden, heads, geometry_width)
    if config.kind == "append":
        return AppendFusion(hidden, geometry_width)
    if config.kind == "add":
        return AddFusion(hidden, geometry_width, merge)
    if config.kind == "deep_stack":
        return DeepStackFusion(hidden, geometry_width, merge, len(config.layers))
    return NoFusion()


def _checked(geometry: Geometry, num_layers: int, width: int) -> tuple[Tensor, ...]:
    """The geometry tokens, if there are as many tensors of as many channels as the fusion takes."""
    shapes = [tuple(x.shape) for x in geometry.tokens]
    if len(shapes) != num_layers or any(len(s) != 2 or s[1] != width for s in shapes):
        raise ConfigError(
            f"geometry of shapes {shapes} for a fusion that takes {num_layers} of width {width};"
            " give that of the encoder and layers this model was made with"
        )
    return geometry.tokens


def _on_patches(tokens_ND: Tensor, geometry: Geometry, grids_hw: Grids, merge: int) -> Tensor:
    """(V, h, w, D): for each patch of the vision tower the teacher's token there. A teacher with
    larger patches gives a token to all the tower's patches that it covers."""
    rows, columns = geometry.grid_hw
    views, whole = len(grids_hw), len(tokens_ND) == len(grids_hw) * rows * columns
    wanted = {(h * merge, w * merge) for h, w in grids_hw}
    factors = {(h / rows, w / columns) for h, w in wanted}
    factor = next((int(a) for a, b in factors if a == b and a.is_integer()), 0)
    if not factor or len(factors) > 1 or views != geometry.views or not whole:
        raise ConfigError(
            f"{geometry.views} views of {rows}x{columns} teacher tokens ({len(tokens_ND)} in all)"
            f" do not lie on {views} images of {sorted(wanted)} patches; both towers must get"
            " the same crop, and the teacher's patch be a multiple of the vision tower's"
        )
    x_VhwD = tokens_ND.unflatten(0, (views, rows, columns))
    return x_VhwD.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
