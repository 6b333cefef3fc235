"""The PSFM objective (paper eq. 13; reference.md 2.1.8 and 2.2 #3, #4).

Legend: B scenes, V views, K chosen views, N tokens per view, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from spa3r.config import LossConfig
from spa3r.models.spa3r import FieldPrediction


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldTargets:
    """What a prediction is measured against; same views, same (standardised) units."""

    geo_BVND: Tensor | None
    sem_BVND: Tensor | None
    lang_BVND: Tensor | None = None
    depth_BVN: Tensor  # clip units, 0 = unknown
    valid_BVN: Tensor  # bool; a token that is not valid enters no loss
    is_target_BV: Tensor  # bool


def select_views(x_BV: Tensor, is_target_BV: Tensor) -> Tensor:
    """The marked views of each scene, in order: (B, V, ...) -> (B, K, ...).

    Cutting cameras and targets down to the target views before decoding gives the paper's loss for
    half of the decoder's work. The mask is read on the host: keep it there (it may be a CPU tensor
    whatever the device of x) and a GPU is never waited for.

    Raises:
        ValueError: the scenes do not have equally many marked views.
    """
    counts = set(is_target_BV.sum(dim=1).tolist())
    if len(counts) != 1:
        raise ValueError(f"scenes of one batch have {sorted(counts)} marked views, not one number")
    order_BV = is_target_BV.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    index_BK = order_BV[:, : counts.pop()].to(x_BV.device, non_blocking=True)
    scene_B1 = torch.arange(len(x_BV), device=x_BV.device)[:, None]
    return x_BV[scene_B1, index_BK]


def psfm_loss(
    prediction: FieldPrediction, targets: FieldTargets, config: LossConfig
) -> dict[str, Tensor]:
    """Every part of the objective and their plain sum, float32 scalars.

    Args:
        prediction: of the views in `targets`, all of a clip or the target views alone.

    Returns:
        "<kind>/l1" and "<kind>/cos" of the kinds that the model predicts (geo, sem, lang),
        "depth_prob" and "total". l1 is the mean over elements of L1 or of smooth L1 (beta 1); cos
        the mean of 1 - cosine; means over the valid tokens of the views that `config.views` counts.
        Where no token counts, a part is 0.
    """
    counts_BVN = targets.valid_BVN
    if config.views == "targets":
        counts_BVN = counts_BVN & targets.is_target_BV[..., None]
    weight_BVN = counts_BVN.float()
    losses: dict[str, Tensor] = {}
    for kind, predicted_BVND in prediction.features().items():
        target_BVND: Tensor | None = getattr(targets, f"{kind}_BVND")
        if target_BVND is None:
            raise ValueError(f"the model predicts {kind!r} but the targets have none")
        predicted_BVND, target_BVND = predicted_BVND.float(), target_BVND.float()
        error_BVND = _elementwise(predicted_BVND, target_BVND, config.kind)
        losses[f"{kind}/l1"] = _mean(error_BVND.mean(dim=-1), weight_BVN)
        cosine_BVN = F.cosine_similarity(predicted_BVND, target_BVND, dim=-1)
        losses[f"{kind}/cos"] = _mean(1 - cosine_BVN, weight_BVN)
    # The probe is a thermometer: smooth L1 whatever the features' loss is (reference.md 2.1.7).
    depth_BVN = targets.depth_BVN.float()
    error_BVN = _elementwise(prediction.depth_BVN.float(), depth_BVN, "smooth_l1")
    losses["depth_prob"] = _mean(error_BVN, weight_BVN * (depth_BVN > 0))
    losses["total"] = torch.stack(list(losses.values())).sum()
    return losses


def _elementwise(predicted: Tensor, target: Tensor, kind: str) -> Tensor:
    if kind == "smooth_l1":
        return F.smooth_l1_loss(predicted, target, reduction="none", beta=1.0)
    return F.l1_loss(predicted, target, reduction="none")


def _mean(x_BVN: Tensor, weight_BVN: Tensor) -> Tensor:
    return (x_BVN * weight_BVN).sum() / weight_BVN.sum().clamp_min(1.0)
