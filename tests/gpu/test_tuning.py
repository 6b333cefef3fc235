"""Tuning on a CUDA device, against the CPU. Skipped where there is none."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from spa3r.train.sharding import shard
from spa3r.train.tune import settled
from spa3r.train.world import World
from tests.unit.train.run_task import after
from tests.unit.train.tune_rooms import Colours, make_colours, recipe
from tests.unit.train.tune_task_runs import losses, train_on, work_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = World(device=torch.device("cuda"))


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Colours:
    return make_colours(tmp_path_factory.mktemp("colours"))


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        ({}, 0.01),
        ({"train__precision": "bfloat16"}, 0.05),
        ({"train__precision": "bfloat16", "vlm__language": "lora"}, 0.05),
    ],
)
def test_a_run_agrees_with_the_cpu(
    tmp_path: Path, rooms: Colours, settings: dict, share: float
) -> None:
    cpu = {name: x for name, x in settings.items() if name != "train__precision"}
    train_on(tmp_path / "cpu", work_of(rooms, tmp_path / "cpu", recipe(**cpu)))
    work = work_of(rooms, tmp_path / "cuda", recipe(**settings))
    assert not train_on(tmp_path / "cuda", work, world=CUDA, stop=after(2)).finished
    assert train_on(tmp_path / "cuda", work, world=CUDA).finished
    for ours, theirs in zip(losses(tmp_path / "cuda"), losses(tmp_path / "cpu"), strict=True):
        assert ours["text"] == pytest.approx(theirs["text"], rel=share)


def test_features_are_computed_on_the_device(tmp_path: Path, rooms: Colours) -> None:
    """In bfloat16 there, so kept apart from those of a CPU."""
    asked = recipe(train__features="latents_and_images", train__precision="bfloat16")
    work, _, _ = settled(asked, rooms.places(), tmp_path, device=torch.device("cuda"))
    assert work.base.precision == work.encoder.made_by["precision"] == "bfloat16"
    assert train_on(tmp_path, work, world=CUDA).finished


def test_weights_are_cut_up(tmp_path: Path, rooms: Colours) -> None:
    """With one GPU there is one part; gathering goes the same way."""
    distributed.init_process_group(
        "nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    try:
        task = work_of(rooms, tmp_path, recipe()).open("cuda").task.train()
        shard(task, CUDA)
        assert all(isinstance(p, DTensor) for p in task.model.parameters())
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = task(task.fetch(0).pin().to("cuda"))["total"]
        loss.backward()
        learnt = [p for p in task.model.parameters() if p.requires_grad]
        assert loss.isfinite() and all(p.grad is not None for p in learnt)
    finally:
        distributed.destroy_process_group()
