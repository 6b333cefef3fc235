"""Flow `tune`: instruction sets and an encoder -> a registered Spa3-VLM."""

from typing import Any

from prefect import flow

from flows import tune_stage
from flows.common import publish, stage_task


@flow(name="tune")
def tune(
    recipe: str = "vlm-tiny",
    overrides: dict[str, Any] | None = None,
    encoder: str = tune_stage.CHAMPION,
    sets: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Tunes under Ray (SPA3R_TRAIN_WORKERS workers) and registers `spa3-vlm` in MLflow.

    Latents are computed once for each video before training. A killed run continues from its last
    checkpoint; a finished one is re-used.

    Args:
        recipe: the experiment (`spa3r.recipes.vlm_catalogue`).
        overrides: dotted recipe settings, e.g. {"vlm.language": "lora"}.
        encoder: registry URI or folder; the champion unless another is named.
        sets: folders of the recipe's instruction sets, where they are not under SPA3R_INSTRUCTIONS.
    """
    result = stage_task(tune_stage.tune)(
        recipe=recipe, overrides=overrides, encoder=encoder, sets=sets
    )
    return publish(result)
