"""`spa3r lineage`: the chain from an encoder back to the scans, each piece looked at now."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from flows.settings import Settings
from spa3r import storage
from spa3r.config import IngestSpec
from spa3r.errors import SceneError, ServiceError
from spa3r.plain import from_dict
from spa3r.storage import redacted
from spa3r.train.links import State
from spa3r.train.origin import read_manifest


def lineage(model: str, *, as_json: bool = False) -> str:
    """Text for a person, or JSON.

    Args:
        model: "models:/<name>@<alias>", "models:/<name>/<version>", or an encoder's folder.

    Raises:
        WeightsError: no such version, or not an encoder. ServiceError: no registry, or it does not
            answer.
    """
    from spa3r.train import tracking
    from spa3r.train.lineage import trace
    from spa3r.train.servers import existing_store

    try:
        client = tracking.connect(existing_store(Settings.from_environment().mlflow_uri))
    except ServiceError:
        if model.startswith("models:/"):
            raise
        client = None  # a folder has its own record
    found = trace(client, model, look_at_scans=look_at_scans)
    return redacted(json.dumps(found.to_json(), indent=1)) if as_json else str(found)


def look_at_scans(scans: Mapping[str, Any]) -> tuple[State, str]:
    """Compares names, sizes and times of the scans' files with what ingest read, without reading.

    Args:
        scans: an entry of a lineage record: dataset, root, shards.
    """
    from preprocessing.dataset import find_sources
    from preprocessing.shards import Snapshot
    from preprocessing.standing import classify

    manifest = read_manifest(scans["shards"])
    if manifest is None:
        return "gone", "their shards are gone"
    if not storage.exists(scans["root"]):
        return "gone", "no scans are there now"
    try:
        _, sources = find_sources(scans["root"], scans["dataset"])
    except SceneError as error:
        return "gone", str(error)
    spec = from_dict(IngestSpec, manifest["spec"])
    found = dict.fromkeys(manifest["shards"], "gone")
    for source, standing in classify(sources, Snapshot(scans["shards"]), spec, scans["dataset"]):
        if source.name in found:
            changed = standing.state in ("scan changed", "new", "settings changed")
            found[source.name] = "changed" if changed else "as they were read"
    counts = Counter(found.values())
    said = ", ".join(f"{counts[what]} {what}" for what in sorted(counts))
    state: State = "gone" if counts["gone"] else "changed" if counts["changed"] else "same"
    return state, f"now: {said}"
