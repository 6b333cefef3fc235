"""Flow `evaluate`: an encoder on held-out scenes against five controls, and the report."""

from typing import Any

from prefect import flow

from flows import judge_stages
from flows.common import publish, stage_task


@flow(name="evaluate")
def evaluate(
    model: str = "models:/spa3r-encoder@candidate",
    dataset: str = "rooms",
    recipe: str = "tiny",
    overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures held-out-view quality, logs it to the model version and writes the HTML report.

    Args:
        model: registry URI or a folder written by `save_pretrained`.
        dataset: whose held-out targets to use.
        recipe: the recipe those targets were made with.
        overrides: the same overrides as for `targets` and `pretrain`.
    """
    result = stage_task(judge_stages.evaluate)(
        model, dataset=dataset, recipe=recipe, overrides=overrides
    )
    return publish(result)
