"""Bytes that a scene's targets will take, from shapes alone.

The payloads and tars are counted to the byte, but for the digits of a clip's scale. Tables and
sidecars, a few kilobytes a scene, are not counted.
"""

import json
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import safetensors.torch
import torch

from preprocessing.shards import Snapshot
from preprocessing.target_answers import SceneJob, clip_row, frames_of
from preprocessing.target_scene import widths
from spa3r.config import TeacherSpec
from spa3r.data.answers import frame_widths, grid_of
from spa3r.data.clips import Clip
from spa3r.data.quantise import Layout
from spa3r.data.shards import FrameTable
from spa3r.data.targets import clip_layout, frame_layout, num_bytes, packed_layout
from spa3r.errors import ShardError

_BLOCK: Final = 512  # of a tar: a header, and what payloads are padded to
_RECORD: Final = 20 * _BLOCK  # what a tar is padded to
_SOME_SCALE: Final = 1.2345678901234567


def scene_bytes(job: SceneJob, grid_hw: tuple[int, int], spec: TeacherSpec) -> dict[str, int]:
    """By kind: "clips" (tokens, cameras and depth), "frames" (tokens of single frames), "sums"."""
    sums = sum(8 * (1 + 2 * width) for width in widths(spec).values())
    found = {"clips": 0, "frames": 0, "sums": sums}
    if job.stored == "clips":
        found["clips"] = _tar(
            size for clip in job.clips for size in _clip_parts(clip, job.split, grid_hw, spec)
        )
    if job.keeps_frames and frame_widths(spec):
        payload = _payload(_key(frame_layout(grid_hw, spec)))
        found["frames"] = _tar(payload for _ in frames_of(job.clips))
    return found


def packed_bytes(job: SceneJob, grid_hw: tuple[int, int], spec: TeacherSpec) -> int:
    """Of the same clips in sequential shards, each with its frames' tokens; but for what holds the
    shards together."""
    return sum(num_bytes(packed_layout(clip, grid_hw, spec)) for clip in job.clips)


def packed_left(jobs: Sequence[SceneJob], table: FrameTable, spec: TeacherSpec, folder: str) -> int:
    """Bytes of these scenes in sequential shards, less those of the shards that are finished.

    Raises:
        ShardError: the folder of the shards does not answer.
    """
    grids = (grid_of(table, job.clips[0], spec.patch_size) for job in jobs)
    total = sum(packed_bytes(job, grid, spec) for job, grid in zip(jobs, grids, strict=True))
    try:
        found = Snapshot(folder)
    except OSError as error:
        raise ShardError(f"{folder}: does not answer ({error.strerror or error})") from error
    marks = [mark for unit in found.units if (mark := found.sidecar(unit))]
    return max(0, total - sum(f["bytes"] for mark in marks for f in mark["files"].values()))


def _clip_parts(
    clip: Clip, split: str, grid_hw: tuple[int, int], spec: TeacherSpec
) -> tuple[int, int]:
    meta = clip_row(clip, split, grid_hw) | {"metres_per_unit": _SOME_SCALE}
    payload = _payload(_key(clip_layout(clip, grid_hw, spec)))
    return payload, len(json.dumps(meta, sort_keys=True))


_Key = tuple[tuple[str, tuple[int, ...], torch.dtype], ...]


def _key(layout: Layout) -> _Key:
    return tuple((name, shape, dtype) for name, (shape, dtype) in layout.items())


@lru_cache(maxsize=64)
def _payload(layout: _Key) -> int:
    """Bytes of a safetensors file: its header ends with the tensors' places, so it is made."""
    return len(safetensors.torch.save({n: torch.zeros(s, dtype=d) for n, s, d in layout}))


def _tar(members: Iterable[int]) -> int:
    blocks = sum(1 + math.ceil(size / _BLOCK) for size in members) + 2
    return math.ceil(blocks * _BLOCK / _RECORD) * _RECORD
