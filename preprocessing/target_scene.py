"""The files of one scene's targets, put together from finished parts.

`<scene>.frames.tar` (tokens of single frames, one sample per frame and mirror, shared by clips),
`<scene>.clips.tar`, their indices as Parquet, the channels' sums and, last, the sidecar. Every file
is a pure function of shard, clips and teachers: work that was killed and started again ends with
the same bytes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import pyarrow as pa
import safetensors.torch
from torch import Tensor

from preprocessing import shards
from preprocessing.target_answers import SceneJob, clip_parts, clip_row, frame_parts, frames_of
from preprocessing.target_parts import (
    Part,
    blaming_the_scene,
    discard_parts,
    make_missing,
    samples_of,
)
from spa3r import schema, storage
from spa3r.config import TeacherSpec
from spa3r.data.answers import TeacherAnswers, frame_widths
from spa3r.data.statistics import ChannelSums, total_state
from spa3r.data.targets import (
    CLIP_COLUMNS,
    CLIP_TABLE,
    SEMANTIC_COLUMNS,
    SEMANTIC_TABLE,
    STATS_FILE,
)

CLIP_SCHEMA: Final = shards.arrow_schema(CLIP_COLUMNS)
FRAME_SCHEMA: Final = shards.arrow_schema(SEMANTIC_COLUMNS)
_NOWHERE: Final[dict[str, str | int]] = {"shard": "", "offset": 0, "size": 0}

States = list[Mapping[str, Tensor]]


def write_scene(answers: TeacherAnswers, job: SceneJob) -> None:
    """Asks the teachers what they have not been asked yet, and writes a scene's files.

    Raises:
        SceneFailedError: the teachers cannot answer; parts that were finished are kept.
        ShardError: out cannot be written, or a part is damaged.
    """
    shards.discard(shards.sidecar_url(job.out, job.scene))
    with blaming_the_scene():
        frames, clips = frame_parts(answers, job), clip_parts(answers, job)
        grid_hw = answers.grid_hw(job.clips[0])
    make_missing(job.out, [*frames, *clips])
    states: States = [_no_sums(answers.spec)]
    files: dict[str, shards.FileMark] = {}
    stored_frames = 0
    if job.keeps_frames and frame_widths(answers.spec):
        files |= _write_frames(job, frames, states)
        stored_frames = len(frames_of(job.clips))
    else:
        _only_sums(job, frames, states)
    files |= _write_clips(job, clips, grid_hw, states)
    name = f"{job.scene}.{STATS_FILE}"
    sums = safetensors.torch.save(total_state(states))
    files[name] = publish(storage.join(job.out, name), sums)
    counts = {"clips": len(job.clips), "frames": stored_frames, "plan_hash": job.plan_hash}
    shards.write_sidecar(
        job.out, job.scene, stage="targets", spec_hash=job.spec_hash, files=files, counts=counts
    )
    discard_parts(job.out, [*frames, *clips])


def widths(spec: TeacherSpec) -> dict[str, int]:
    """Channels of each kind of value that is summed up."""
    return {"geo": spec.width, "depth": 1} | frame_widths(spec)


def publish(url: str, data: bytes) -> shards.FileMark:
    """Writes a whole file. Raises ShardError."""
    with shards.writing(url) as f:
        f.write(data)
    return shards.FileMark(len(data), hashlib.sha256(data).hexdigest())


def _no_sums(spec: TeacherSpec) -> dict[str, Tensor]:
    """So that a scene of which nothing is measured has the same tensors."""
    empty = {kind: ChannelSums(width).state(kind) for kind, width in widths(spec).items()}
    return {name: x for state in empty.values() for name, x in state.items()}


def _only_sums(job: SceneJob, parts: Sequence[Part], states: States) -> None:
    for _ in samples_of(job.out, parts, states):
        pass


def _write_frames(
    job: SceneJob, parts: Sequence[Part], states: States
) -> dict[str, shards.FileMark]:
    """Tokens of the scene's frames, and their index."""
    tar, table = f"{job.scene}.frames.tar", f"{job.scene}.{SEMANTIC_TABLE}"
    index = shards.write_tar(storage.join(job.out, tar), samples_of(job.out, parts, states))
    rows = [
        {"scene": scene, "frame": frame, "mirror": mirror, "shard": tar, "offset": entry.offset,
         "size": entry.size}
        for (scene, frame, mirror), entry in zip(frames_of(job.clips), index.entries, strict=True)
    ]  # fmt: skip
    found = pa.Table.from_pylist(rows, FRAME_SCHEMA)
    mark = shards.write_parquet(storage.join(job.out, table), [found], FRAME_SCHEMA)
    return {tar: index.mark, table: mark}


def _write_clips(
    job: SceneJob, parts: Sequence[Part], grid_hw: tuple[int, int], states: States
) -> dict[str, shards.FileMark]:
    """Geometric targets of the scene's clips where they are stored, and an index of its clips."""
    files: dict[str, shards.FileMark] = {}
    places: dict[str, dict[str, str | int]] = {clip.id: _NOWHERE for clip in job.clips}
    if job.stored == "clips":
        tar = f"{job.scene}.clips.tar"
        index = shards.write_tar(storage.join(job.out, tar), samples_of(job.out, parts, states))
        files[tar] = index.mark
        places |= {
            entry.key: {"shard": tar, "offset": entry.offset, "size": entry.size}
            for entry in index.entries
            if entry.part == schema.CLIP_PART
        }
    else:
        _only_sums(job, parts, states)
    rows = [clip_row(clip, job.split, grid_hw) | places[clip.id] for clip in job.clips]
    table = f"{job.scene}.{CLIP_TABLE}"
    found = pa.Table.from_pylist(rows, CLIP_SCHEMA)
    files[table] = shards.write_parquet(storage.join(job.out, table), [found], CLIP_SCHEMA)
    return files
