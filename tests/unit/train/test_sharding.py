"""Several workers, with whole weights (DDP) or cut up (FSDP2): one training, one checkpoint."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from spa3r.config import Recipe
from spa3r.errors import ConfigError, TrainingError
from spa3r.plain import override
from spa3r.train.loop import TrainResult
from spa3r.train.sharding import blocks, full_tensors
from spa3r.train.sources import open_data
from spa3r.train.task import PretrainTask
from spa3r.train.validation import validator
from spa3r.train.world import World
from tests.box_rooms import BoxRooms, box_recipe
from tests.unit.train.run_task import losses, newest, run, run_task
from tests.unit.train.workers import Workers

DDP = box_recipe(
    train__steps=4, train__checkpoint_every=2, train__batches_per_step=4, train__ema=0.9,
    train__validate_every=2, train__clip_norm=0.5,
)  # fmt: skip
FSDP2 = override(DDP, {"train.sharding": "fsdp2"})


@pytest.fixture(scope="module")
def rooms() -> BoxRooms:
    return BoxRooms(DDP, rooms=3)


def work(world: World, folder: Path, rooms: BoxRooms, recipe: Recipe) -> tuple:
    """A whole run: its result, whether weights were cut up, and the weights it ends with."""
    data = open_data(rooms, recipe)
    task = PretrainTask(recipe, data)
    held_out = BoxRooms(recipe, rooms=2, seed=5)
    validate = validator(task.model, held_out, recipe.train, world, stats=data.stats)
    result = run_task(folder, task, recipe, world=world, validate=validate)
    cut = {isinstance(p, DTensor) for p in task.model.parameters()}
    return result, cut, full_tensors(task.model.state_dict())


def test_sharded_weights_train_as_whole_ones_do(
    tmp_path: Path, rooms: BoxRooms, workers: Workers
) -> None:
    whole = workers.run(2, work, tmp_path / "ddp", rooms, DDP)
    cut = workers.run(2, work, tmp_path / "fsdp2", rooms, FSDP2)
    assert {result for result, _, _ in (*whole, *cut)} == {TrainResult(step=4, finished=True)}
    assert [kinds for _, kinds, _ in (*whole, *cut)] == [{False}, {False}, {True}, {True}]
    assert cut[1][2] == {}, "copies of the weights are for rank 0"
    ours, theirs = losses(tmp_path / "ddp"), losses(tmp_path / "fsdp2")
    assert [line["step"] for line in theirs] == [1, 2, 3, 4]
    for line, other in zip(ours, theirs, strict=True):
        assert line.keys() == other.keys()
        for name in line:
            assert other[name] == pytest.approx(line[name], rel=2e-3, abs=1e-5), name
    assert ours[0]["grad_norm"] > DDP.train.clip_norm, "clipped"
    assert "field/model/geo/r2" in theirs[1] and "field/model/geo/r2" not in theirs[2]
    # One format of checkpoints: the same names and shapes, whole tensors.
    for name in ("model", "optimizer", "ema"):
        a, b = (
            load_file(tmp_path / kind / f"checkpoints/step-00000004/{name}.safetensors")
            for kind in ("ddp", "fsdp2")
        )
        assert {n: x.shape for n, x in a.items()} == {n: x.shape for n, x in b.items()}
        for n, x in a.items():
            torch.testing.assert_close(b[n], x, rtol=5e-3, atol=2e-4)
    # What is left in the model at the end is the average.
    for name, x in cut[0][2].items():
        if name in b:
            assert torch.equal(x, b[name]), name


def test_one_worker_goes_on_from_the_checkpoint_of_two(
    tmp_path: Path, rooms: BoxRooms, workers: Workers
) -> None:
    recipe = override(FSDP2, {"train.validate_every": 0})
    folder = tmp_path / "run"
    workers.run(2, half, folder, rooms, recipe)
    assert run(folder, rooms, recipe) == TrainResult(step=4, finished=True)
    run(tmp_path / "alone", rooms, recipe)
    for a, b in zip(losses(folder), losses(tmp_path / "alone"), strict=True):
        assert a["total"] == pytest.approx(b["total"], rel=2e-3)


def test_three_workers_stopped_and_started_again_end_with_the_same_bytes(
    tmp_path: Path, rooms: BoxRooms, workers: Workers
) -> None:
    """With three the order of a sum matters: DDP must lay gradients out alike in every life."""
    recipe = override(DDP, {"train.validate_every": 0, "train.batches_per_step": 3})
    workers.run(3, run_in_world, tmp_path / "whole", rooms, recipe)
    workers.run(3, half, tmp_path / "parts", rooms, recipe)
    workers.run(3, run_in_world, tmp_path / "parts", rooms, recipe)
    assert newest(tmp_path / "whole") == newest(tmp_path / "parts")


def run_in_world(world: World, folder: Path, rooms: BoxRooms, recipe: Recipe) -> TrainResult:
    return run(folder, rooms, recipe, world=world)


def half(world: World, folder: Path, rooms: BoxRooms, recipe: Recipe) -> None:
    """Two steps, then the second rank is asked to stop, and both do."""
    calls = iter(range(9))
    result = run(folder, rooms, recipe, world=world, stop=lambda: next(calls) == world.rank == 1)
    assert result == TrainResult(step=2, finished=False)


class Poisoned(BoxRooms):
    """One clip, which only the second rank meets, gives a loss that is not a number."""

    bad = ""

    def load(self, clips):
        batch = super().load(clips)
        for i, clip in enumerate(clips):
            if clip.id == self.bad:
                batch.geo_BVND[i, 1:, 0, 0] = float("nan")
        return batch


def refused(world: World, folder: Path, source: BoxRooms, recipe: Recipe) -> str:
    with pytest.raises(TrainingError) as caught:
        run(folder, source, recipe, world=world)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "size"), [("fsdp2", 2), ("ddp", 3)])
def test_a_bad_clip_of_one_rank_is_named_on_all(
    tmp_path: Path, workers: Workers, kind: str, size: int
) -> None:
    recipe = override(DDP, {"train.sharding": kind, "train.ema": 0.0})
    source = Poisoned(recipe, rooms=3)
    task = PretrainTask(recipe, open_data(source, recipe))
    source.bad = task.load(5).clips[0].id  # in the second step, by rank 1 of 2 and 2 of 3
    first = [clip.id for i in range(5) for clip in task.load(i).clips]
    assert source.bad not in first
    texts = workers.run(size, refused, tmp_path / "run", source, recipe)
    assert len(set(texts)) == 1
    assert f"clip {source.bad};" in texts[0] and texts[0].count("clip box") == 1, texts[0]
    assert "non-finite loss at step 1 in scene" in texts[0] and "\n" not in texts[0]
    assert [line["step"] for line in losses(tmp_path / "run")] == [1]


def test_shares_that_cannot_be_are_refused(tmp_path: Path, rooms: BoxRooms) -> None:
    for recipe, size, reason in (
        (DDP, 5, "5 workers for 4 micro-batches a step"),
        (FSDP2, 3, "3 workers do not divide train.batches_per_step 4"),
    ):
        world = World(device=torch.device("cpu"), size=size)
        task = PretrainTask(recipe, open_data(rooms, recipe))
        with pytest.raises(ConfigError, match=reason):
            run_task(tmp_path, task, recipe, world=world)


def test_a_world_of_one_has_nothing_to_cut(tmp_path: Path, rooms: BoxRooms) -> None:
    ddp, fsdp2 = (override(r, {"train.validate_every": 0}) for r in (DDP, FSDP2))
    run(tmp_path / "a", rooms, ddp)
    run(tmp_path / "b", rooms, fsdp2)
    assert newest(tmp_path / "a") == newest(tmp_path / "b")
    model = PretrainTask(ddp, open_data(rooms, ddp)).model
    assert len(list(blocks(model))) == 2 and full_tensors({}) == {}
