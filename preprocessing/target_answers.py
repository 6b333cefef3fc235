"""One scene's questions to the teachers, in the order and the company in which they are asked.

Legend: V views, N tokens per view, F frames.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import safetensors.torch
from torch import Tensor

from preprocessing.target_parts import Part, Sample, Sums
from spa3r import schema
from spa3r.config import TeacherSpec
from spa3r.data.answers import (
    FrameKey,
    Sight,
    TeacherAnswers,
    broken_cameras,
    frame_keys,
    frame_widths,
)
from spa3r.data.clips import Clip
from spa3r.data.quantise import loop_dtype, pack_tokens
from spa3r.data.statistics import ChannelSums, require_finite
from spa3r.errors import TeacherError
from spa3r.plain import config_hash
from spa3r.teachers.base import GeometricTargets

PART_BYTES: Final = 1 << 20
"""Calls whose tokens are fewer share a part; of VGGT at its own size each call is a part."""
FRAMES_PER_CALL: Final = 16

Stored = Literal["clips", "frames", "statistics"]
"""All targets of the clips; tokens of single frames, and of the rest statistics; those alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneJob:
    """One scene's work; small enough to send to another machine."""

    out: str
    scene: str
    split: str
    stored: Stored
    spec_hash: str
    """Of all that decides the scene's files."""
    plan_hash: str
    """Of what of that is known without the teachers: shard, clips, what is stored of them."""
    clips: tuple[Clip, ...]
    measured: tuple[Clip, ...]
    """Those whose tokens enter the statistics."""
    views_per_call: int
    """Of the geometric teacher; a call has one clip at least."""

    @property
    def keeps_frames(self) -> bool:
        """Whether tokens of single frames are stored."""
        return self.stored != "statistics"


def frame_parts(answers: TeacherAnswers, job: SceneJob) -> list[Part]:
    """Tokens of the frames that are stored or, where none are, measured.

    Raises:
        ShardError: the scene's frames are not in the manifest.
    """
    kinds = frame_widths(answers.spec)
    keys = frames_of(job.clips if job.keeps_frames else job.measured)
    if not kinds or not keys:
        return []
    calls = [tuple(keys[i : i + FRAMES_PER_CALL]) for i in range(0, len(keys), FRAMES_PER_CALL)]
    grid_hw = answers.grid_hw(job.clips[0])
    sizes = [len(call) * _bytes(answers.spec, grid_hw, sum(kinds.values())) for call in calls]
    return [
        Part(
            name=_name(job, "frames", group),
            keys=tuple(frame_name(key) for call in group for key in call) * job.keeps_frames,
            look=lambda: None,
            make=partial(_make_frames, answers, job, group),
        )
        for group in _grouped(calls, sizes)
    ]


def clip_parts(answers: TeacherAnswers, job: SceneJob) -> list[Part]:
    """Geometric targets of the clips that are stored or, where none are, measured.

    Raises:
        ShardError: the scene's frames are not in the manifest.
    """
    stored = job.stored == "clips"
    calls = calls_of(job.clips if stored else job.measured, job.views_per_call)
    size = _bytes(answers.spec, answers.grid_hw(job.clips[0]), answers.spec.width)
    sizes = [size * sum(clip.num_views for clip in call) for call in calls]
    return [
        Part(
            name=_name(job, "clips", [[clip.id for clip in call] for call in group]),
            keys=tuple(clip.id for call in group for clip in call) * stored,
            look=partial(_look, answers, group),
            make=partial(_make_clips, answers, job, group),
        )
        for group in _grouped(calls, sizes)
    ]


def calls_of(clips: Sequence[Clip], views_per_call: int) -> list[tuple[Clip, ...]]:
    """Clips for one teacher call each: equal in views and context, at most so many views."""
    calls: list[tuple[Clip, ...]] = []
    for clip in sorted(clips, key=_shape):
        before = calls[-1] if calls else ()
        alike = bool(before) and _shape(before[0]) == _shape(clip)
        if alike and (len(before) + 1) * clip.num_views <= views_per_call:
            calls[-1] = (*before, clip)
        else:
            calls.append((clip,))
    return calls


def frames_of(clips: Sequence[Clip]) -> list[FrameKey]:
    """The frames of clips, each once, sorted."""
    return sorted({key for clip in clips for key in frame_keys(clip)})


def frame_name(key: FrameKey) -> str:
    """Key of a frame's sample."""
    return f"{key[1]:06d}{'m' if key[2] else ''}"


def clip_row(clip: Clip, split: str, grid_hw: tuple[int, int]) -> dict[str, Any]:
    """A clip as its row in clips.parquet says it, but for its place."""
    return {
        "id": clip.id, "dataset": clip.dataset, "scene": clip.scene, "split": split,
        "frames": list(clip.frames), "is_target": list(clip.is_target), "mirror": clip.mirror,
        "grid_height": grid_hw[0], "grid_width": grid_hw[1],
    }  # fmt: skip


def _shape(clip: Clip) -> tuple[int, int]:
    return clip.num_views, clip.num_context


def _bytes(spec: TeacherSpec, grid_hw: tuple[int, int], width: int) -> int:
    """Of one view's tokens, before any quantisation."""
    return math.prod(grid_hw) * width * loop_dtype(spec.dtype).itemsize


def _grouped(calls: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    """Calls in runs of PART_BYTES at least; the last run may be smaller."""
    groups: list[list[Any]] = []
    filled = PART_BYTES
    for call, size in zip(calls, sizes, strict=True):
        if filled >= PART_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(call)
        filled += size
    return groups


def _name(job: SceneJob, kind: str, what: Any) -> str:
    return f"{job.scene}.{kind}.{config_hash([job.spec_hash, kind, what])}.part"


# --- asking ---------------------------------------------------------------------------------------


def _make_frames(
    answers: TeacherAnswers, job: SceneJob, calls: Sequence[Sequence[FrameKey]], _views: None
) -> tuple[list[Sample], Sums]:
    spec, grid_hw = answers.spec, answers.grid_hw(job.clips[0])
    sums = {kind: ChannelSums(width) for kind, width in frame_widths(spec).items()}
    samples: list[Sample] = []
    for call in calls:
        found = answers.of_frames(call, grid_hw)
        for index, key in enumerate(call):
            packed: dict[str, Tensor] = {}
            for kind, tokens_FND in found.items():
                require_finite(tokens_FND[index], f"scene {job.scene}, frame {key[1]}")
                sums[kind].add(tokens_FND[index])
                packed |= pack_tokens(kind, tokens_FND[index], spec.dtype)
            if job.keeps_frames:
                samples.append((frame_name(key), {schema.SEM_PART: _payload(packed)}))
    return samples, sums


def _look(answers: TeacherAnswers, calls: Sequence[Sequence[Clip]]) -> list[list[Sight]]:
    return [[answers.look(clip) for clip in call] for call in calls]


def _make_clips(
    answers: TeacherAnswers,
    job: SceneJob,
    calls: Sequence[Sequence[Clip]],
    views: Sequence[Sequence[Sight]],
) -> tuple[list[Sample], Sums]:
    sums = {"geo": ChannelSums(answers.spec.width), "depth": ChannelSums(1)}
    samples: list[Sample] = []
    for call, sights in zip(calls, views, strict=True):
        targets = answers.of_clips(sights)
        for why in broken_cameras(targets, call).values():
            raise TeacherError(why)
        for index, clip in enumerate(call):
            for tokens in (targets.tokens_BVND[index], targets.context_BCND[index]):
                require_finite(tokens, f"clip {clip.id}")
            _measure(targets, index, sums)
            if job.stored == "clips":
                row = clip_row(clip, job.split, answers.grid_hw(clip))
                samples.append((clip.id, _clip_payloads(targets, index, row, answers.spec)))
    return samples, sums


def _measure(targets: GeometricTargets, index: int, sums: Sums) -> None:
    """Sums up the valid tokens of one clip, and its measured depths."""
    tokens_VND, valid_VN = targets.tokens_BVND[index], targets.valid_BVN[index]
    # View by view: a whole clip of VGGT tokens in float64 is a hundred megabytes.
    for tokens_ND, valid_N in zip(tokens_VND, valid_VN, strict=True):
        sums["geo"].add(tokens_ND[valid_N])
    depth_VN = targets.depth_BVN[index]
    sums["depth"].add(depth_VN[valid_VN & (depth_VN > 0)][:, None])


def _clip_payloads(
    targets: GeometricTargets, index: int, row: Mapping[str, Any], spec: TeacherSpec
) -> dict[str, bytes]:
    """One clip's tensors as spa3r.schema names them, and what a reader that streams the shard needs
    to know without the tables."""
    tensors = {
        schema.CAMERA_FROM_WORLD: targets.camera_from_world_BV44[index],
        schema.INTRINSICS: targets.K_BV33[index],
        schema.PATCH_DEPTH: targets.depth_BVN[index],
        schema.PATCH_VALID: targets.valid_BVN[index],
    }
    tensors |= pack_tokens(schema.GEO_TOKENS, targets.tokens_BVND[index], spec.dtype)
    if spec.passes == "two_pass":
        tensors |= pack_tokens(schema.GEO_CONTEXT, targets.context_BCND[index], spec.dtype)
    unit = float(targets.metres_per_unit_B[index])
    meta = {**row, "metres_per_unit": unit if math.isfinite(unit) else None}
    return {
        schema.CLIP_PART: _payload(tensors),
        schema.CLIP_META_PART: json.dumps(meta, sort_keys=True, allow_nan=False).encode(),
    }


def _payload(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: t.cpu().contiguous() for name, t in tensors.items()})
