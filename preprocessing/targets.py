"""Frame shards in, teacher targets out. Plain functions; Prefect only calls them.

The unit of work is a scene: `<scene>.frames.tar` (semantic and linguistic tokens, one sample per
frame and mirror, shared by clips), `<scene>.clips.tar`, their indices as Parquet, the channels'
sums and, last, the sidecar. The split's tables, statistics and manifest are made from finished
scenes. Every file is a pure function of shards, clips and teachers: work that was killed and
started again ends with the same bytes.

Legend: V views, N tokens per view, D width.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import safetensors.torch
import torch
from torch import Tensor

from preprocessing import shards
from preprocessing.workers import process_pool
from spa3r import schema, storage
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.answers import FrameKey, TeacherAnswers, frame_keys, frame_widths
from spa3r.data.clips import Clip
from spa3r.data.shards import FrameTable
from spa3r.data.statistics import ChannelSums, mean_and_std
from spa3r.data.targets import (
    CLIP_COLUMNS,
    CLIP_TABLE,
    MANIFEST_FILE,
    SEMANTIC_COLUMNS,
    SEMANTIC_TABLE,
    STATS_FILE,
    Layout,
    draw_split,
    parse_tensors,
)
from spa3r.errors import ShardError
from spa3r.plain import config_hash, to_dict
from spa3r.progress import meter
from spa3r.teachers.base import GeometricTargets, GeometricTeacher, SemanticTeacher
from spa3r.teachers.build import build_geometric, build_linguistic, build_semantic

log = logging.getLogger(__name__)

_CLIP_SCHEMA: Final = shards.arrow_schema(CLIP_COLUMNS)
_FRAME_SCHEMA: Final = shards.arrow_schema(SEMANTIC_COLUMNS)

Teachers = Mapping[str, GeometricTeacher | SemanticTeacher | None]
"""By role: geometric, semantic, linguistic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetManifest:
    """What became of a split; all but `folder` and `reused` is in manifest.json too."""

    folder: str
    target_hash: str
    """Hex SHA-256 over the sorted scenes' files."""
    data_hash: str
    """Of the frame shards that the targets were made from."""
    scenes: int
    clips: int
    bytes: int
    """Of all scenes' files."""
    dropped: dict[str, str]
    """Scene -> why it gives no clip."""
    reused: int
    """Scenes that were already complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One scene's work; small enough to send to another process."""

    out: str
    scene: str
    split: str
    spec_hash: str
    clips: tuple[Clip, ...]


def write_targets(
    table: FrameTable,
    out: str | Path,
    *,
    clips: ClipSpec,
    teacher: TeacherSpec,
    split: str,
    workers: int = 1,
    device: str = "cpu",
    geometric: GeometricTeacher | None = None,
    semantic: SemanticTeacher | None = None,
    linguistic: SemanticTeacher | None = None,
) -> TargetManifest:
    """Draws the clips of a split's scenes and writes what the teachers say of them.

    Scenes that were finished before with the same clips, teachers and shard are left alone.

    Args:
        out: folder or URL of the split's targets.
        workers: processes, one thread each; teachers on a GPU and teachers given as objects work
            in this process.
        geometric, semantic, linguistic: teachers in place of those that the spec names.

    Raises:
        SceneError: no scene of the split is long enough for a clip.
        TeacherError, WeightsError: a teacher cannot be had or lacks what it needs.
        ConfigError: a teacher is given for a kind of token that the spec does not have.
        ShardError: shards cannot be read or out cannot be written; finished scenes are kept.
    """
    out = str(out)
    if removed := storage.remove_leftovers(out):
        log.info("%s: %d unfinished files of an earlier run removed", out, removed)
    drawn, dropped = draw_split(table, split, clips)
    for reason in dropped.values():
        log.warning("left out: %s", reason)
    if geometric or semantic or linguistic or device != "cpu":
        workers = 1
    geometric = geometric or build_geometric(teacher, device=device)
    semantic = semantic or build_semantic(teacher, device=device)
    linguistic = linguistic or build_linguistic(teacher, device=device)
    answers = TeacherAnswers(table, teacher, geometric, semantic, linguistic, device=device)
    teachers = {"geometric": geometric, "semantic": semantic, "linguistic": linguistic}
    same = [*_made_by(teacher, teachers), split, schema.SCHEMA_VERSION]
    jobs = [
        _Job(
            out=out, scene=scene, split=split, clips=tuple(of_scene),
            spec_hash=config_hash(clips, same, table.shard_hash(scene), _ids(of_scene)),
        )
        for scene, of_scene in sorted(drawn.items())
    ]  # fmt: skip
    reused = _write_scenes(answers, jobs, workers)
    facts = _merge(out, [job.scene for job in jobs], _widths(teacher))
    facts |= {"data_hash": table.data_hash, "dropped": dropped}
    made_with = {
        "schema": schema.SCHEMA_VERSION, "split": split, "clip_spec": to_dict(clips),
        "teacher": to_dict(teacher),
        "references": {role: one.reference() if one else None for role, one in teachers.items()},
    }  # fmt: skip
    shards.write_json(storage.join(out, MANIFEST_FILE), made_with | facts)
    return TargetManifest(folder=out, reused=reused, **facts)


def _made_by(spec: TeacherSpec, teachers: Teachers) -> list[Any]:
    """All that decides the teachers' numbers; weights that only moved give the same targets."""
    nowhere = replace(spec, geometric_uri="", semantic_uri="", linguistic_uri="")
    return [to_dict(nowhere), [[one.hash, one.precision] for one in teachers.values() if one]]


def _ids(clips: Sequence[Clip]) -> list[str]:
    """Each holds its clip's dataset, scene, ordered frames, partition and mirror."""
    return [clip.id for clip in clips]


def _write_scenes(answers: TeacherAnswers, jobs: Sequence[_Job], workers: int) -> int:
    """Does the jobs that are not done yet; returns how many were."""
    waiting = [job for job in jobs if not shards.is_complete(job.out, job.scene, job.spec_hash)]
    if waiting:
        # The tables point into shards that are about to change.
        for name in (MANIFEST_FILE, CLIP_TABLE, SEMANTIC_TABLE, STATS_FILE):
            shards.discard(storage.join(jobs[0].out, name))
    reused = len(jobs) - len(waiting)
    workers = min(workers, len(waiting))
    if workers > 1:
        finished = _in_processes(answers.table.folder, answers.spec, waiting, workers)
    else:
        finished = (_write_scene(answers, job) for job in waiting)
    with meter("targets", len(jobs), "scenes", done=reused) as progress:
        for scene in finished:
            progress.advance(note=scene)
    return reused


# --- processes ------------------------------------------------------------------------------------


def _in_processes(
    folder: str, teacher: TeacherSpec, jobs: Sequence[_Job], workers: int
) -> Iterator[str]:
    """Scenes as they finish."""
    pool = process_pool(workers, _one_torch_thread)
    try:
        futures = [pool.submit(_work, folder, teacher, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise ShardError(
            f"{jobs[0].out}: a worker died (out of memory?); run again with fewer workers, finished"
            " scenes are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _one_torch_thread() -> None:
    torch.set_num_threads(1)


@lru_cache(maxsize=1)
def _worker_answers(folder: str, teacher: TeacherSpec) -> TeacherAnswers:
    geometric, semantic = build_geometric(teacher), build_semantic(teacher)
    linguistic = build_linguistic(teacher)
    return TeacherAnswers(FrameTable(folder), teacher, geometric, semantic, linguistic)


def _work(folder: str, teacher: TeacherSpec, job: _Job) -> str:
    return _write_scene(_worker_answers(folder, teacher), job)


# --- one scene ------------------------------------------------------------------------------------


def _write_scene(answers: TeacherAnswers, job: _Job) -> str:
    """All files of one scene, the sidecar last; returns its name."""
    out, scene = job.out, job.scene
    shards.discard(shards.sidecar_url(out, scene))
    files: dict[str, shards.FileMark] = {}
    counts = {"clips": len(job.clips), "frames": 0}
    sums = {kind: ChannelSums(width) for kind, width in _widths(answers.spec).items()}
    if frame_widths(answers.spec):
        keys = sorted({key for clip in job.clips for key in frame_keys(clip)})
        counts["frames"] = len(keys)
        files |= _write_frames(answers, job, keys, sums)
    files |= _write_clips(answers, job, sums)
    states = {name: x for kind, one in sums.items() for name, x in one.state(kind).items()}
    name = f"{scene}.{STATS_FILE}"
    files[name] = _publish(storage.join(out, name), safetensors.torch.save(states))
    shards.write_sidecar(
        out, scene, stage="targets", spec_hash=job.spec_hash, files=files, counts=counts
    )
    return scene


def _write_frames(
    answers: TeacherAnswers, job: _Job, keys: Sequence[FrameKey], sums: Mapping[str, ChannelSums]
) -> dict[str, shards.FileMark]:
    """Tokens of the scene's frames, and their index."""
    grid_hw = answers.grid_hw(job.clips[0])

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        for key in keys:
            found = answers.of_frames([key], grid_hw)
            tensors = {kind: tokens_FND[0].cpu().contiguous() for kind, tokens_FND in found.items()}
            for kind, tokens_ND in tensors.items():
                sums[kind].add(tokens_ND, f"scene {job.scene}, frame {key[1]}")
            payload = safetensors.torch.save(tensors)
            yield f"{key[1]:06d}{'m' if key[2] else ''}", {schema.SEM_PART: payload}

    tar, rows_name = f"{job.scene}.frames.tar", f"{job.scene}.{SEMANTIC_TABLE}"
    index = shards.write_tar(storage.join(job.out, tar), samples())
    rows = [
        {"scene": scene, "frame": frame, "mirror": mirror, "shard": tar, "offset": entry.offset,
         "size": entry.size}
        for (scene, frame, mirror), entry in zip(keys, index.entries, strict=True)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows, _FRAME_SCHEMA)
    mark = shards.write_parquet(storage.join(job.out, rows_name), [table], _FRAME_SCHEMA)
    return {tar: index.mark, rows_name: mark}


def _write_clips(
    answers: TeacherAnswers, job: _Job, sums: Mapping[str, ChannelSums]
) -> dict[str, shards.FileMark]:
    """Geometric targets of the scene's clips, and their index."""
    rows = {clip.id: _row(clip, job, answers.grid_hw(clip)) for clip in job.clips}

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        for clip in job.clips:
            targets = answers.geometric([clip])
            tensors = _clip_tensors(targets, two_pass=answers.spec.passes == "two_pass")
            # View by view: a whole clip of VGGT tokens in float64 is a hundred megabytes.
            for tokens_ND, valid_N in zip(
                tensors[schema.GEO_TOKENS], tensors[schema.PATCH_VALID], strict=True
            ):
                sums["geo"].add(tokens_ND[valid_N], f"clip {clip.id}")
            depth_VN = tensors[schema.PATCH_DEPTH]
            sums["depth"].add(depth_VN[depth_VN > 0][:, None], f"depth of clip {clip.id}")
            meta = json.dumps(_meta(clip, targets, rows[clip.id]), sort_keys=True, allow_nan=False)
            payload = safetensors.torch.save(tensors)
            yield clip.id, {schema.CLIP_PART: payload, schema.CLIP_META_PART: meta.encode()}

    tar, rows_name = f"{job.scene}.clips.tar", f"{job.scene}.{CLIP_TABLE}"
    index = shards.write_tar(storage.join(job.out, tar), samples())
    for entry in index.entries:
        if entry.part == schema.CLIP_PART:
            rows[entry.key] |= {"shard": tar, "offset": entry.offset, "size": entry.size}
    table = pa.Table.from_pylist(list(rows.values()), _CLIP_SCHEMA)
    mark = shards.write_parquet(storage.join(job.out, rows_name), [table], _CLIP_SCHEMA)
    return {tar: index.mark, rows_name: mark}


def _row(clip: Clip, job: _Job, grid_hw: tuple[int, int]) -> dict[str, Any]:
    return {
        "id": clip.id, "dataset": clip.dataset, "scene": clip.scene, "split": job.split,
        "frames": list(clip.frames), "is_target": list(clip.is_target), "mirror": clip.mirror,
        "grid_height": grid_hw[0], "grid_width": grid_hw[1],
    }  # fmt: skip


def _clip_tensors(targets: GeometricTargets, *, two_pass: bool) -> dict[str, Tensor]:
    """The tensors of one clip (B = 1) as spa3r.schema names them."""
    tensors = {
        schema.GEO_TOKENS: targets.tokens_BVND,
        schema.CAMERA_FROM_WORLD: targets.camera_from_world_BV44,
        schema.INTRINSICS: targets.K_BV33,
        schema.PATCH_DEPTH: targets.depth_BVN,
        schema.PATCH_VALID: targets.valid_BVN,
    }
    if two_pass:
        tensors[schema.GEO_CONTEXT] = targets.context_BCND
    return {name: t[0].cpu().contiguous() for name, t in tensors.items()}


def _meta(clip: Clip, targets: GeometricTargets, row: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader that streams the shard needs to know, without the tables."""
    unit = float(targets.metres_per_unit_B[0])
    return {**row, "metres_per_unit": unit if math.isfinite(unit) else None}


def _publish(url: str, data: bytes) -> shards.FileMark:
    with shards.writing(url) as f:
        f.write(data)
    return shards.FileMark(len(data), hashlib.sha256(data).hexdigest())


# --- the split ------------------------------------------------------------------------------------


def _widths(teacher: TeacherSpec) -> dict[str, int]:
    """Channels of each kind of value that is summed up."""
    return {"geo": teacher.width, "depth": 1} | frame_widths(teacher)


def _merge(out: str, scenes: Sequence[str], widths: Mapping[str, int]) -> dict[str, Any]:
    """The split's tables and statistics out of finished scenes, sorted; facts about them.

    Raises:
        ShardError: a scene's file is damaged, or the split's cannot be written.
    """
    names = {CLIP_TABLE: _CLIP_SCHEMA}
    if set(widths) & set(schema.FRAME_KINDS):
        names[SEMANTIC_TABLE] = _FRAME_SCHEMA
    for name, arrow_schema in names.items():
        tables = (shards.read_parquet(storage.join(out, f"{scene}.{name}")) for scene in scenes)
        shards.write_parquet(storage.join(out, name), tables, arrow_schema)
    stats = mean_and_std(
        _read_sums(storage.join(out, f"{scene}.{STATS_FILE}"), widths) for scene in scenes
    )
    _publish(storage.join(out, STATS_FILE), safetensors.torch.save(stats))
    sidecars = {scene: shards.read_sidecar(out, scene) for scene in scenes}
    files = {scene: sidecar["files"] for scene, sidecar in sidecars.items()}
    return {
        "target_hash": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        "scenes": len(scenes),
        "clips": sum(sidecar["counts"]["clips"] for sidecar in sidecars.values()),
        "bytes": sum(mark["bytes"] for marks in files.values() for mark in marks.values()),
    }


def _read_sums(url: str, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """The states of one scene's ChannelSums."""
    layout: Layout = {}
    for kind, width in widths.items():
        for name, size in (("count", 1), ("sum", width), ("squares", width)):
            layout[f"{kind}_{name}"] = ((size,), torch.float64)
    cure = "delete it and run again"  # with its size unchanged, a run alone would use it again
    try:
        payload = storage.read_bytes(url)
    except OSError as error:
        raise ShardError(f"{url}: cannot be read ({error.strerror or error}); {cure}") from error
    return parse_tensors(payload, layout, url, cure=cure)
