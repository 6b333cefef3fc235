"""The loop's promises: exact restart, stops before damage, every step logged once."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spa3r.errors import TrainingError
from spa3r.train.loop import TrainResult, train
from spa3r.train.metrics import read_lines
from spa3r.train.sources import open_data
from spa3r.train.state import checkpoints, latest
from spa3r.train.task import PretrainTask
from spa3r.train.world import World
from tests.box_rooms import BoxRooms, box_recipe

WORLD = World(device=torch.device("cpu"))
RECIPE = box_recipe(train__steps=8, train__checkpoint_every=3, train__batches_per_step=2)


@pytest.fixture(scope="module")
def rooms() -> BoxRooms:
    return BoxRooms(RECIPE, rooms=3)


def run(
    run_folder: Path,
    source: BoxRooms,
    recipe=RECIPE,
    stop: Callable[[], bool] = lambda: False,
    **options,
) -> TrainResult:
    task = PretrainTask(recipe, open_data(source, recipe))
    return train(
        task, recipe.train, run_folder, identity={"recipe": recipe.name}, world=WORLD, stop=stop,
        **options,
    )  # fmt: skip


def after(calls: int) -> Callable[[], bool]:
    """A stop that is asked for in the step of that number."""
    count = iter(range(1, 1000))
    return lambda: next(count) >= calls


def newest(run_folder: Path) -> dict[str, bytes]:
    folder = latest(run_folder)
    assert folder is not None
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def losses(run_folder: Path) -> list[dict[str, float]]:
    timed = ("views_per_second", "data_wait_share")
    lines = read_lines(run_folder / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


@pytest.mark.parametrize("stop_at", [1, 4, 5])
def test_2n_steps_equal_n_restart_n_bit_for_bit(tmp_path: Path, rooms: BoxRooms, stop_at: int):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, rooms) == TrainResult(step=8, finished=True)
    assert run(parts, rooms, stop=after(stop_at)) == TrainResult(step=stop_at, finished=False)
    torch.rand(7)  # whatever else the process did
    assert run(parts, rooms) == TrainResult(step=8, finished=True)
    assert newest(whole) == newest(parts)
    assert losses(whole) == losses(parts)


def test_a_kill_between_checkpoints_repeats_steps_but_logs_them_once(
    tmp_path: Path, rooms: BoxRooms
):
    class KilledError(Exception):
        pass

    def kill() -> bool:
        if next(calls) == 5:
            raise KilledError
        return False

    calls = iter(range(1, 100))
    run(tmp_path / "whole", rooms)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", rooms, stop=kill)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    assert [line["step"] for line in read_lines(metrics)] == [1, 2, 3, 4]
    metrics.write_bytes(metrics.read_bytes() + b'{"step": 5, "to')  # died while writing
    run(tmp_path / "killed", rooms)
    assert newest(tmp_path / "whole") == newest(tmp_path / "killed")
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def test_loader_threads_change_nothing(tmp_path: Path, rooms: BoxRooms):
    run(tmp_path / "in_line", rooms)
    run(tmp_path / "ahead", rooms, loaders=2)
    assert newest(tmp_path / "in_line") == newest(tmp_path / "ahead")


def test_a_finished_run_is_left_alone(tmp_path: Path, rooms: BoxRooms):
    run(tmp_path, rooms)
    before = newest(tmp_path)
    assert run(tmp_path, rooms) == TrainResult(step=8, finished=True)
    assert newest(tmp_path) == before
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000006", "step-00000008"]


class Poisoned(BoxRooms):
    """One clip of the whole set has a token that is not a number."""

    bad = 5

    def load(self, clips):
        batch = super().load(clips)
        for i, clip in enumerate(batch.clips):
            if clip == self.clips[self.bad]:
                batch.geo_BVND[i, 1:, 0, 0] = float("nan")
        return batch


def test_a_non_finite_loss_stops_before_the_optimizer_and_names_step_scene_and_clip(
    tmp_path: Path,
):
    clean = BoxRooms(RECIPE, rooms=3)
    poisoned = Poisoned(RECIPE, rooms=3)
    with pytest.raises(TrainingError) as caught:
        run(tmp_path / "bad", poisoned)
    clip = poisoned.clips[poisoned.bad]
    text = str(caught.value)
    assert "non-finite loss at step" in text and "\n" not in text
    assert f"scene {clip.scene} clip {clip.id}" in text
    assert text.count("clip box") == 1, "innocent clips of the batch are named"
    step = int(text.split("at step ")[1].split()[0])
    # The same run on clean data passes; up to the bad step both logged the same.
    run(tmp_path / "good", clean)
    assert losses(tmp_path / "bad") == losses(tmp_path / "good")[:step]
    saved = latest(tmp_path / "bad")
    if saved is not None:
        weights = load_file(saved / "model.safetensors").values()
        assert all(bool(x.isfinite().all()) for x in weights)


def test_a_non_finite_gradient_stops_too(tmp_path: Path, rooms: BoxRooms):
    recipe = RECIPE
    task = PretrainTask(recipe, open_data(rooms, recipe))
    before = {name: x.clone() for name, x in task.model.state_dict().items()}
    task.model.projection.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(TrainingError, match=r"non-finite gradient \(norm (inf|nan)\) at step 0"):
        train(task, recipe.train, tmp_path, identity={}, world=WORLD)
    after_ = task.model.state_dict()
    assert all(torch.equal(before[name], after_[name]) for name in before)


def test_sigterm_saves_and_ends(tmp_path: Path, rooms: BoxRooms):
    from spa3r.train.pretrain import pretrain

    class Terminating(BoxRooms):
        loads = 0

        def load(self, clips):
            self.loads += 1
            if self.loads == 7:  # in the fourth step of two batches
                os.kill(os.getpid(), signal.SIGTERM)
            return super().load(clips)

    source = Terminating(RECIPE, rooms=3)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingError, match="stopped at step 4 of 8"):
        pretrain(RECIPE, source, tmp_path / "a")
    assert signal.getsignal(signal.SIGTERM) is before
    again = pretrain(RECIPE, source, tmp_path / "a")
    straight = pretrain(RECIPE, rooms, tmp_path / "b")
    assert newest(tmp_path / "a") == newest(tmp_path / "b")
    assert (again.encoder / "model.safetensors").read_bytes() == (
        straight.encoder / "model.safetensors"
    ).read_bytes()


def test_log_lines_carry_losses_rate_and_waiting(tmp_path: Path, rooms: BoxRooms):
    run(tmp_path, rooms)
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    for line in lines:
        parts = ("geo/l1", "geo/cos", "sem/l1", "sem/cos", "depth_prob")
        assert line["total"] == pytest.approx(sum(line[p] for p in parts), rel=1e-5)
        assert line["views_per_second"] > 0 and 0 <= line["data_wait_share"] <= 1
        assert line["grad_norm"] > 0 and line["lr"] > 0
    assert lines[-1]["total"] < lines[0]["total"]


def test_bfloat16_autocast_trains(tmp_path: Path, rooms: BoxRooms):
    recipe = replace(RECIPE, train=replace(RECIPE.train, precision="bfloat16"))
    run(tmp_path, rooms, recipe)
    half = losses(tmp_path)
    run(tmp_path / "full", rooms)
    full = losses(tmp_path / "full")
    assert half[0]["total"] != full[0]["total"]
    assert half[-1]["total"] == pytest.approx(full[-1]["total"], rel=0.05)
