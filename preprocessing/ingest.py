"""One raw scan in, one frame shard out. A plain function: Prefect and Ray only call it.

`<scene>.tar`, `<scene>.frames.parquet` (a row for every frame of the scan, dropped ones with their
reason), `<scene>.objects.json` where the scan is annotated and, last, the sidecar
`<scene>.done.json`. A scan that cannot be used leaves `<scene>.refused.json` instead. Every file is
a pure function of scan and spec: an ingest that was killed and started again ends with the same
bytes.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa

from preprocessing import shards
from preprocessing.choice import FramePlan, plan_frames
from preprocessing.frames import COLUMN_OF_PART, Row, Sample, frame_row, prepare, sample_key
from preprocessing.scene import Damage, Scene, SceneSource, Sized
from preprocessing.signature import Signature, sign
from spa3r import images, schema, storage
from spa3r.config import IngestSpec
from spa3r.errors import FormatError, ImageError, SceneError, ShardError
from spa3r.plain import config_hash

log = logging.getLogger(__name__)

FRAME_SCHEMA: Final = shards.arrow_schema(schema.MANIFEST_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameCounts:
    """What became of a scene's frames."""

    announced: int
    kept: int
    dropped: dict[str, int]
    """Frames by schema.DROP_REASONS."""
    screened: int = 0
    """Those of the lost ones that were known to be lost before any frame was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneResult(FrameCounts):
    """What became of one scene."""

    scene: str
    source_bytes: int
    signature: str
    """Of the scan's files, see preprocessing.signature."""
    sha256: str
    """Of the scene's tar."""
    reused: bool
    problems: tuple[str, ...] = ()
    """What the reader found wrong with the scan's files, one line each."""


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
    with reading(source):
        signature = sign(source)
    spec_hash = identity(source, spec, dataset)
    if shards.is_complete(out, source.name, spec_hash):
        result = earlier_result(shards.read_sidecar(out, source.name), source.name)
        if result and result.signature == signature.digest:
            _require_usable(result, spec, source.url)
            return result
    if shards.discard(shards.sidecar_url(out, source.name)):
        shards.discard_manifest(out)  # it points into a shard that is about to change
    counts, files = _write_files(source, spec, out, dataset, signature)
    shards.write_sidecar(
        out, source.name, stage="ingest", spec_hash=spec_hash, files=files, counts=counts
    )
    return result_of(shards.read_sidecar(out, source.name), reused=False)


def identity(source: SceneSource, spec: IngestSpec, dataset: str) -> str:
    """Hash of all that decides a scene's shard but the scan's content."""
    return config_hash([schema.SCHEMA_VERSION, spec.shard_hash(), dataset, source.name])


def result_of(sidecar: dict[str, Any], *, reused: bool) -> SceneResult:
    """The result that a sidecar records.

    Raises:
        ShardError: it is not one of ingest.
    """
    scene, counts = sidecar["unit"], dict(sidecar["counts"])
    try:
        sha256 = sidecar["files"][f"{scene}.tar"]["sha256"]
        problems = tuple(counts.pop("problems"))
        result = SceneResult(scene=scene, sha256=sha256, reused=reused, problems=problems, **counts)
        numbers = [result.announced, result.kept, result.source_bytes, result.screened]
        texts = [scene, sha256, result.signature, *problems, *result.dropped]
        if not _are(int, [*numbers, *result.dropped.values()]) or not _are(str, texts):
            raise TypeError("its counts are of other kinds")
    except (AttributeError, KeyError, TypeError) as error:
        raise ShardError(
            f"{scene}{schema.SIDECAR_SUFFIX}: not written by ingest ({error}); delete it and run"
            " again"
        ) from error
    return result


def _are(kind: type, values: Sequence[Any]) -> bool:
    return all(type(value) is kind for value in values)


def earlier_result(sidecar: dict[str, Any], scene: str) -> SceneResult | None:
    """What an earlier ingest made of a scene; None: another stage's sidecar, or another scene's."""
    try:
        result = result_of(sidecar, reused=True)
    except ShardError as error:
        log.warning("%s; the scene is done again", str(error).partition(";")[0])
        return None
    return result if result.scene == scene else None


def unusable(counts: FrameCounts, spec: IngestSpec) -> str | None:
    """Why a scene lost too many of its frames, by the limits of the spec; None: it can be used.

    Frames known to be lost are counted in the whole scan, the others among the chosen ones only; so
    of the former such a share is weighed as was chosen of the frames that could be had.
    """
    lost = {r: n for r, n in counts.dropped.items() if r not in schema.NOT_LOST}
    looked_at = counts.kept + sum(lost.values())
    chosen = looked_at - counts.screened
    left_out = sum(counts.dropped.get(r, 0) for r in (schema.DROP_STRIDE, schema.DROP_CHOICE))
    screened = counts.screened * (chosen / (chosen + left_out) if left_out else 1)
    why = ", ".join(f"{n} {reason}" for reason, n in lost.items()) or "none dropped"
    if counts.kept < spec.min_frames:
        return (
            f"{counts.kept} usable frames of {looked_at} looked at ({why}),"
            f" {spec.min_frames} needed; lower the stride or leave the scene out"
        )
    if chosen - counts.kept + screened > spec.max_drop_share * (chosen + screened):
        return (
            f"{sum(lost.values())} of {looked_at} frames dropped ({why}), more than"
            f" the allowed share of {spec.max_drop_share:g}; check the scan or leave it out"
        )
    return None


def _require_usable(counts: FrameCounts, spec: IngestSpec, where: str) -> None:
    if why := unusable(counts, spec):
        raise SceneError(f"{where}: {why}")


@contextmanager
def reading(source: SceneSource) -> Iterator[None]:
    """Names the scan in errors that arise while it is read."""
    try:
        yield
    except OSError as error:
        raise SceneError(
            f"{source.url}: cannot be read ({error.strerror or error}); check the path"
        ) from error


# --- writing --------------------------------------------------------------------------------------


def _write_files(
    source: SceneSource, spec: IngestSpec, out: str, dataset: str, signature: Signature
) -> tuple[dict[str, Any], dict[str, shards.FileMark]]:
    """Counts for the sidecar, and the marks of the published files."""
    rows: list[Row] = []
    tar = f"{source.name}.tar"
    files: dict[str, shards.FileMark] = {}
    with reading(source), source.open() as scene:
        plan = _plan(source, scene, spec)
        samples = _samples(source, scene, spec, plan, rows)
        index = shards.write_tar(storage.join(out, tar), samples)
        files[tar] = index.mark
        left_out: list[str] = []
        objects = _objects(scene, left_out)
        problems = [*scene.problems, *left_out]
    name = source.name + schema.OBJECTS_SUFFIX
    if objects is not None:
        files[name] = shards.write_json(storage.join(out, name), objects)
    else:
        shards.discard(storage.join(out, name))  # of a scan that was annotated once
    for problem in problems:
        log.warning("%s", problem)
    _place_parts(rows, index, dataset=dataset, source=source, tar=tar)
    table = f"{source.name}.frames.parquet"
    rows_table = pa.Table.from_pylist(rows, FRAME_SCHEMA)
    files[table] = shards.write_parquet(storage.join(out, table), [rows_table], FRAME_SCHEMA)
    facts = {"source_bytes": signature.bytes, "signature": signature.digest, "problems": problems}
    return asdict(_counts(rows, plan)) | facts, files


def _objects(scene: Scene, problems: list[str]) -> dict[str, Any] | None:
    """The annotated objects; damaged annotations are a problem of theirs, not of the frames."""
    try:
        return scene.objects()
    except FormatError as error:
        problems.append(f"objects left out: {error}")
        return None


def _samples(
    source: SceneSource, scene: Scene, spec: IngestSpec, plan: FramePlan, rows: list[Row]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Samples of the kept frames; on the way, a row for every frame announced."""
    with reading(source):
        size = _common_size(scene, plan.chosen, spec)
        frames = scene.frames(plan.numbers)
        for index in scene.indices:
            if reason := plan.left_out.get(index):
                rows.append(frame_row(index, reason=reason))
                continue
            entry = next(frames, None)
            assert entry is not None and entry.index == index, f"{source.url}: frames out of order"
            if not isinstance(entry, Damage):
                entry = prepare(entry, scene.label_to_nyu40, spec, name=source.url)
            if isinstance(entry, Sample):
                size = size or (entry.row["width"], entry.row["height"])
                entry = _of_size(entry, size)
            if isinstance(entry, Damage):
                log.debug("%s: frame %d: %s", source.name, index, entry.detail)
                rows.append(frame_row(index, reason=entry.reason))
                continue
            rows.append(entry.row)
            yield sample_key(source.name, index), entry.parts
        # A reader says what is wrong behind the last frame once it has got there.
        assert next(frames, None) is None, f"{source.url}: frames nobody asked for"
    _require_usable(_counts(rows, plan), spec, source.url)


def _plan(source: SceneSource, scene: Scene, spec: IngestSpec) -> FramePlan:
    try:
        return plan_frames(scene, spec)
    except SceneError as error:
        raise SceneError(f"{source.url}: {error}") from error


def _common_size(scene: Scene, numbers: Sequence[int], spec: IngestSpec) -> tuple[int, int] | None:
    """The working (width, height) that most of these frames have, of several the first one's.

    None: that of the first good frame is the scene's, whose pictures are all of one camera.
    """
    if not isinstance(scene, Sized):
        return None
    sizes: Counter[tuple[int, int]] = Counter()
    for number in numbers:
        try:
            size = images.fit_size(scene.stored_size(number), spec.width, spec.multiple)
        except ImageError:  # told by its name when the frame is prepared
            continue
        sizes[size.width, size.height] += 1
    return max(sizes, key=sizes.__getitem__, default=None)


def _of_size(sample: Sample, size: tuple[int, int]) -> Sample | Damage:
    """The sample if it has the scene's working size: clips cannot mix sizes."""
    row = sample.row
    if (row["width"], row["height"]) == size:
        return sample
    detail = f"{row['width']} x {row['height']}, the scene's frames are {size[0]} x {size[1]}"
    return Damage(index=row["frame"], reason=schema.DROP_SIZE, detail=detail)


def _place_parts(
    rows: list[Row], index: shards.TarIndex, *, dataset: str, source: SceneSource, tar: str
) -> None:
    """Fills in what is known only once the tar is written; the manifest fills in the split."""
    by_key = {sample_key(source.name, row["frame"]): row for row in rows}
    for entry in index.entries:
        if part := COLUMN_OF_PART.get(entry.part):
            by_key[entry.key] |= {f"{part}_offset": entry.offset, f"{part}_size": entry.size}
    for row in rows:
        row |= {"dataset": dataset, "scene": source.name}
        row["shard"] = tar if row["kept"] else ""


def _counts(rows: Sequence[Row], plan: FramePlan) -> FrameCounts:
    dropped = Counter(row["reason"] for row in rows if not row["kept"])
    lost = (r["frame"] for r in rows if not r["kept"] and r["reason"] not in schema.NOT_LOST)
    return FrameCounts(
        announced=len(rows),
        kept=sum(row["kept"] for row in rows),
        dropped=dict(sorted(dropped.items())),
        screened=sum(number in plan.screened for number in lost),
    )
