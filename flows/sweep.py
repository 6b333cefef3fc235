"""Flow `sweep`: several recipes, trained and evaluated on the same held-out scenes, compared."""

from typing import Any, Literal

from prefect import flow

from flows import sweep_stage
from flows.common import publish, stage_task


@flow(name="sweep")
def sweep(
    recipes: list[str] | None = None,
    table: Literal[4, 6, 7] | None = None,
    base: str = "tiny",
    dataset: str = "rooms",
    overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Targets, pre-training and evaluation of each recipe, and the page that compares them.

    What is finished is re-used. A recipe that fails does not end the others; the flow fails after
    the page is written.

    Args:
        recipes: names, e.g. ["paper", "paper-mask25"]; the first is the reference.
        table: in their place: one of the paper's ablation tables, of recipe `base`.
        base: whose ablations.
        dataset: which manifest under SPA3R_HOME/shards.
        overrides: dotted settings for all of the recipes.
    """
    run = stage_task(sweep_stage.run_recipe).with_options(task_run_name="{recipe}")
    result = sweep_stage.sweep(
        recipes=recipes or (), table=table, base=base, dataset=dataset, overrides=overrides, run=run
    )
    return publish(result)
