"""The training loop on a CUDA device, against the CPU. Skipped where there is none."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from spa3r.plain import override
from spa3r.train.loop import TrainResult
from spa3r.train.metrics import read_lines
from spa3r.train.sharding import full_tensors, shard, whole
from spa3r.train.sources import open_data
from spa3r.train.task import PretrainTask
from spa3r.train.validation import validator
from spa3r.train.world import World
from tests.box_rooms import BoxRooms, box_recipe
from tests.unit.train.run_task import ALONE, after, losses, run, run_task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = World(device=torch.device("cuda"))
RECIPE = box_recipe(
    train__steps=8, train__checkpoint_every=3, train__batches_per_step=2, train__ema=0.9,
    train__validate_every=4, train__log_every=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def rooms() -> BoxRooms:
    return BoxRooms(RECIPE, rooms=3)


def totals(folder: Path) -> list[float]:
    return [line["total"] for line in losses(folder)]


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({}, 0.01),  # convolutions are absent, but matrices may be in TF32
        ({"train.precision": "bfloat16"}, 0.05),
        ({"train.precision": "bfloat16", "train.compile": True}, 0.05),
    ],
)
def test_a_run_agrees_with_the_cpu(
    tmp_path: Path, rooms: BoxRooms, settings: dict, share: float
) -> None:
    run(tmp_path / "cpu", rooms, RECIPE)
    recipe = override(RECIPE, settings)
    data = open_data(rooms, recipe)
    task = PretrainTask(recipe, data)
    look = validator(task.model, BoxRooms(recipe, 2, 7), recipe.train, CUDA, stats=data.stats)
    folder = tmp_path / "cuda"
    assert run_task(folder, task, recipe, world=CUDA, validate=look, loaders=2).finished
    assert totals(folder) == pytest.approx(totals(tmp_path / "cpu"), rel=share)
    lines = read_lines(folder / "metrics.jsonl")
    assert all(0 < line["memory_gib"] < 10 for line in lines)
    assert "field/model/geo/r2" in lines[3] and "field/model/geo/r2" in lines[7]


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, rooms: BoxRooms) -> None:
    run(tmp_path / "whole", rooms, RECIPE, world=CUDA)
    stopped = run(tmp_path / "parts", rooms, RECIPE, world=CUDA, stop=after(4), loaders=2)
    assert stopped == TrainResult(step=4, finished=False)
    assert run(tmp_path / "parts", rooms, RECIPE, world=CUDA).finished
    assert totals(tmp_path / "parts") == pytest.approx(totals(tmp_path / "whole"), rel=1e-3)
    assert run(tmp_path / "parts", rooms, RECIPE, world=ALONE).finished, "read on a CPU"


def test_weights_are_cut_up_and_whole_again(tmp_path: Path, rooms: BoxRooms) -> None:
    """With one GPU there is one part; gathering, clipping and saving go the same way."""
    distributed.init_process_group(
        "nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    try:
        task = PretrainTask(RECIPE, open_data(rooms, RECIPE))
        expected = {n: x.clone() for n, x in task.model.state_dict().items()}
        task.model.to("cuda")
        shard(task, CUDA)
        assert all(isinstance(p, DTensor) for p in task.model.parameters())
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = task(task.load(0).to("cuda"))["total"]
        loss.backward()
        norm = whole(nn.utils.clip_grad_norm_(task.model.parameters(), 1.0))
        assert norm.isfinite() and norm > 0
        found = full_tensors(task.model.state_dict())
        assert all(torch.equal(found[n], x) for n, x in expected.items())
    finally:
        distributed.destroy_process_group()
