"""Runs of the loop on box rooms, as the tests of the loop want them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from spa3r.config import Recipe
from spa3r.data.batch import TargetSource
from spa3r.train.checkpoints import Checkpoints
from spa3r.train.loop import TrainResult, train
from spa3r.train.metrics import METRICS, read_lines
from spa3r.train.sources import open_data
from spa3r.train.task import PretrainTask
from spa3r.train.world import World

ALONE = World(device=torch.device("cpu"))
TIMED = (
    "views_per_second",
    "tokens_per_second",
    "data_wait_share",
    "teacher_share",
    "memory_gib",
)


def run_task(
    run: Path,
    task: PretrainTask,
    recipe: Recipe,
    *,
    world: World = ALONE,
    validate: Callable[[], Mapping[str, float]] | None = None,
    **options: Any,
) -> TrainResult:
    """The loop on a task, its checkpoints below the run folder."""
    url, identity = str(run / "checkpoints"), {"recipe": recipe.name}
    with Checkpoints(url, world, recipe.train, identity) as checkpoints:
        return train(
            task, recipe.train, run, checkpoints=checkpoints, world=world, validate=validate,
            **options,
        )  # fmt: skip


def run(run_folder: Path, source: TargetSource, recipe: Recipe, **options: Any) -> TrainResult:
    """The loop on a source."""
    return run_task(run_folder, PretrainTask(recipe, open_data(source, recipe)), recipe, **options)


def after(calls: int) -> Callable[[], bool]:
    """A stop that is asked for in the step of that number."""
    count = iter(range(1, 1000))
    return lambda: next(count) >= calls


def newest(run_folder: Path) -> dict[str, bytes]:
    """Files of the newest checkpoint."""
    folder = sorted(run_folder.glob("checkpoints/step-*"))[-1]
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def losses(run_folder: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl without what differs from run to run."""
    lines = read_lines(run_folder / METRICS)
    return [{k: v for k, v in line.items() if k not in TIMED} for line in lines]
