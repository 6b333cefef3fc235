"""Flow `pretrain`: teacher targets -> a trained encoder, registered as `candidate`."""

from typing import Any

from prefect import flow

from flows import train_stage
from flows.common import publish, stage_task


@flow(name="pretrain")
def pretrain(
    dataset: str = "rooms", recipe: str = "tiny", overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Trains under Ray (SPA3R_TRAIN_WORKERS workers) and registers the encoder in MLflow.

    A killed run continues from its last checkpoint; a finished one is re-used.

    Args:
        dataset: whose targets to train on.
        recipe: the experiment (`spa3r.recipes.catalogue`).
        overrides: dotted recipe settings, e.g. {"train.steps": 100}.
    """
    result = stage_task(train_stage.pretrain)(dataset=dataset, recipe=recipe, overrides=overrides)
    return publish(result)
