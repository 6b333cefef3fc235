"""Scores of predicted tokens, summed in float64 over a scene and divided once at its end.

Legend: M tokens, D width.

R2, centred cosine and L1 live in the student's own space: standardised per channel where the
student standardises, teacher units elsewhere. The raw cosine is always taken in teacher units; it
is listed because the literature lists it, and it flatters: a constant map scores 0.85 and more.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

FEATURE_METRICS = ("r2", "centred_cosine", "cosine", "l1")
DEPTH_METRICS = ("abs_rel", "delta1")
_DELTA1 = 1.25
_MIN_DEPTH = 1e-6  # clip units: keeps the ratio finite where the probe answers zero or less


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpace:
    """Where one kind of token is scored: student space = (teacher units - shift) / scale."""

    shift_D: Tensor
    scale_D: Tensor
    centre_D: Tensor  # the training mean, in student space

    def enter(self, x: Tensor) -> Tensor:
        """Teacher units to student space, as float32."""
        return (x.float() - self.shift_D) / self.scale_D

    def leave(self, x: Tensor) -> Tensor:
        """Student space to teacher units."""
        return x * self.scale_D + self.shift_D

    def to(self, device: torch.device | str) -> "FeatureSpace":
        """This space with its tensors on a device."""
        return FeatureSpace(
            shift_D=self.shift_D.to(device),
            scale_D=self.scale_D.to(device),
            centre_D=self.centre_D.to(device),
        )


@dataclass(slots=True)
class FeatureSums:
    """Running sums over the valid target tokens of one scene, one method, one kind of token."""

    tokens: int = 0
    error: float = 0.0
    spread: float = 0.0
    centred_cosine: float = 0.0
    cosine: float = 0.0
    l1: float = 0.0

    def add(self, prediction_MD: Tensor, target_MD: Tensor, space: FeatureSpace) -> None:
        """Adds tokens given in student space."""
        if not len(target_MD):
            return
        p, t = prediction_MD.double(), target_MD.double()
        centre = space.centre_D.double()
        self.tokens += len(t)
        self.error += (p - t).square().sum().item()
        self.spread += (t - centre).square().sum().item()
        self.centred_cosine += cosine_similarity(p - centre, t - centre, dim=-1).sum().item()
        self.cosine += cosine_similarity(space.leave(p), space.leave(t), dim=-1).sum().item()
        self.l1 += (p - t).abs().mean(dim=-1).sum().item()

    def metrics(self) -> dict[str, float]:
        """R2 = 1 - error / spread about the training mean, and token means of the others.

        Empty when nothing was added or every target equals the training mean (R2 undefined).
        """
        if not self.tokens or self.spread <= 0:
            return {}
        return {
            "r2": 1 - self.error / self.spread,
            "centred_cosine": self.centred_cosine / self.tokens,
            "cosine": self.cosine / self.tokens,
            "l1": self.l1 / self.tokens,
        }


@dataclass(slots=True)
class DepthSums:
    """Running sums over the target patches with known depth."""

    patches: int = 0
    abs_rel: float = 0.0
    within: int = 0

    def add(self, prediction_M: Tensor, target_M: Tensor) -> None:
        """Adds depths in clip units; every target must be positive."""
        p, t = prediction_M.double().clamp(min=_MIN_DEPTH), target_M.double()
        self.patches += len(t)
        self.abs_rel += ((p - t).abs() / t).sum().item()
        self.within += int((torch.maximum(p / t, t / p) < _DELTA1).sum())

    def metrics(self) -> dict[str, float]:
        """Mean relative error and the share within a factor of 1.25; empty without depth."""
        if not self.patches:
            return {}
        return {"abs_rel": self.abs_rel / self.patches, "delta1": self.within / self.patches}
