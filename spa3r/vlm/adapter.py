"""The residual cross-attention adapter (paper eq. 14-15; reference.md 2.3).

Image tokens ask the geometry tokens of their own conversation, never those of another: the release
lays the latents of a whole batch in one row and so mixes scenes (2.2, no. 12).

Parts bear the names of the release. Choices beyond the paper, the same in both forms: a projector
to the language model's width, LayerNorm on queries and keys of each head (eps 1e-5), exact GELU, a
bottleneck of a quarter. Form "release" has a LayerNorm and a gate besides.

Legend: n image tokens, N geometry tokens (M with the scale's), H width, E heads, C head channels,
D width of a geometry token, F features of a scale.
"""

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spa3r.convert.places import ADAPTER_FORMAT
from spa3r.errors import ConfigError, WeightsError
from spa3r.teachers.checkpoints import load_json, load_state_dict, load_strict

CONFIG_FILE = "config.json"
SCALE_FREQUENCIES = (1, 2, 4, 8, 16)
"""Of the sines and cosines that a scale enters by. Its logarithm alone differs by tenths between
rooms: next to its mean a linear layer would hardly see it. Scales up to a factor of 500 apart (one
turn of the slowest, e ** 6.28) have features of their own."""


class CrossAttention(nn.Module):
    """Queries of one sequence, keys and values of another."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(hidden, hidden)
        self.k_proj = nn.Linear(hidden, hidden)
        self.v_proj = nn.Linear(hidden, hidden)
        self.proj = nn.Linear(hidden, hidden)
        self.q_norm = nn.LayerNorm(hidden // heads)
        self.k_norm = nn.LayerNorm(hidden // heads)

    def forward(self, x_nH: Tensor, keys_MH: Tensor) -> Tensor:
        """(n, H)."""
        q_EnC, k_EMC = self._queries_keys(x_nH, keys_MH)
        v_EMC = self._heads(self.v_proj(keys_MH))
        o_EnC = F.scaled_dot_product_attention(q_EnC[None], k_EMC[None], v_EMC[None])[0]
        return self.proj(o_EnC.transpose(0, 1).flatten(1))

    def shares(self, x_nH: Tensor, keys_MH: Tensor) -> Tensor:
        """(n, M), the attention's weights, mean over heads; float32."""
        q_EnC, k_EMC = self._queries_keys(x_nH, keys_MH)
        mean_nM = torch.zeros(len(x_nH), len(keys_MH), device=x_nH.device)
        for q_nC, k_MC in zip(q_EnC.float(), k_EMC.float(), strict=True):
            mean_nM += (q_nC @ k_MC.T / math.sqrt(q_nC.shape[-1])).softmax(dim=-1)
        return mean_nM / self.heads

    def _queries_keys(self, x_nH: Tensor, keys_MH: Tensor) -> tuple[Tensor, Tensor]:
        q_EnC = self.q_norm(self._heads(self.q_proj(x_nH)))
        k_EMC = self.k_norm(self._heads(self.k_proj(keys_MH)))
        return q_EnC.to(x_nH.dtype), k_EMC.to(x_nH.dtype)

    def _heads(self, x_NH: Tensor) -> Tensor:
        return x_NH.unflatten(-1, (self.heads, -1)).transpose(0, 1)


class CrossAttentionAdapter(nn.Module):
    """Image tokens enriched by what they find in the scene. At the start they come out unchanged,
    bit for bit, because the last layer is zero."""

    def __init__(
        self,
        hidden: int,
        heads: int,
        geometry_width: int,
        *,
        form: Literal["paper", "release"] = "paper",
        metric_scale: bool = False,
    ) -> None:
        """
        Args:
            hidden, heads: of the language model.
            geometry_width: of a geometry token.
            form: eq. 14-15, or with LayerNorm and gate as released.
            metric_scale: one more key, made of the logarithm of the scene's metres per unit, as
                `scale_features` shows it.

        Raises:
            ConfigError: a width that the heads do not divide.
        """
        super().__init__()
        if hidden % heads or hidden % 4:
            raise ConfigError(f"width {hidden} is not a multiple of 4 and of {heads} heads")
        self.geometry_projector = _mlp(geometry_width, hidden, hidden)
        self.geom_cross_attention = CrossAttention(hidden, heads)
        self.geometry_adaptor = _mlp(hidden, hidden // 4, hidden)
        self.ln = nn.LayerNorm(hidden) if form == "release" else None
        self.geometry_gate = (
            nn.Sequential(nn.Linear(hidden, hidden), nn.Sigmoid()) if form == "release" else None
        )
        features = 2 * len(SCALE_FREQUENCIES)
        self.scale_projector = nn.Linear(features, hidden) if metric_scale else None
        zero_last(self.geometry_adaptor)

    def forward(
        self, image_tokens_nH: Tensor, geometry_ND: Tensor, log_scale: float | None = None
    ) -> Tensor:
        """(n, H), in the image tokens' dtype.

        Args:
            log_scale: natural logarithm of the scene's metres per unit; None: unknown, and then
                there is no key for it. Read with metric_scale.
        """
        x_nH, keys_MH = self._queries_keys(image_tokens_nH, geometry_ND, log_scale)
        found_nH = self.geom_cross_attention(x_nH, keys_MH)
        if self.ln is not None:
            found_nH = self.ln(found_nH)
        change_nH = self.geometry_adaptor(found_nH)
        if self.geometry_gate is not None:
            change_nH = change_nH * self.geometry_gate(found_nH)
        return image_tokens_nH + change_nH.to(image_tokens_nH.dtype)

    def attention(
        self, image_tokens_nH: Tensor, geometry_ND: Tensor, log_scale: float | None = None
    ) -> Tensor:
        """(n, N), how much each image token looks at each geometry token, mean over heads; float32.

        Rows sum to 1, with a known scale to less: the rest is on the scale's key.
        """
        x_nH, keys_MH = self._queries_keys(image_tokens_nH, geometry_ND, log_scale)
        return self.geom_cross_attention.shares(x_nH, keys_MH)[:, : len(geometry_ND)]

    def _queries_keys(
        self, image_tokens_nH: Tensor, geometry_ND: Tensor, log_scale: float | None
    ) -> tuple[Tensor, Tensor]:
        dtype = self.geom_cross_attention.q_proj.weight.dtype
        keys_MH = self.geometry_projector(geometry_ND.to(dtype))
        if self.scale_projector is not None and log_scale is not None:
            features_1F = keys_MH.new_tensor([scale_features(log_scale)])
            keys_MH = torch.cat((keys_MH, self.scale_projector(features_1F)))
        return image_tokens_nH.to(keys_MH.dtype), keys_MH


def scale_features(log_scale: float) -> list[float]:
    """Sine and cosine of a scale's natural logarithm at each of SCALE_FREQUENCIES."""
    angles = [frequency * log_scale for frequency in SCALE_FREQUENCIES]
    return [wave(angle) for angle in angles for wave in (math.sin, math.cos)]


def load_released(adapter: CrossAttentionAdapter, where: str | Path) -> None:
    """Fills an adapter of form "release" from the folder that `spa3r convert` wrote.

    Raises:
        TeacherError: nothing is there.
        WeightsError: not such a folder, or tensors that do not fit (all are named).
    """
    values = load_json(where, CONFIG_FILE)
    found = None if values is None else values.get("format")
    if found != ADAPTER_FORMAT:
        raise WeightsError(
            f"{where}: format {found!r}, not {ADAPTER_FORMAT!r}; give the adapter's folder that"
            " `spa3r convert` wrote"
        )
    load_strict(adapter, load_state_dict(where), where=where)


def zero_last(mlp: nn.Sequential) -> None:
    """Makes the last linear layer zero, so that what the network adds is nothing at first."""
    last = mlp[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def _mlp(width: int, middle: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, middle), nn.GELU(), nn.Linear(middle, out))
