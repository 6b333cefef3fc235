"""Where each scan stands before an ingest: new, changed, done, or refused and still the same.

What ingest skips and what `--dry-run` announces are decided here, once.
"""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from preprocessing.ingest import SceneResult, identity, result_of, unusable
from preprocessing.scene import SceneSource
from preprocessing.shards import Snapshot
from preprocessing.signature import Signature, sign
from spa3r.config import IngestSpec, config_hash

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
    """Of the scan's files now; None: the storage does not answer."""


def classify(source: SceneSource, snapshot: Snapshot, spec: IngestSpec, dataset: str) -> Standing:
    """Compares a scan with what lies in the output folder. Lists files, opens nothing.

    Args:
        snapshot: of the output folder.
        dataset: name the scan is kept under.
    """
    try:
        signature = sign(source)
    except OSError:  # the attempt will say so
        signature = None
    digest = signature.digest if signature else ""
    sidecar, refusal = snapshot.sidecar(source.name), snapshot.refusal(source.name)
    if refusal and refusal["spec_hash"] == refusal_hash(source, spec, dataset):
        if refusal["signature"] == digest:
            return Standing("refused", refusal["why"], signature)
        return Standing("scan changed", None, signature)
    if sidecar and sidecar["spec_hash"] == identity(source, spec, dataset):
        result = result_of(sidecar, reused=True)
        if result.signature != digest:
            return Standing("scan changed", None, signature)
        if unusable(result, spec) is not None:
            return Standing("judged again", None, signature)
        return Standing("done", result, signature)
    return Standing("settings changed" if sidecar or refusal else "new", None, signature)


def refusal_hash(source: SceneSource, spec: IngestSpec, dataset: str) -> str:
    """Hash of all that decides whether a scan can be used, but its content."""
    limits = [spec.min_frames, spec.max_drop_share]
    return config_hash(limits, identity(source, spec, dataset))
