"""Flow `demo`: the whole chain on generated rooms, on one machine, with nothing downloaded."""

from typing import Any

from prefect import flow

from flows import data_stages
from flows.common import publish, stage_task
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.pretrain import pretrain
from flows.promote import promote
from flows.settings import Settings
from flows.targets import targets


@flow(name="demo")
def demo(
    train_rooms: int = 64,
    val_rooms: int = 12,
    recipe: str = "tiny",
    overrides: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Rooms -> `.sens` scans -> shards -> targets -> pre-training -> registry -> report -> gate.

    Args:
        train_rooms: generated rooms to train on.
        val_rooms: held-out rooms to measure on (at least 8 for the gate to hold).
        recipe: the experiment.
        overrides: dotted recipe settings.
    """
    rooms = publish(stage_task(data_stages.rooms)(train_rooms=train_rooms, val_rooms=val_rooms))
    of = {"recipe": recipe, "overrides": overrides}
    subflows: list[Any] = [
        rooms,
        ingest(str(Settings.from_environment().rooms), dataset="rooms", **of),
        targets(dataset="rooms", **of),
        pretrain(dataset="rooms", **of),
        evaluate(dataset="rooms", **of),
        promote(),
    ]
    return subflows
