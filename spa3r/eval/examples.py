"""Held-out clips to look at: what the student saw, what it was asked, and what it answered.

Legend: V views, T target views, N tokens per view, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from spa3r.data.batch import TargetSource
from spa3r.data.clips import Clip
from spa3r.data.shards import FrameTable
from spa3r.eval.field import TrainStats, decode_views, encode_context, feature_spaces
from spa3r.eval.field_report import MODEL
from spa3r.eval.scoring import SceneScores, Truth
from spa3r.models.spa3r import Spa3RModel


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipExample:
    """One clip for the report. Features are in student space; depth in clip units, 0 = unknown."""

    scene: str
    clip: str
    frames: tuple[int, ...]
    is_target: tuple[bool, ...]
    grid_hw: tuple[int, int]
    images_VHW3: np.ndarray  # uint8
    target: Mapping[str, np.ndarray]  # kind: (T, N, D) float16
    predicted: Mapping[str, np.ndarray]
    depth_TN: np.ndarray  # float32
    predicted_depth_TN: np.ndarray
    valid_TN: np.ndarray  # bool
    scores: Mapping[str, float]  # the student's, on this clip alone


def example_clips(
    model: Spa3RModel,
    source: TargetSource,
    table: FrameTable,
    count: int,
    *,
    train_stats: TrainStats | None = None,
    device: torch.device | str = "cpu",
) -> list[ClipExample]:
    """The first clip of each of the first scenes of a held-out source, not the best ones.

    The model is moved to the device and left in eval mode.
    """
    first: dict[str, Clip] = {}
    for clip in source.clips:
        first.setdefault(f"{clip.dataset}/{clip.scene}", clip)
    model.eval().to(device)
    chosen = list(first.values())[:count]
    return [_example(model, source, table, clip, train_stats, device) for clip in chosen]


@torch.inference_mode()
def _example(
    model: Spa3RModel,
    source: TargetSource,
    table: FrameTable,
    clip: Clip,
    train_stats: TrainStats | None,
    device: torch.device | str,
) -> ClipExample:
    spaces = feature_spaces(model, train_stats)
    batch = source.load([clip]).to(device)
    truth = Truth(batch, spaces)
    target = truth.is_target_V
    views_T = target.nonzero()[:, 0]
    answer = decode_views(model, encode_context(model, batch), batch, views_T)
    assert answer.depth_TN is not None  # the student always has its depth probe
    scores = SceneScores(spaces)
    scores.add(MODEL, answer, truth)
    views = [table.load_frame(clip.scene, frame, mirror=clip.mirror) for frame in clip.frames]
    return ClipExample(
        scene=clip.scene,
        clip=clip.id,
        frames=clip.frames,
        is_target=clip.is_target,
        grid_hw=batch.grid_hw,
        images_VHW3=np.stack([view.color for view in views]),
        target={kind: x[target].half().cpu().numpy() for kind, x in truth.features.items()},
        predicted={kind: x.half().cpu().numpy() for kind, x in answer.features.items()},
        depth_TN=torch.where(truth.known_VN, truth.depth_VN, 0)[target].cpu().numpy(),
        predicted_depth_TN=answer.depth_TN.float().cpu().numpy(),
        valid_TN=truth.valid_VN[target].cpu().numpy(),
        scores=scores.finish()[MODEL],
    )
