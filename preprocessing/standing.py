"""Where each scan stands before an ingest: new, changed, done, or refused and still the same.

What ingest skips and what `--dry-run` announces are decided here, once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from preprocessing.ingest import SceneResult, earlier_result, identity, unusable
from preprocessing.scene import SceneSource
from preprocessing.shards import Snapshot
from preprocessing.signature import Signature, sign_many
from spa3r.config import IngestSpec
from spa3r.plain import config_hash

State: TypeAlias = Literal["new", "scan changed", "settings changed", "judged again", "done",
                           "refused"]  # fmt: skip
"""judged again: its shard stays, but the limits became stricter than it can meet; nothing is read.
refused: an earlier run could not use it, and neither scan nor settings changed since."""
READ: Final[tuple[State, ...]] = ("new", "scan changed", "settings changed")
"""States of scans that are read."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one scan."""

    state: State
    known: SceneResult | str | None
    """What an earlier run made of it; None: the scan must be attempted."""
    signature: Signature | None
    """Of the scan's files now; None: the storage does not answer, or none is there."""


def classify(
    sources: Sequence[SceneSource], snapshot: Snapshot, spec: IngestSpec, dataset: str
) -> Iterator[tuple[SceneSource, Standing]]:
    """Compares scans with what lies in the output folder, in order. Lists files, opens nothing.

    Args:
        snapshot: of the output folder.
        dataset: name the scans are kept under.
    """
    for source, signed in zip(sources, sign_many(sources), strict=True):
        signature = signed if isinstance(signed, Signature) else None  # the attempt will say so
        yield source, _standing(source, signature, snapshot, spec, dataset)


def _standing(
    source: SceneSource,
    signature: Signature | None,
    snapshot: Snapshot,
    spec: IngestSpec,
    dataset: str,
) -> Standing:
    digest = signature.digest if signature else ""
    sidecar, refusal = snapshot.sidecar(source.name), snapshot.refusal(source.name)
    if refusal and refusal["spec_hash"] == refusal_hash(source, spec, dataset):
        if refusal["signature"] == digest:
            return Standing("refused", refusal["why"], signature)
        return Standing("scan changed", None, signature)
    result = earlier_result(sidecar, source.name) if sidecar else None
    if sidecar and result and sidecar["spec_hash"] == identity(source, spec, dataset):
        if result.signature != digest:
            return Standing("scan changed", None, signature)
        if unusable(result, spec) is not None:
            return Standing("judged again", None, signature)
        return Standing("done", result, signature)
    return Standing("settings changed" if result or refusal else "new", None, signature)


def refusal_hash(source: SceneSource, spec: IngestSpec, dataset: str) -> str:
    """Hash of all that decides whether a scan can be used, but its content."""
    limits = [spec.min_frames, spec.max_drop_share]
    return config_hash(limits, identity(source, spec, dataset))
