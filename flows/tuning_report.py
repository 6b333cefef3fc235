"""What the report of an evaluation shows of the tuning: found through the registry."""

from typing import Any

from flows.settings import Settings
from spa3r import storage
from spa3r.errors import ServiceError


def tuning_of(settings: Settings, digest: str) -> dict[str, Any]:
    """Fields of VlmReportData about the run that made a model; {} of one that is not registered,
    or whose record is gone.

    Args:
        digest: Spa3VLM.hash.

    Raises:
        FormatError, WeightsError: an instruction set or the model is damaged.
    """
    from spa3r.train.servers import existing_store

    try:
        store = existing_store(settings.mlflow_uri)
    except ServiceError:  # no registry here
        return {}
    from spa3r.train import registry, tracking
    from spa3r.train.origin import LINEAGE
    from spa3r.train.vlm_registry import VLM_HASH, VLM_NAME
    from spa3r.viz.tuning_part import tuning_part

    client = tracking.connect(store)
    version = registry.find_by_hash(client, digest, name=VLM_NAME, tag=VLM_HASH)
    if version is None:
        return {}
    path = registry.run_artifact(client, version.run_id, f"lineage/{digest}/{LINEAGE}")
    return {} if path is None else tuning_part(storage.read_json(path))
