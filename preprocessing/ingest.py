"""Raw scans in, frame shards and a manifest out. Plain functions; Prefect only calls them.

The unit of work is a scene: `<scene>.tar`, `<scene>.frames.parquet` (a row for every frame of the
scan, dropped ones with their reason) and, last, the sidecar `<scene>.done.json`. The dataset's
`manifest.parquet` and `manifest.json` are made from finished scenes. Every file is a pure function
of scan and spec: an ingest that was killed and started again ends with the same bytes.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from fsspec.core import url_to_fs

from preprocessing import shards
from preprocessing.frames import COLUMN_OF_PART, Row, frame_row, prepare, sample_key
from preprocessing.scene import Damage, Frame, Scene, SceneSource
from preprocessing.sources import DATASETS, detect_dataset, open_scenes
from preprocessing.workers import process_pool
from spa3r import schema, storage
from spa3r.config import IngestSpec, config_hash, to_dict
from spa3r.errors import FormatError, ImageError, SceneError
from spa3r.progress import meter

log = logging.getLogger(__name__)

MANIFEST_TABLE: Final = "manifest.parquet"
MANIFEST_JSON: Final = "manifest.json"
_SCHEMA: Final = shards.arrow_schema(schema.MANIFEST_COLUMNS)
_SHOWN_FAILURES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneResult:
    """What became of one scene."""

    scene: str
    announced: int
    kept: int
    dropped: dict[str, int]
    """Frames by schema.DROP_REASONS."""
    source_bytes: int
    sha256: str
    """Of the scene's tar."""
    reused: bool
    problems: tuple[str, ...] = ()
    """What the reader found wrong with the scan's files; empty when reused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What became of a dataset; all but `reused` is in manifest.json too."""

    folder: str
    dataset: str
    data_hash: str
    """Hex SHA-256 over the sorted scenes and their tars' hashes."""
    scenes: int
    announced: int
    frames: int
    """Kept frames."""
    dropped: dict[str, int]
    failures: dict[str, str]
    """Scene -> why it could not be used, one line."""
    reused: int
    """Scenes that were already complete."""


# --- one scene ------------------------------------------------------------------------------------


def ingest_scene(
    source: SceneSource, spec: IngestSpec, out: str, *, dataset: str = ""
) -> SceneResult:
    """Turns one scan into a shard, unless that was done before with the same spec and scan.

    Args:
        out: folder or URL of the dataset's shards.
        dataset: name to keep it under; default: the source's.

    Raises:
        FormatError, SceneError: the scan cannot be used. ShardError: out cannot be written.
    """
    dataset = dataset or source.dataset
    spec_hash, source_bytes = _identity(source, spec, dataset)
    if shards.is_complete(out, source.name, spec_hash):
        return _result(shards.read_sidecar(out, source.name), reused=True)
    if shards.discard(shards.sidecar_url(out, source.name)):
        # The manifest points into a shard that is about to change.
        shards.discard(storage.join(out, MANIFEST_JSON))
        shards.discard(storage.join(out, MANIFEST_TABLE))

    rows: list[Row] = []
    tar = f"{source.name}.tar"
    with _reading(source), source.open() as scene:
        samples = _samples(source, scene, spec, rows)
        index = shards.write_tar(storage.join(out, tar), samples)
        problems = tuple(scene.problems)
    for problem in problems:
        log.warning("%s", problem)
    _place_parts(rows, index, dataset=dataset, source=source, tar=tar)
    table = f"{source.name}.frames.parquet"
    rows_table = pa.Table.from_pylist(rows, _SCHEMA)
    mark = shards.write_parquet(storage.join(out, table), [rows_table], _SCHEMA)
    shards.write_sidecar(
        out,
        source.name,
        stage="ingest",
        spec_hash=spec_hash,
        files={tar: index.mark, table: mark},
        counts=_counts(rows) | {"source_bytes": source_bytes},
    )
    return _result(shards.read_sidecar(out, source.name), reused=False, problems=problems)


def _samples(
    source: SceneSource, scene: Scene, spec: IngestSpec, rows: list[Row]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples of the kept frames; on the way, a row for every frame announced."""
    with _reading(source):
        frames = scene.frames(spec.stride)
        for position, index in enumerate(scene.indices):
            if position % spec.stride:
                rows.append(frame_row(index, reason=schema.DROP_STRIDE))
                continue
            entry = next(frames, None)
            assert entry is not None and entry.index == index, f"{source.url}: frames out of order"
            if isinstance(entry, Frame):
                entry = prepare(entry, scene.label_to_nyu40, spec, name=source.url)
            if isinstance(entry, Damage):
                log.debug("%s: frame %d: %s", source.name, index, entry.detail)
                rows.append(frame_row(index, reason=entry.reason))
                continue
            rows.append(entry.row)
            yield sample_key(source.name, index), entry.parts
    _check_usable(source, spec, _counts(rows))


def _place_parts(
    rows: list[Row], index: shards.TarIndex, *, dataset: str, source: SceneSource, tar: str
) -> None:
    """Fills in what is known only once the tar is written."""
    by_key = {sample_key(source.name, row["frame"]): row for row in rows}
    for entry in index.entries:
        if part := COLUMN_OF_PART.get(entry.part):
            by_key[entry.key] |= {f"{part}_offset": entry.offset, f"{part}_size": entry.size}
    for row in rows:
        row |= {"dataset": dataset, "scene": source.name, "split": source.split}
        row["shard"] = tar if row["kept"] else ""


def _counts(rows: Sequence[Row]) -> dict[str, Any]:
    kept = sum(row["kept"] for row in rows)
    dropped = Counter(row["reason"] for row in rows if not row["kept"])
    return {"announced": len(rows), "kept": kept, "dropped": dict(sorted(dropped.items()))}


def _check_usable(source: SceneSource, spec: IngestSpec, counts: dict[str, Any]) -> None:
    looked_at = counts["announced"] - counts["dropped"].get(schema.DROP_STRIDE, 0)
    lost = {r: n for r, n in counts["dropped"].items() if r != schema.DROP_STRIDE}
    why = ", ".join(f"{n} {reason}" for reason, n in lost.items()) or "none dropped"
    if counts["kept"] < spec.min_frames:
        raise SceneError(
            f"{source.url}: {counts['kept']} usable frames of {looked_at} looked at ({why}),"
            f" {spec.min_frames} needed; lower the stride or leave the scene out"
        )
    if sum(lost.values()) > spec.max_drop_share * looked_at:
        raise SceneError(
            f"{source.url}: {sum(lost.values())} of {looked_at} frames dropped ({why}), more than"
            f" the allowed share of {spec.max_drop_share:g}; check the scan or leave it out"
        )


def _identity(source: SceneSource, spec: IngestSpec, dataset: str) -> tuple[str, int]:
    """Hash of all that decides a scene's shard short of the scan's content, and the scan's bytes.

    Raises:
        SceneError: the scan is not there any more.
    """
    with _reading(source):
        count = _source_bytes(source)
    facts = [schema.SCHEMA_VERSION, dataset, source.name, source.split, count, source.fingerprint]
    return config_hash(spec, facts), count


def _source_bytes(source: SceneSource) -> int:
    """Bytes of the scan and of the files named after it (labels), to notice that it changed."""
    fs, path = url_to_fs(source.url)
    if fs.isdir(path):
        return int(fs.du(path))
    folder, _, _ = path.rpartition("/")
    beside = (f for f in fs.ls(folder, detail=True) if f["type"] == "file")
    return sum(f["size"] for f in beside if f["name"].rpartition("/")[2].startswith(source.name))


@contextmanager
def _reading(source: SceneSource) -> Iterator[None]:
    """Names the scan in errors that arise while it is read."""
    try:
        yield
    except OSError as error:
        raise SceneError(
            f"{source.url}: cannot be read ({error.strerror or error}); check the path"
        ) from error


def _result(
    sidecar: dict[str, Any], *, reused: bool, problems: tuple[str, ...] = ()
) -> SceneResult:
    scene = sidecar["unit"]
    sha256 = sidecar["files"][f"{scene}.tar"]["sha256"]
    return SceneResult(
        scene=scene, sha256=sha256, reused=reused, problems=problems, **sidecar["counts"]
    )


# --- a dataset ------------------------------------------------------------------------------------


def ingest_dataset(
    root: str,
    dataset: str,
    spec: IngestSpec,
    out: str,
    *,
    scenes: Sequence[str] | None = None,
    workers: int = 1,
    on_result: Callable[[SceneResult], None] | None = None,
) -> Manifest:
    """Ingests all scenes under a root and writes the manifest of those that could be used.

    One scene that cannot be used does not lose the others: it is named at the end, when the
    manifest of the good ones is in place.

    Args:
        root: path or URL of the raw scans.
        dataset: name to keep them under; "" for that of the layout found.
        out: folder or URL for shards and manifest.
        scenes: only these; the manifest then holds only these.
        workers: processes, one thread each; in-memory file systems need 1.
        on_result: called for each usable scene as it finishes, re-used ones included.

    Raises:
        SceneError: nothing to ingest, or some scenes failed (after all else is done).
        ShardError: out cannot be written; stops at once, finished scenes are kept.
    """
    removed = storage.remove_leftovers(out)
    if removed:
        log.info("%s: %d unfinished files of an earlier run removed", out, removed)
    layout = dataset if dataset in DATASETS else detect_dataset(root)
    dataset = dataset or layout
    sources = _chosen(open_scenes(root, layout), scenes, root)
    results: list[SceneResult] = []
    failures: dict[str, str] = {}
    with meter("ingest", len(sources), "scenes") as progress:
        for scene, result in _attempts(sources, spec, out, dataset, workers):
            if isinstance(result, SceneResult):
                results.append(result)
                if on_result:
                    on_result(result)
            else:
                log.warning("scene %s failed: %s", scene, result)
                failures[scene] = result
            progress.advance(note=scene)
    if results:
        manifest = _write_manifest(out, dataset, spec, results, failures)
    if failures:
        raise SceneError(_failure_line(failures, total=len(sources)))
    return manifest


def _chosen(
    sources: list[SceneSource], scenes: Sequence[str] | None, root: str
) -> list[SceneSource]:
    if scenes is None:
        return sources
    unknown = sorted(set(scenes) - {source.name for source in sources})
    if unknown or not scenes:
        raise SceneError(f"{root}: scenes {unknown} are not there; it has {len(sources)} others")
    return [source for source in sources if source.name in set(scenes)]


def _attempt(source: SceneSource, spec: IngestSpec, out: str, dataset: str) -> SceneResult | str:
    """ingest_scene, or in one line why the scan cannot be used."""
    try:
        return ingest_scene(source, spec, out, dataset=dataset)
    except (FormatError, ImageError, SceneError) as error:
        return str(error)


def _is_finished(source: SceneSource, spec: IngestSpec, out: str, dataset: str) -> bool:
    try:
        spec_hash, _ = _identity(source, spec, dataset)
    except SceneError:  # the attempt will say so
        return False
    return shards.is_complete(out, source.name, spec_hash)


def _attempts(
    sources: Sequence[SceneSource], spec: IngestSpec, out: str, dataset: str, workers: int
) -> Iterator[tuple[str, SceneResult | str]]:
    """(scene, outcome) as they finish."""
    if workers == 1:
        for source in sources:
            yield source.name, _attempt(source, spec, out, dataset)
        return
    waiting: list[SceneSource] = []
    for source in sources:  # finished scenes need no worker, and starting one takes seconds
        if _is_finished(source, spec, out, dataset):
            yield source.name, _attempt(source, spec, out, dataset)
        else:
            waiting.append(source)
    if not waiting:
        return
    pool = process_pool(min(workers, len(waiting)))
    try:
        futures = {pool.submit(_attempt, s, spec, out, dataset): s.name for s in waiting}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise SceneError(
            f"{out}: an ingest worker died (out of memory?); run again with fewer workers, finished"
            " scenes are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _write_manifest(
    out: str,
    dataset: str,
    spec: IngestSpec,
    results: Sequence[SceneResult],
    failures: dict[str, str],
) -> Manifest:
    """Merges the scenes' tables, by name; manifest.json last."""
    results = sorted(results, key=lambda r: r.scene)
    tables = (shards.read_parquet(storage.join(out, f"{r.scene}.frames.parquet")) for r in results)
    shards.write_parquet(storage.join(out, MANIFEST_TABLE), tables, _SCHEMA)
    hashes = {r.scene: r.sha256 for r in results}
    dropped = sum((Counter(r.dropped) for r in results), Counter())
    facts = {
        "dataset": dataset,
        "data_hash": hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest(),
        "scenes": len(results),
        "announced": sum(r.announced for r in results),
        "frames": sum(r.kept for r in results),
        "dropped": dict(sorted(dropped.items())),
        "failures": dict(sorted(failures.items())),
    }
    value = {"schema": schema.SCHEMA_VERSION, "spec": to_dict(spec), "shards": hashes, **facts}
    shards.write_json(storage.join(out, MANIFEST_JSON), value)
    return Manifest(folder=out, reused=sum(r.reused for r in results), **facts)


def _failure_line(failures: dict[str, str], total: int) -> str:
    shown = [f"{scene} ({why})" for scene, why in sorted(failures.items())[:_SHOWN_FAILURES]]
    more = f"; and {len(failures) - len(shown)} more" if len(failures) > len(shown) else ""
    return f"{len(failures)} of {total} scenes cannot be used: {'; '.join(shown)}{more}"
