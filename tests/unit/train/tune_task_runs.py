"""Runs of the loop on the colours, as the tests of tuning want them."""

from pathlib import Path
from typing import Any

from spa3r.train.job import Job, run_job
from spa3r.train.loop import TrainResult
from spa3r.train.metrics import METRICS, read_lines
from spa3r.train.tune import settled
from spa3r.train.tune_work import OpenedTuning, TuneWork
from spa3r.train.world import World
from spa3r.tune_config import TuneRecipe
from tests.unit.train.run_task import ALONE
from tests.unit.train.tune_rooms import Colours

TIMED = ("conversations_per_second", "tokens_per_second", "data_wait_share", "memory_gib")


def work_of(rooms: Colours, run: Path, recipe: TuneRecipe, **places: Any) -> TuneWork:
    """Settled: its features are made and its plan is written."""
    work, _, _ = settled(recipe, rooms.places(**places), run)
    return work


def opened(rooms: Colours, run: Path, recipe: TuneRecipe, **places: Any) -> OpenedTuning:
    return work_of(rooms, run, recipe, **places).open()


def train_on(run: Path, work: TuneWork, *, world: World = ALONE, **options: Any) -> TrainResult:
    """One process of a run."""
    return run_job(Job(work=work, run=run), world, **options)


def losses(run: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl without what differs from run to run."""
    lines = read_lines(run / METRICS)
    return [{k: v for k, v in line.items() if k not in TIMED} for line in lines]
