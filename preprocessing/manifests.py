"""The manifest of a dataset: which scenes there are, how they may be used, and one hash of it all.

`manifest.parquet` and `manifest.json` belong together and are replaced together; each content that
training may depend on is kept as `versions/<first 12 hex digits of data_hash>.json`, for good.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from preprocessing import shards
from preprocessing.ingest import FRAME_SCHEMA, SceneResult
from preprocessing.scene import SceneSource
from spa3r import schema, storage
from spa3r.config import IngestSpec
from spa3r.errors import ShardError
from spa3r.guard import guarded_split, held_out
from spa3r.plain import to_dict

VERSIONS_FOLDER: Final = "versions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What became of a dataset; manifest.json has it all but `folder`, `reused`, `changed`."""

    folder: str
    dataset: str
    data_hash: str
    """Hex SHA-256 over the sorted scenes, their tars' hashes and their splits."""
    scenes: int
    announced: int
    frames: int
    """Kept frames."""
    dropped: dict[str, int]
    failures: dict[str, str]
    """Scene -> why it cannot be used, one line."""
    kept_out: dict[str, str]
    """Scene -> why it may not be trained on, though a split list says so."""
    benchmark_scenes: str
    """IngestSpec.benchmark_scenes."""
    benchmark_trained: list[str]
    """Scenes that a benchmark asks about and that may be trained on all the same ("allow")."""
    removed: list[str]
    """Scenes whose shards lie here, but whose scans are gone: not part of the manifest."""
    reused: int
    """Scenes that were already complete."""
    changed: dict[str, list[str]]
    """Scenes that were read in this run, by why."""


def write_manifest(
    out: str,
    dataset: str,
    spec: IngestSpec,
    sources: Sequence[SceneSource],
    results: Sequence[SceneResult],
    *,
    failures: Mapping[str, str],
    removed: Sequence[str],
    changed: dict[str, list[str]],
) -> Manifest:
    """Merges the scenes' tables, by name, each with its split; manifest.json last.

    Nothing is written where the manifest there says the same already.

    Raises:
        ShardError: a scene's table is unreadable, or out cannot be written.
    """
    results = sorted(results, key=lambda r: r.scene)
    hashes = {r.scene: r.sha256 for r in results}
    splits, guard = _guarded(sources, spec, set(hashes))
    dropped = sum((Counter(r.dropped) for r in results), Counter())
    facts: dict[str, Any] = {
        "dataset": dataset,
        "data_hash": schema.data_hash(hashes, splits),
        "scenes": len(results),
        "announced": sum(r.announced for r in results),
        "frames": sum(r.kept for r in results),
        "dropped": dict(sorted(dropped.items())),
        "failures": dict(sorted(failures.items())),
        "removed": list(removed),
        **guard,
    }
    value = {"spec": to_dict(spec), "shards": hashes, "splits": splits, **facts}
    if not _is_published(out, value):
        publish(out, value, _tables(out, splits))
    return Manifest(folder=out, reused=sum(r.reused for r in results), changed=changed, **facts)


def publish(out: str, value: Mapping[str, Any], tables: Iterable[pa.Table]) -> None:
    """Writes a manifest's table, its version and, last, manifest.json.

    Args:
        value: of manifest.json, all but its schema and the table's mark.
        tables: of FRAME_SCHEMA, in the order of scenes.

    Raises:
        ShardError: out cannot be written.
    """
    shards.discard_manifest(out)  # the old one's halves belong to each other only
    mark = shards.write_parquet(storage.join(out, shards.MANIFEST_TABLE), tables, FRAME_SCHEMA)
    value = {"schema": schema.SCHEMA_VERSION, "table": mark._asdict(), **value}
    version = storage.join(out, VERSIONS_FOLDER, f"{value['data_hash'][:12]}.json")
    if not storage.exists(version):
        shards.write_json(version, value)
    shards.write_json(storage.join(out, shards.MANIFEST_JSON), value)


def remove_leftovers(out: str) -> int:
    """Deletes temporary files that a killed process left in a folder of shards; how many."""
    return sum(storage.remove_leftovers(f) for f in (out, storage.join(out, VERSIONS_FOLDER)))


def _guarded(
    sources: Sequence[SceneSource], spec: IngestSpec, scenes: set[str]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Scene -> split, and what the leakage guard has to say, for the usable scenes."""
    splits: dict[str, str] = {}
    kept_out: dict[str, str] = {}
    trained: list[str] = []
    for source in sorted(sources, key=lambda s: s.name):
        if source.name not in scenes:
            continue
        split, why = guarded_split(source.dataset, source.name, source.split, spec)
        splits[source.name] = split
        if why:
            kept_out[source.name] = why
        if split == "train" and held_out(source.dataset, source.name):
            trained.append(source.name)
    return splits, {
        "kept_out": kept_out,
        "benchmark_scenes": spec.benchmark_scenes,
        "benchmark_trained": trained,
    }


def _is_published(out: str, value: Mapping[str, Any]) -> bool:
    """Whether the manifest that lies there has this content, its table being of the right size."""
    try:
        there = dict(storage.read_json(storage.join(out, shards.MANIFEST_JSON)))
        size = storage.size(storage.join(out, shards.MANIFEST_TABLE))
    except (OSError, ShardError, TypeError, ValueError):  # absent or damaged: it is written again
        return False
    table = there.pop("table", None)
    same = there.pop("schema", None) == schema.SCHEMA_VERSION and there == value
    return same and isinstance(table, dict) and table.get("bytes") == size


def _tables(out: str, splits: Mapping[str, str]) -> Iterator[pa.Table]:
    """The scenes' tables by name, each with its split."""
    place, field = FRAME_SCHEMA.get_field_index("split"), FRAME_SCHEMA.field("split")
    urls = [storage.join(out, f"{scene}.frames.parquet") for scene in splits]
    for split, table in zip(splits.values(), shards.read_tables(urls), strict=True):
        yield table.set_column(place, field, pa.array([split] * table.num_rows, pa.string()))
