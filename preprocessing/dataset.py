"""All scans of a dataset: what is new or changed is ingested, and the manifest says what there is.

Every scan is `ingest_scene`, run by a runner: here, in worker processes, or on a Ray cluster. The
manifest is made from finished scenes and written last.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from preprocessing import manifests, shards
from preprocessing.ingest import SceneResult, ingest_scene, reading
from preprocessing.lock import output_lock
from preprocessing.manifests import Manifest
from preprocessing.runners import Attempt, Runner, run_here
from preprocessing.scene import SceneSource
from preprocessing.signature import sign
from preprocessing.sources import DATASETS, find_scenes
from preprocessing.standing import READ, classify, refusal_hash
from spa3r import storage
from spa3r.config import IngestSpec
from spa3r.errors import FormatError, ImageError, SceneError, ServiceError, ShardError
from spa3r.progress import meter

log = logging.getLogger(__name__)

_SHOWN = 10  # scenes named in one line


@dataclass(slots=True)
class _Outcome:
    """What is known of a dataset's scenes so far."""

    results: list[SceneResult] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Scene -> why it cannot be used, one line."""
    known: set[str] = field(default_factory=set)
    """Failures that an earlier run has reported already, of unchanged scans."""
    changed: dict[str, list[str]] = field(default_factory=lambda: {state: [] for state in READ})
    """Scenes that are read now, by why."""


def ingest_dataset(
    root: str,
    dataset: str,
    spec: IngestSpec,
    out: str,
    *,
    scenes: Sequence[str] | None = None,
    runner: Runner = run_here,
    on_result: Callable[[SceneResult], None] | None = None,
) -> Manifest:
    """Ingests what is new or changed under a root and writes the manifest of what can be used.

    One scene that cannot be used does not lose the others: it is named at the end, when the
    manifest of the good ones is in place. While it stays as it is, later runs name it in the
    manifest only.

    Args:
        root: path or URL of the raw scans.
        dataset: name to keep them under; "" for that of the layout found.
        out: folder or URL for shards and manifest.
        scenes: only these; the manifest then holds only these.
        runner: where scenes are ingested; in-memory file systems need `run_here`.
        on_result: called for each usable scene as it finishes, re-used ones included.

    Raises:
        SceneError: nothing to ingest, a root without any scene of before, no scene can be used, or
            some newly cannot (after all else is done).
        ServiceError: an object store cannot be reached.
        ShardError: out cannot be written, or another ingest writes there; finished scenes are kept.
    """
    dataset, sources = find_sources(root, dataset, scenes)
    with output_lock(out):
        snapshot = _look(out)
        if scenes is None:
            _require_same_root(root, out, sources, snapshot)
        outcome = _Outcome()
        with meter("ingest", len(sources), "scenes") as progress:
            for scene, result in _attempts(sources, snapshot, outcome, spec, out, dataset, runner):
                if isinstance(result, SceneResult):
                    outcome.results.append(result)
                    if on_result:
                        on_result(result)
                else:
                    if scene not in outcome.known:
                        log.warning("scene %s failed: %s", scene, result)
                    outcome.failures[scene] = result
                progress.advance(note=scene)
        gone = sorted(set(snapshot.units) - {s.name for s in sources}) if scenes is None else []
        if gone:
            log.warning("%s: no scans any more, so left out: %s", out, _some(gone))
        if not outcome.results:
            shards.discard_manifest(out)
            raise SceneError(_failure_line(outcome.failures, total=len(sources)))
        manifest = manifests.write_manifest(
            out, dataset, spec, sources, outcome.results,
            failures=outcome.failures, removed=gone, changed=outcome.changed,
        )  # fmt: skip
    if fresh := {s: why for s, why in outcome.failures.items() if s not in outcome.known}:
        raise SceneError(_failure_line(fresh, total=len(sources)))
    return manifest


def _require_same_root(
    root: str, out: str, sources: Sequence[SceneSource], snapshot: shards.Snapshot
) -> None:
    """A part of a dataset somewhere else would take the place of what is there."""
    if snapshot.units and not {source.name for source in sources} & set(snapshot.units):
        raise SceneError(
            f"{root}: none of the {len(snapshot.units)} scenes ingested before is here, so this is"
            f" another root; give it another --dataset name and merge the two, or delete {out}"
        )


def _look(out: str) -> shards.Snapshot:
    """What earlier runs left of use; the rest is removed."""
    try:
        if removed := manifests.remove_leftovers(out):
            log.info("%s: %d unfinished files of an earlier run removed", out, removed)
        return shards.Snapshot(out)
    except ServiceError as error:
        raise ServiceError(f"{out}: {error}") from error
    except OSError as error:
        raise ShardError(
            f"{out}: cannot be listed ({error.strerror or error}); check path and permissions"
        ) from error


def find_sources(
    root: str, dataset: str, scenes: Sequence[str] | None = None
) -> tuple[str, list[SceneSource]]:
    """The name a dataset is kept under, and its scans; arguments as of ingest_dataset."""
    try:
        layout, sources = find_scenes(root, dataset if dataset in DATASETS else "")
    except OSError as error:
        raise SceneError(
            f"{root}: cannot be listed ({error.strerror or error}); check path and permissions"
        ) from error
    if scenes is None:
        return dataset or layout, sources
    unknown = sorted(set(scenes) - {source.name for source in sources})
    if unknown or not scenes:
        raise SceneError(f"{root}: scenes {unknown} are not there; it has {len(sources)} others")
    return dataset or layout, [source for source in sources if source.name in set(scenes)]


# --- one scene, wherever it runs ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """What a runner calls with a source. Picklable."""

    spec: IngestSpec
    out: str
    dataset: str

    def __call__(self, source: SceneSource) -> Attempt:
        """ingest_scene, or in one line why the scan cannot be used; then a record stays."""
        try:
            # Before reading: a scan that is still being copied must look changed the next time.
            with reading(source):
                signature = sign(source).digest
            result = ingest_scene(source, self.spec, self.out, dataset=self.dataset)
        except (FormatError, ImageError, SceneError) as error:
            if not isinstance(error.__cause__, OSError):  # a disk or a network may come back
                spec_hash = refusal_hash(source, self.spec, self.dataset)
                shards.write_refusal(
                    self.out, source.name, spec_hash=spec_hash, signature=signature, why=str(error)
                )
            return str(error)
        shards.discard(storage.join(self.out, source.name + shards.REFUSED_SUFFIX))
        return result


def _attempts(
    sources: Sequence[SceneSource],
    snapshot: shards.Snapshot,
    outcome: _Outcome,
    spec: IngestSpec,
    out: str,
    dataset: str,
    runner: Runner,
) -> Iterator[tuple[str, Attempt]]:
    """(scene, outcome) as they finish, those first that need no work."""
    waiting: list[SceneSource] = []
    for source, standing in classify(sources, snapshot, spec, dataset):
        if standing.state == "refused":
            outcome.known.add(source.name)
        elif standing.state in outcome.changed:
            outcome.changed[standing.state].append(source.name)
        if standing.known is None:
            waiting.append(source)
        else:
            if standing.state == "done" and snapshot.refusal(source.name):  # of stricter limits
                shards.discard(storage.join(out, source.name + shards.REFUSED_SUFFIX))
            yield source.name, standing.known
    if waiting:
        yield from runner(_Job(spec, out, dataset), waiting)


def _failure_line(failures: dict[str, str], total: int) -> str:
    lines = [f"{scene} ({why})" for scene, why in sorted(failures.items())]
    return f"{len(failures)} of {total} scenes cannot be used: {_some(lines)}"


def _some(lines: Sequence[str]) -> str:
    more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "; ".join(lines[:_SHOWN]) + more
