"""Flow `questions`: annotated shards -> an instruction set, and questions about held-out scenes."""

from typing import Any

from prefect import flow

from flows import question_stage
from flows.common import publish, stage_task


@flow(name="questions")
def questions(
    dataset: str = "rooms", recipe: str = "tiny", overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Asks VSI-Bench's eight kinds of questions about scenes whose objects are known.

    Scenes of split train give an instruction set, those of split val a file of questions as
    VSI-Bench publishes them. What is ambiguous is not asked, and counted by reason.

    Args:
        dataset: whose shards, with objects.
        recipe: of the encoder: the one that the shards were ingested with.
        overrides: the same overrides as for `ingest`.
    """
    result = stage_task(question_stage.questions)(
        dataset=dataset, recipe=recipe, overrides=overrides
    )
    return publish(result)
