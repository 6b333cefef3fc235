"""Flow `evaluate`: a model against its controls, and the report."""

from typing import Any, Literal

from prefect import flow

from flows import judge_stages, question_stage, suite_stage
from flows.common import publish, stage_task
from flows.settings import Settings

ENCODER = "models:/spa3r-encoder@candidate"
VLM = "models:/spa3-vlm@candidate"


@flow(name="evaluate")
def evaluate(
    model: str = "",
    dataset: str = "rooms",
    recipe: str = "tiny",
    overrides: dict[str, Any] | None = None,
    suite: Literal["", "vsi-bench", "cv-bench", "spar-bench", "view-spatial"] = "",
    questions: str | list[str] = "",
    media: str = "",
    scorer: str = "strict",
) -> dict[str, Any]:
    """Measures a model, logs the scores to its version and writes the HTML report.

    Of an encoder: held-out-view quality against five controls. With `suite`, of a Spa3-VLM: a
    benchmark's questions against the three controls.

    Args:
        model: registry URI or a folder; empty: the candidate.
        dataset: whose held-out targets to use.
        recipe: the recipe those targets were made with.
        overrides: the same overrides as for `targets` and `pretrain`.
        suite: benchmark of a Spa3-VLM; empty: the model is an encoder.
        questions: its question file or files; empty with vsi-bench: those that flow `questions`
            made about the dataset's held-out scenes.
        media: root of its images, videos or frame shards.
        scorer: strict, or a reference's.
    """
    if suite:
        if suite == "vsi-bench" and not questions:
            made = question_stage.questions_of(
                Settings.from_environment(), dataset=dataset, recipe=recipe, overrides=overrides
            )
            questions, media = made.val, made.media
        asked = {"suite": suite, "questions": questions, "media": media, "scorer": scorer}
        return publish(stage_task(suite_stage.evaluate_suite)(model or VLM, **asked))
    result = stage_task(judge_stages.evaluate)(
        model or ENCODER, dataset=dataset, recipe=recipe, overrides=overrides
    )
    return publish(result)
