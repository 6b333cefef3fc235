"""Several datasets' manifests become one, so that later stages see a single dataset.

No shard is copied: the merged rows name their members' shards by path or URL. The members must stay
where they are and as they are: readers compare each with the hash that is recorded here, and ask
for a new merge when one has changed.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from preprocessing import manifests, shards
from preprocessing.ingest import FRAME_SCHEMA
from preprocessing.lock import output_lock
from spa3r import schema, storage
from spa3r.errors import ConfigError, ShardError
from spa3r.schema import SCHEMA_VERSION

_SUMMED = ("scenes", "announced", "frames")


def merge_manifests(folders: Sequence[str], out: str, name: str) -> dict[str, Any]:
    """Writes one manifest over the scenes of several datasets; returns its manifest.json.

    Args:
        folders: paths or URLs that ingest wrote, each with manifest.parquet and manifest.json.
        out: folder or URL for the merged manifest; it may hold an earlier merge.
        name: of the merged dataset; every scene keeps the name of its own in the table.

    Raises:
        ConfigError: a folder is there twice, is a merge itself, or is `out`; or `out` holds shards.
        ShardError: a manifest is missing, damaged or of another schema; two members have a scene
            of one name; or out cannot be written.
    """
    out, folders = _absolute(out), [_absolute(folder) for folder in folders]
    if not folders or len(set(folders)) != len(folders) or out in folders:
        raise ConfigError(f"{out}: merge different datasets into another folder, got {folders}")
    members = {folder: _read_manifest(folder) for folder in folders}
    _require_own_folder(out)
    _require_distinct_scenes(members)
    with output_lock(out), ExitStack() as files:
        manifests.remove_leftovers(out)
        tables = heapq.merge(
            *(_scene_tables(folder, m, files) for folder, m in members.items()), key=lambda t: t[0]
        )
        manifests.publish(out, _facts(members, name), (table for _, table in tables))
    return storage.read_json(storage.join(out, shards.MANIFEST_JSON))


def _absolute(folder: str) -> str:
    """The folder as readers in other processes will find it."""
    return url_to_fs(folder)[1] if storage.is_local(folder) else folder.rstrip("/")


def _read_manifest(folder: str) -> dict[str, Any]:
    url = storage.join(folder, shards.MANIFEST_JSON)
    if not storage.exists(url):
        raise ShardError(f"{url}: absent; ingest that dataset first")
    manifest = storage.read_json(url)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA_VERSION:
        raise ShardError(f"{url}: not of schema {SCHEMA_VERSION}; ingest that dataset again")
    if "merged" in manifest:
        raise ConfigError(f"{folder}: is a merge itself; name its members instead")
    wanted = {"dataset": str, "data_hash": str, "shards": dict, "splits": dict, "dropped": dict,
              "failures": dict, "kept_out": dict, "benchmark_scenes": str,
              "benchmark_trained": list, **dict.fromkeys(_SUMMED, int)}  # fmt: skip
    wrong = [key for key, kind in wanted.items() if not isinstance(manifest.get(key), kind)]
    if wrong or set(manifest["shards"]) != set(manifest["splits"]):
        raise ShardError(f"{url}: not a manifest of frames ({wrong}); ingest that dataset again")
    return manifest


def _require_own_folder(out: str) -> None:
    url = storage.join(out, shards.MANIFEST_JSON)
    if storage.exists(url) and "merged" not in storage.read_json(url):
        raise ConfigError(f"{out}: holds a dataset that was ingested; give the merge another name")


def _require_distinct_scenes(members: Mapping[str, Mapping[str, Any]]) -> None:
    home: dict[str, str] = {}
    for folder, manifest in members.items():
        for scene in manifest["shards"]:
            if home.setdefault(scene, folder) != folder:
                raise ShardError(
                    f"scene {scene} is in {home[scene]} and in {folder}; rename it in one of them"
                )


def _facts(members: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """All of the merged manifest.json but schema and table."""
    each = list(members.values())
    hashes: dict[str, str] = {}
    splits: dict[str, str] = {}
    for manifest in each:
        hashes |= manifest["shards"]
        splits |= manifest["splits"]
    merged = [
        {"folder": folder, **{key: m[key] for key in ("dataset", "data_hash", "scenes")}}
        for folder, m in members.items()
    ]
    allowed = any(m["benchmark_scenes"] == "allow" for m in each)
    return {
        "dataset": name,
        "merged": merged,
        "data_hash": schema.data_hash(hashes, splits),
        "shards": hashes,
        "splits": splits,
        **{key: sum(m[key] for m in each) for key in _SUMMED},
        "dropped": dict(sorted(sum((Counter(m["dropped"]) for m in each), Counter()).items())),
        **{
            key: {s: w for m in each for s, w in m[key].items()} for key in ("failures", "kept_out")
        },
        "benchmark_scenes": "allow" if allowed else "keep_out",
        "benchmark_trained": sorted(s for m in each for s in m["benchmark_trained"]),
    }


def _scene_tables(
    folder: str, manifest: Mapping[str, Any], files: ExitStack
) -> Iterator[tuple[str, pa.Table]]:
    """(scene, its rows) of one member in the order of scenes; a row group in memory.

    Raises:
        ShardError: the table is unreadable, or of other scenes than manifest.json.
    """
    url = storage.join(folder, shards.MANIFEST_TABLE)
    seen: list[str] = []
    try:
        file = pq.ParquetFile(files.enter_context(storage.open_read(url)))
        for group in range(file.num_row_groups):
            table = file.read_row_group(group).cast(FRAME_SCHEMA)
            scenes = table["scene"].to_pylist()
            starts = [i for i, scene in enumerate(scenes) if i == 0 or scene != scenes[i - 1]]
            for start, end in pairwise([*starts, len(scenes)]):
                seen.append(scenes[start])
                yield seen[-1], _with_urls(table.slice(start, end - start), folder, url)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ShardError(f"{url}: unreadable ({error}); ingest that dataset again") from error
    if seen != sorted(manifest["shards"]):
        raise ShardError(f"{url}: lists other scenes than manifest.json; ingest that dataset again")


def _with_urls(table: pa.Table, folder: str, url: str) -> pa.Table:
    names = table["shard"].to_pylist()
    if any("/" in name for name in names):
        raise ShardError(f"{url}: names shards outside its folder; ingest that dataset again")
    urls = pa.array([storage.join(folder, name) if name else "" for name in names], pa.string())
    place = table.schema.get_field_index("shard")
    return table.set_column(place, FRAME_SCHEMA.field("shard"), urls)
