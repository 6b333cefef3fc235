"""Flow `targets`: frame shards -> teacher targets of the training and the held-out clips."""

from typing import Any

from prefect import flow

from flows import data_stages
from flows.common import publish, stage_task


@flow(name="targets")
def targets(
    dataset: str = "rooms",
    recipe: str = "tiny",
    overrides: dict[str, Any] | None = None,
    ray: bool = False,
) -> dict[str, Any]:
    """Draws clips per scene and writes what the recipe's teachers say of them.

    Args:
        dataset: which manifest under SPA3R_HOME/shards.
        recipe: whose clips and teachers to use.
        overrides: dotted recipe settings, e.g. {"clips.clips_per_scene": 8}.
        ray: on the Ray cluster of RAY_ADDRESS; where that is not set, on a Ray of this machine.
    """
    result = stage_task(data_stages.targets)(
        dataset=dataset, recipe=recipe, overrides=overrides, ray=ray
    )
    return publish(result)
