"""The loop's promises: exact restart, stops before damage, every step logged once."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spa3r.errors import TrainingError
from spa3r.plain import override
from spa3r.train.loop import TrainResult
from spa3r.train.metrics import read_lines
from spa3r.train.sources import open_data
from spa3r.train.task import PretrainTask
from tests.box_rooms import BoxRooms, box_recipe
from tests.unit.train.run_task import after, losses, newest, run, run_task

RECIPE = box_recipe(train__steps=8, train__checkpoint_every=3, train__batches_per_step=2)


@pytest.fixture(scope="module")
def rooms() -> BoxRooms:
    return BoxRooms(RECIPE, rooms=3)


@pytest.mark.parametrize("stop_at", [1, 4, 5])
def test_2n_steps_equal_n_restart_n_bit_for_bit(tmp_path: Path, rooms: BoxRooms, stop_at: int):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(whole, rooms, RECIPE) == TrainResult(step=8, finished=True)
    assert run(parts, rooms, RECIPE, stop=after(stop_at)) == TrainResult(
        step=stop_at, finished=False
    )
    torch.rand(7)  # whatever else the process did
    assert run(parts, rooms, RECIPE) == TrainResult(step=8, finished=True)
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
    run(tmp_path / "whole", rooms, RECIPE)
    with pytest.raises(KilledError):
        run(tmp_path / "killed", rooms, RECIPE, stop=kill)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    assert [line["step"] for line in read_lines(metrics)] == [1, 2, 3, 4]
    metrics.write_bytes(metrics.read_bytes() + b'{"step": 5, "to')  # died while writing
    run(tmp_path / "killed", rooms, RECIPE)
    assert newest(tmp_path / "whole") == newest(tmp_path / "killed")
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def test_loader_threads_change_nothing(tmp_path: Path, rooms: BoxRooms):
    """Neither the result nor the order in which batches are computed."""
    for threads in (0, 1, 3):
        task = Recorded(RECIPE, open_data(rooms, RECIPE))
        run_task(tmp_path / str(threads), task, RECIPE, loaders=threads)
        assert task.seen == [task.order(i) for i in range(16)]
        assert newest(tmp_path / str(threads)) == newest(tmp_path / "0")


class Recorded(PretrainTask):
    """Remembers which clips its forwards got."""

    def forward(self, batch):
        self.seen = [*getattr(self, "seen", []), batch.clips]
        return super().forward(batch)

    def order(self, index: int):
        return self._order.batch(index)


def test_a_finished_run_is_left_alone(tmp_path: Path, rooms: BoxRooms):
    run(tmp_path, rooms, RECIPE)
    before = newest(tmp_path)
    assert run(tmp_path, rooms, RECIPE) == TrainResult(step=8, finished=True)
    assert newest(tmp_path) == before
    kept = sorted(p.name for p in (tmp_path / "checkpoints").glob("step-*"))
    assert kept == ["step-00000006", "step-00000008"]


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
        run(tmp_path / "bad", poisoned, RECIPE)
    clip = poisoned.clips[poisoned.bad]
    text = str(caught.value)
    assert "non-finite loss at step" in text and "\n" not in text
    assert f"scene {clip.scene} clip {clip.id}" in text
    assert text.count("clip box") == 1, "innocent clips of the batch are named"
    step = int(text.split("at step ")[1].split()[0])
    # The same run on clean data passes; up to the bad step both logged the same.
    run(tmp_path / "good", clean, RECIPE)
    assert losses(tmp_path / "bad") == losses(tmp_path / "good")[:step]
    for saved in (tmp_path / "bad" / "checkpoints").glob("*/model.safetensors"):
        assert all(bool(x.isfinite().all()) for x in load_file(saved).values())


def test_a_non_finite_gradient_stops_too(tmp_path: Path, rooms: BoxRooms):
    recipe = RECIPE
    task = PretrainTask(recipe, open_data(rooms, recipe))
    before = {name: x.clone() for name, x in task.model.state_dict().items()}
    task.model.projection.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(TrainingError, match=r"non-finite gradient \(norm (inf|nan)\) at step 0"):
        run_task(tmp_path, task, recipe)
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


def test_log_lines_carry_losses_rate_and_meters(tmp_path: Path, rooms: BoxRooms):
    run(tmp_path, rooms, RECIPE)
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    for line in lines:
        parts = ("geo/l1", "geo/cos", "sem/l1", "sem/cos", "depth_prob")
        assert line["total"] == pytest.approx(sum(line[p] for p in parts), rel=1e-5)
        assert line["views_per_second"] > 0 and 0 <= line["data_wait_share"] <= 1
        assert line["tokens_per_second"] == pytest.approx(12 * line["views_per_second"])
        assert line["grad_norm"] > 0 and line["lr"] > 0 and line["dropped_clips"] == 0
        assert 0.05 < line["memory_gib"] < 100
        assert not {"teacher_share", "peak_share"} & line.keys(), "no teachers, no known peak"
    assert lines[-1]["total"] < lines[0]["total"]


def test_a_window_ends_with_a_checkpoint_so_a_restart_logs_the_same(
    tmp_path: Path, rooms: BoxRooms
):
    recipe = override(RECIPE, {"train.log_every": 4})
    run(tmp_path / "whole", rooms, recipe)
    run(tmp_path / "parts", rooms, recipe, stop=after(3))
    run(tmp_path / "parts", rooms, recipe)
    assert [line["step"] for line in losses(tmp_path / "whole")] == [3, 4, 6, 8]
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


class Dropping(BoxRooms):
    """Some clips are poisoned and left out, as the policy `drop` wants it."""

    def load(self, clips):
        batch = super().load(clips)
        dropped = []
        for i, clip in enumerate(clips):
            if clip in self.clips[:6]:
                batch.valid_BVN[i] = False
                batch.geo_BVND[i], batch.depth_BVN[i] = 0, 0
                dropped.append(f"clip {clip.id}: not finite")
        return replace(batch, dropped=tuple(dropped))


def test_dropped_clips_are_listed_counted_and_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    source = Dropping(RECIPE, rooms=3)
    run(tmp_path / "whole", source, RECIPE)
    assert caplog.text.count("left out") == 1 and "dropped.jsonl" in caplog.text
    listed = read_lines(tmp_path / "whole" / "dropped.jsonl")
    task = PretrainTask(RECIPE, open_data(source, RECIPE))
    expected = [
        {"step": 1 + index // 2, "clip": text}
        for index in range(16)
        for text in task.load(index).dropped
    ]
    assert listed == expected and len(listed) > 3
    counts = [line["dropped_clips"] for line in losses(tmp_path / "whole")]
    assert counts == [sum(line["step"] <= step for line in listed) for step in range(1, 9)]
    # A kill after a checkpoint: what was listed since is listed once.
    run(tmp_path / "parts", source, RECIPE, stop=after(4))
    with (tmp_path / "parts" / "dropped.jsonl").open("a") as f:
        f.write(json.dumps({"step": 5, "clip": "of the killed process"}) + "\n")
    run(tmp_path / "parts", source, RECIPE)
    assert read_lines(tmp_path / "parts" / "dropped.jsonl") == listed
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


class Exploding(BoxRooms):
    """Targets that grow out of all measure from some batch on."""

    calls, quiet = 0, 6

    def load(self, clips):
        self.calls += 1
        batch = super().load(clips)
        return batch if self.calls <= self.quiet else replace(batch, depth_BVN=batch.depth_BVN * 99)


@pytest.mark.parametrize("stop_at", [None, 3])
def test_a_loss_that_runs_away_ends_the_run(tmp_path: Path, stop_at: int | None):
    source = Exploding(RECIPE, rooms=3)
    if stop_at is not None:  # the lowest loss is then known from the file alone
        run(tmp_path, source, RECIPE, stop=after(stop_at))
    with pytest.raises(TrainingError, match=r"diverged: mean loss [\d.e+]+ up to step 4") as caught:
        run(tmp_path, source, RECIPE)
    text = str(caught.value)
    lines = losses(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert f"{min(line['total'] for line in lines):.4g}" in text and "\n" not in text
    assert "the last checkpoint is of step 3" in text and "max_loss_ratio" in text
    assert not (tmp_path / "checkpoints" / "step-00000004").exists()
    calm = override(RECIPE, {"train.max_loss_ratio": 0.0})
    source.calls = 6
    assert run(tmp_path / "never", source, calm).finished, "0: never"


def test_a_first_window_has_nothing_to_run_away_from(tmp_path: Path):
    source = Exploding(RECIPE, rooms=3)
    source.quiet = 0
    assert run(tmp_path, source, RECIPE).finished


def test_bfloat16_autocast_trains(tmp_path: Path, rooms: BoxRooms):
    recipe = replace(RECIPE, train=replace(RECIPE.train, precision="bfloat16"))
    run(tmp_path, rooms, recipe)
    half = losses(tmp_path)
    run(tmp_path / "full", rooms, RECIPE)
    full = losses(tmp_path / "full")
    assert half[0]["total"] != full[0]["total"]
    assert half[-1]["total"] == pytest.approx(full[-1]["total"], rel=0.05)
