"""Targets of single scenes in, sequential shards for training out.

A clip with all that belongs to it (its frames' tokens too) is one sample; a shard holds clips of
one view count, context count and size, shuffled across scenes. A reader then takes a batch in one
range, and a stream of shards is a shuffled stream of clips. Which clip lies where is a pure
function of the targets' hash, so work that was killed and started again, or was shared by threads,
ends with the same bytes.
"""

import hashlib
import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

import numpy as np
import pyarrow as pa
import safetensors.torch

from preprocessing import shards
from preprocessing.lock import output_lock
from spa3r import schema, storage
from spa3r.data.cached import CachedTargets
from spa3r.data.clips import Clip
from spa3r.data.targets import (
    CLIP_COLUMNS,
    CLIP_TABLE,
    MANIFEST_FILE,
    STATS_FILE,
    num_bytes,
    packed_layout,
)
from spa3r.errors import DamageError
from spa3r.plain import config_hash
from spa3r.progress import meter

log = logging.getLogger(__name__)

SHARD_BYTES: Final = 1 << 30
"""Of one shard, about."""
_CLIP_SCHEMA: Final = shards.arrow_schema(CLIP_COLUMNS)
_UNIT: Final = re.compile(r"v\d+-c\d+-\d+x\d+-\d{5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackManifest:
    """What was packed; all but `folder` and `reused` is in manifest.json, under "packed"."""

    folder: str
    pack_hash: str
    """Hex SHA-256 over the shards' files: which clip lies where."""
    shards: int
    clips: int
    bytes: int
    reused: int
    """Shards that were already complete."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """One shard's work."""

    name: str
    clips: tuple[Clip, ...]
    spec_hash: str


def pack_targets(
    targets: str | Path, out: str | Path, *, clips_per_shard: int = 0, workers: int = 1
) -> PackManifest:
    """Copies the clips of a folder of targets into sequential shards.

    Shards that were finished before, of the same targets, are left alone. No clip is left out: one
    that is damaged or not finite ends it, whatever data.poisoned says, and the tables of an earlier
    packing stay until the first new shard has all of its clips.

    Args:
        targets: what `spa3r targets` wrote, whole clips (DataConfig.stored).
        out: folder or URL of the shards.
        clips_per_shard: 0: as many as make a gigabyte.
        workers: threads, each with one shard at a time and one clip in memory.

    Raises:
        DamageError: a clip is absent, damaged or not finite, named with its file.
        ShardError: targets cannot be read, out cannot be written (finished shards are kept), or
            another process writes there.
    """
    source, out = CachedTargets(targets), str(out)
    units = _plan(source, clips_per_shard)
    with output_lock(out):
        if removed := storage.remove_leftovers(out):
            log.info("%s: %d unfinished files of an earlier run removed", out, removed)
        reused = _write_units(source, out, units, workers)
        facts = _merge(out, units)
        stats = storage.read_bytes(storage.join(source.folder, STATS_FILE))
        with shards.writing(storage.join(out, STATS_FILE)) as f:
            f.write(stats)
        manifest = {**source.manifest, "stored": "packed", "packed": facts}
        shards.write_json(storage.join(out, MANIFEST_FILE), manifest)
    return PackManifest(folder=out, reused=reused, **facts)


# --- which clip lies where ------------------------------------------------------------------------


def _plan(source: CachedTargets, clips_per_shard: int) -> list[_Unit]:
    """The shards, in the order of their names."""
    buckets: dict[tuple[int, int, tuple[int, int]], list[Clip]] = defaultdict(list)
    for clip in source.clips:
        buckets[clip.num_views, clip.num_context, source.grid_hw(clip)].append(clip)
    units: list[_Unit] = []
    for (views, context, grid_hw), clips in sorted(buckets.items()):
        size = num_bytes(packed_layout(clips[0], grid_hw, source.spec))
        per_shard = clips_per_shard or max(1, SHARD_BYTES // size)
        kind = f"v{views}-c{context}-{grid_hw[0]}x{grid_hw[1]}"
        order = _shuffled(len(clips), f"{source.target_hash}/{kind}")
        parts = np.array_split(order, math.ceil(len(clips) / per_shard))
        for number, part in enumerate(parts):
            chosen = tuple(clips[i] for i in part)
            ids = [clip.id for clip in chosen]
            spec_hash = config_hash([schema.SCHEMA_VERSION, source.target_hash, ids])
            units.append(_Unit(name=f"{kind}-{number:05d}", clips=chosen, spec_hash=spec_hash))
    return units


def _shuffled(count: int, seed: str) -> np.ndarray:
    digest = hashlib.sha256(seed.encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    return rng.permutation(count)


# --- shards ---------------------------------------------------------------------------------------


def _write_units(source: CachedTargets, out: str, units: Sequence[_Unit], workers: int) -> int:
    """Does the shards that are not done yet; returns how many were."""
    waiting = [unit for unit in units if not shards.is_complete(out, unit.name, unit.spec_hash)]
    planned = {unit.name for unit in units}
    stale = [name for name in storage.list_names(out) if _unit_of(name) not in {"", *planned}]
    former = _Former(out, (MANIFEST_FILE, CLIP_TABLE, STATS_FILE, *stale))
    if stale and not waiting:
        former.discard()
    with (
        meter("pack", len(units), "shards", done=len(units) - len(waiting)) as progress,
        ThreadPoolExecutor(workers) as pool,
    ):
        futures = [pool.submit(_write_unit, source, out, unit, former) for unit in waiting]
        try:
            for future in as_completed(futures):
                progress.advance(note=future.result())
        finally:
            pool.shutdown(cancel_futures=True)
    return len(units) - len(waiting)


class _Former:
    """Files of an earlier packing that new shards contradict. The threads share it."""

    def __init__(self, out: str, names: Sequence[str]) -> None:
        self._urls = [storage.join(out, name) for name in names]
        self._lock = Lock()

    def discard(self) -> None:
        """Deletes them, the manifest first; the second time there is nothing to do."""
        with self._lock:
            while self._urls:
                shards.discard(self._urls[0])
                del self._urls[0]


def _unit_of(name: str) -> str:
    """The shard that a file of this name belongs to; "" if to none."""
    match = _UNIT.match(name)
    return match.group() if match else ""


def _write_unit(source: CachedTargets, out: str, unit: _Unit, former: _Former) -> str:
    """A shard, its index and, last, its sidecar; returns its name."""
    tar, table = f"{unit.name}.tar", f"{unit.name}.{CLIP_TABLE}"
    splits = str(source.manifest.get("split", ""))
    rows = {clip.id: _row(clip, source.grid_hw(clip), splits) for clip in unit.clips}

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        yield from _samples(source, unit, rows)
        # All was read: the shard appears when this returns.
        former.discard()
        shards.discard(shards.sidecar_url(out, unit.name))

    # One key in one tar: a clip's id is its WebDataset key but for dots.
    index = shards.write_tar(storage.join(out, tar), samples())
    payloads = [entry for entry in index.entries if entry.part == schema.CLIP_PART]
    found = [
        rows[clip.id] | {"shard": tar, "offset": entry.offset, "size": entry.size}
        for clip, entry in zip(unit.clips, payloads, strict=True)
    ]
    arrow = pa.Table.from_pylist(found, _CLIP_SCHEMA)
    mark = shards.write_parquet(storage.join(out, table), [arrow], _CLIP_SCHEMA)
    shards.write_sidecar(
        out, unit.name, stage="pack", spec_hash=unit.spec_hash,
        files={tar: index.mark, table: mark}, counts={"clips": len(unit.clips)},
    )  # fmt: skip
    return unit.name


def _samples(
    source: CachedTargets, unit: _Unit, rows: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    for clip in unit.clips:
        try:
            stored = source.read_stored(clip)
        except DamageError as error:
            raise DamageError(
                f"{error}, then pack again: packing leaves no clip out, data.poisoned=drop or not"
            ) from error
        tensors = {name: x.contiguous() for name, x in stored.items()}
        meta = json.dumps(rows[clip.id], sort_keys=True, allow_nan=False).encode()
        yield clip.id, {
            schema.CLIP_PART: safetensors.torch.save(tensors), schema.CLIP_META_PART: meta
        }  # fmt: skip


def _row(clip: Clip, grid_hw: tuple[int, int], split: str) -> dict[str, Any]:
    return {
        **asdict(clip), "id": clip.id, "split": split, "frames": list(clip.frames),
        "is_target": list(clip.is_target), "grid_height": grid_hw[0], "grid_width": grid_hw[1],
    }  # fmt: skip


def _merge(out: str, units: Sequence[_Unit]) -> dict[str, Any]:
    """The table of all clips out of finished shards; facts about them.

    Raises:
        ShardError: a shard's file is damaged, or the table cannot be written.
    """
    tables = shards.read_tables([storage.join(out, f"{u.name}.{CLIP_TABLE}") for u in units])
    shards.write_parquet(storage.join(out, CLIP_TABLE), tables, _CLIP_SCHEMA)
    sidecars = {unit.name: shards.read_sidecar(out, unit.name) for unit in units}
    files = {name: sidecar["files"] for name, sidecar in sidecars.items()}
    return {
        "pack_hash": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        "shards": len(units),
        "clips": sum(sidecar["counts"]["clips"] for sidecar in sidecars.values()),
        "bytes": sum(mark["bytes"] for marks in files.values() for mark in marks.values()),
    }
