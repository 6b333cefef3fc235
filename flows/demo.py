"""Flow `demo`: the whole chain on generated rooms, on one machine, with nothing downloaded."""

from typing import Any

from prefect import flow

from flows import data_stages
from flows.common import publish, stage_task
from flows.evaluate import ENCODER, VLM, evaluate
from flows.ingest import ingest
from flows.pretrain import pretrain
from flows.promote import promote
from flows.questions import questions
from flows.settings import Settings
from flows.targets import targets
from flows.tune import tune


@flow(name="demo")
def demo(
    train_rooms: int = 64,
    val_rooms: int = 12,
    recipe: str = "tiny",
    overrides: dict[str, Any] | None = None,
    vlm: str = "vlm-tiny",
) -> list[dict[str, Any]]:
    """Rooms -> `.sens` scans -> shards -> targets -> pre-training -> registry -> report -> gate;
    then questions about the rooms -> tuning -> registry -> scores of unseen rooms -> gate.

    Args:
        train_rooms: generated rooms to train on.
        val_rooms: held-out rooms to measure on (at least 8 for the gates to hold).
        recipe: the experiment.
        overrides: dotted recipe settings.
        vlm: recipe of the tuning.
    """
    rooms = publish(stage_task(data_stages.rooms)(train_rooms=train_rooms, val_rooms=val_rooms))
    of: dict[str, Any] = {"recipe": recipe, "overrides": overrides}
    encoder: list[Any] = [
        rooms,
        ingest(str(Settings.from_environment().rooms), dataset="rooms", **of),
        targets(dataset="rooms", **of),
        pretrain(dataset="rooms", **of),
        evaluate(dataset="rooms", **of),
        promote(),
    ]
    asked: Any = questions(dataset="rooms", **of)
    places = asked["facts"]
    of_suite = {"questions": places["held-out questions"], "media": places["media"]}
    answers: list[Any] = [
        asked,
        tune(recipe=vlm, encoder=ENCODER, sets={"rooms": places["instructions"]}),
        evaluate(VLM, suite="vsi-bench", **of_suite),
        promote("spa3-vlm"),
    ]
    return encoder + answers
