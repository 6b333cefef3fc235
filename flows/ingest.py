"""Flow `ingest`: raw scans -> frame shards and a manifest."""

from typing import Any

from prefect import flow

from flows import ingest_stage
from flows.common import publish, stage_task


@flow(name="ingest")
def ingest(
    root: str,
    dataset: str = "",
    recipe: str = "tiny",
    overrides: dict[str, Any] | None = None,
    scenes: list[str] | None = None,
    ray: bool = False,
) -> dict[str, Any]:
    """Ingests every scene that is new or changed, or whose settings changed; others are re-used.

    Args:
        root: folder or URL of raw scans (ScanNet releases, exported folders, photos).
        dataset: name under which shards are kept; default: what the layout looks like.
        recipe: whose ingest settings to use.
        overrides: dotted recipe settings, e.g. {"ingest.stride": 10}.
        scenes: names of the scenes to ingest; the manifest then holds only these. Default: all.
        ray: on the Ray cluster of RAY_ADDRESS; where that is not set, on a Ray of this machine.
    """
    result = stage_task(ingest_stage.ingest)(
        root, dataset=dataset, recipe=recipe, overrides=overrides, scenes=scenes, ray=ray
    )
    return publish(result)
