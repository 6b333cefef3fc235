"""Flow `ingest`: raw scans -> frame shards and a manifest."""

from typing import Any

from prefect import flow

from flows import data_stages
from flows.common import publish, stage_task


@flow(name="ingest")
def ingest(
    root: str,
    dataset: str = "",
    recipe: str = "tiny",
    overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Ingests every scene that is new or whose settings changed; finished scenes are re-used.

    Args:
        root: folder or URL of raw scans (ScanNet releases, exported folders, photos).
        dataset: name under which shards are kept; default: what the layout looks like.
        recipe: whose ingest settings to use.
        overrides: dotted recipe settings, e.g. {"ingest.stride": 10}.
    """
    result = stage_task(data_stages.ingest)(
        root, dataset=dataset, recipe=recipe, overrides=overrides
    )
    return publish(result)
