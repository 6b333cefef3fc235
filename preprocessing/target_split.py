"""A split's tables and statistics, made of finished scenes; which clips are measured."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from preprocessing import shards
from preprocessing.target_answers import Stored
from preprocessing.target_scene import CLIP_SCHEMA, FRAME_SCHEMA, publish, widths
from spa3r import schema, storage
from spa3r.config import TeacherSpec
from spa3r.data.clips import Clip
from spa3r.data.statistics import mean_and_std
from spa3r.data.targets import (
    CLIP_TABLE,
    MANIFEST_FILE,
    SEMANTIC_TABLE,
    STATS_FILE,
    Layout,
    parse_tensors,
)
from spa3r.errors import ShardError


def measured_clips(clips: Sequence[Clip], count: int, seed: int) -> frozenset[str]:
    """Ids of at most so many clips, drawn without regard to their order or to other clips."""

    def rank(clip: Clip) -> bytes:
        return hashlib.sha256(f"{seed}/{clip.id}".encode()).digest()

    return frozenset(clip.id for clip in sorted(clips, key=rank)[:count])


def discard_tables(out: str) -> None:
    """Before a scene's files change: the split's point into them. Raises ShardError."""
    for name in (MANIFEST_FILE, CLIP_TABLE, SEMANTIC_TABLE, STATS_FILE):
        shards.discard(storage.join(out, name))


def merge(out: str, scenes: Sequence[str], spec: TeacherSpec, stored: Stored) -> dict[str, Any]:
    """The split's tables and statistics out of finished scenes, sorted; facts about them.

    Raises:
        ShardError: a scene's file is damaged, or the split's cannot be written.
    """
    kinds = widths(spec)
    names = {CLIP_TABLE: CLIP_SCHEMA}
    if set(kinds) & set(schema.FRAME_KINDS) and stored != "statistics":
        names[SEMANTIC_TABLE] = FRAME_SCHEMA
    for name, arrow_schema in names.items():
        tables = shards.read_tables([storage.join(out, f"{scene}.{name}") for scene in scenes])
        shards.write_parquet(storage.join(out, name), tables, arrow_schema)
    urls = [storage.join(out, f"{scene}.{STATS_FILE}") for scene in scenes]
    stats = mean_and_std(storage.at_once(out, lambda url: _read_sums(url, kinds), urls))
    publish(storage.join(out, STATS_FILE), safetensors.torch.save(stats))
    sidecars = dict(zip(scenes, storage.at_once(
        out, lambda scene: shards.read_sidecar(out, scene), scenes), strict=True
    ))  # fmt: skip
    files = {scene: sidecar["files"] for scene, sidecar in sidecars.items()}
    return {
        "target_hash": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        "scenes": len(scenes),
        "clips": sum(sidecar["counts"]["clips"] for sidecar in sidecars.values()),
        "bytes": sum(mark["bytes"] for marks in files.values() for mark in marks.values()),
    }


def _read_sums(url: str, kinds: Mapping[str, int]) -> dict[str, Tensor]:
    """The states of one scene's ChannelSums."""
    layout: Layout = {}
    for kind, width in kinds.items():
        for name, size in (("count", 1), ("sum", width), ("squares", width)):
            layout[f"{kind}_{name}"] = ((size,), torch.float64)
    cure = "delete it and run again"  # with its size unchanged, a run alone would use it again
    try:
        payload = storage.read_bytes(url)
    except OSError as error:
        raise ShardError(f"{url}: cannot be read ({error.strerror or error}); {cure}") from error
    return parse_tensors(payload, layout, url, cure=cure)
