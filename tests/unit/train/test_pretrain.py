"""A whole run without Ray: re-use, identity, what the encoder records, what followers see."""

import dataclasses
import json
import logging
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spa3r.errors import ConfigError, TrainingError
from spa3r.hub import Spa3REncoder
from spa3r.plain import override
from spa3r.train.follow import follow
from spa3r.train.job import Job, run_job
from spa3r.train.pretrain import pretrain
from spa3r.train.pretrain_work import PretrainWork
from spa3r.train.sources import open_data
from spa3r.train.task import PretrainTask
from spa3r.train.world import World
from tests.box_rooms import BoxRooms, box_recipe

RECIPE = box_recipe(train__steps=4, train__checkpoint_every=2)


@pytest.fixture(scope="module")
def rooms() -> BoxRooms:
    return BoxRooms(RECIPE, rooms=2)


def test_a_finished_run_is_reused_and_says_so(
    tmp_path: Path, rooms: BoxRooms, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    first = pretrain(RECIPE, rooms, tmp_path)
    assert not first.reused and first.metrics["step"] == 4
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    second = pretrain(RECIPE, rooms, tmp_path)
    assert second.reused and second.metrics == first.metrics
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == times
    assert "re-used" in caplog.text
    # A damaged result is not re-used: it is written again, from the last checkpoint.
    model = first.encoder / "model.safetensors"
    whole = model.read_bytes()
    model.write_bytes(b"")
    assert not pretrain(RECIPE, rooms, tmp_path).reused
    assert model.read_bytes() == whole


def test_another_recipe_or_other_data_in_the_same_folder_is_refused(
    tmp_path: Path, rooms: BoxRooms
):
    pretrain(RECIPE, rooms, tmp_path)
    other = box_recipe(train__steps=4, train__checkpoint_every=1, train__lr=2e-3)
    with pytest.raises(TrainingError, match=r"recipe\.train\.lr is 0\.001 there, 0\.002 here"):
        pretrain(other, rooms, tmp_path)
    with pytest.raises(TrainingError, match="target_hash is"):
        pretrain(RECIPE, BoxRooms(RECIPE, rooms=2, seed=4), tmp_path)


def test_the_encoder_records_recipe_data_and_teacher(tmp_path: Path, rooms: BoxRooms):
    done = pretrain(RECIPE, rooms, tmp_path)
    card = Spa3REncoder.from_pretrained(done.encoder).card
    assert card.provenance["recipe"] == "boxes" and card.provenance["steps"] == 4
    assert card.provenance["target_hash"] == rooms.target_hash
    assert card.provenance["datasets"] == ["boxes"]
    assert card.references["geometric"]["kind"] == "rgbd"
    assert (card.image_width, card.image_multiple) == (224, 28)
    statistics = Spa3REncoder.from_pretrained(done.encoder).model.geo_mean
    assert (statistics == rooms.stats["geo_mean"]).all()


def test_the_encoder_has_the_averaged_weights_where_they_are_kept(tmp_path: Path, rooms: BoxRooms):
    recipe = box_recipe(train__steps=4, train__ema=0.9)
    done = pretrain(recipe, rooms, tmp_path)
    found = load_file(done.encoder / "model.safetensors")
    last = tmp_path / "checkpoints" / "step-00000004"
    averages = load_file(last / "ema.safetensors")
    assert averages and all(torch.equal(x, found[name]) for name, x in averages.items())
    own = load_file(last / "model.safetensors")
    assert not all(torch.equal(own[name], x) for name, x in averages.items())
    assert own.keys() == found.keys()


def test_standardising_without_statistics_and_remote_run_folders_are_refused(rooms: BoxRooms):
    class Bare:
        clips = rooms.clips
        load, grid_hw = rooms.load, rooms.grid_hw

    with pytest.raises(ConfigError, match="statistics"):
        PretrainTask(RECIPE, open_data(Bare(), RECIPE))
    with pytest.raises(ConfigError, match="local or mounted"):
        pretrain(RECIPE, rooms, "memory://run")


def test_decoding_target_views_alone_gives_the_loss_of_masking_them(rooms: BoxRooms):
    """The short way (decode targets only) against the long one (decode all, count targets)."""
    from spa3r.models.losses import FieldTargets, psfm_loss

    task = PretrainTask(RECIPE, open_data(rooms, RECIPE))
    batch = task.load(0)
    model = task.model
    hidden = model.decode(
        model.encode(batch.context_BCND, batch.grid_hw), batch.camera_from_world_BV44,
        batch.K_BV33, batch.grid_hw,
    )  # fmt: skip
    assert batch.sem_BVND is not None
    everything = FieldTargets(
        geo_BVND=model.standardise("geo", batch.geo_BVND),
        sem_BVND=model.standardise("sem", batch.sem_BVND),
        depth_BVN=batch.depth_BVN,
        valid_BVN=batch.valid_BVN,
        is_target_BV=batch.is_target_BV,
    )
    long = psfm_loss(model.predict(hidden), everything, RECIPE.loss)
    short = task(batch)
    assert long.keys() == short.keys()
    for name in long:
        torch.testing.assert_close(short[name], long[name], atol=1e-5, rtol=1e-5)


def test_a_schedule_is_followed_and_survives_a_stop(tmp_path: Path):
    schedule = box_recipe(
        train__steps=4, train__batches_per_step=1, clips__mask_schedule=[0.25, 0.75]
    )
    rooms = BoxRooms(schedule, rooms=2)
    seen: list[set[int]] = []

    class Recorded:
        clips, stats, grid_hw = rooms.clips, rooms.stats, rooms.grid_hw

        def load(self, clips):
            seen.append({clip.num_context for clip in clips})
            return rooms.load(clips)

    calm = pretrain(schedule, Recorded(), tmp_path / "calm")
    assert all(found <= {3, 4} for found in seen[:2])  # of 4 and of 6 views at a ratio of 0.25
    assert all(found <= {1} for found in seen[2:]) and len(seen) == 4
    job = Job(work=PretrainWork(recipe=schedule, targets=Recorded()), run=tmp_path / "stopped")
    world = World(device=torch.device("cpu"))
    answers = iter([False, False, True])
    result = run_job(job, world, stop=lambda: next(answers))
    assert (result.step, result.finished) == (3, False)
    ended = pretrain(schedule, Recorded(), tmp_path / "stopped")
    assert seen[4:] == seen[:4]
    for name in ("model.safetensors", "config.json"):
        assert (ended.encoder / name).read_bytes() == (calm.encoder / name).read_bytes()


def test_a_follower_sees_each_step_once_even_across_a_restart(tmp_path: Path):
    path, seen = tmp_path / "metrics.jsonl", []

    def write(steps: range, mode: str) -> None:
        with path.open(mode) as f:
            for step in steps:
                f.write(json.dumps({"step": step}) + "\n")

    reached = threading.Event()

    def on_line(line) -> None:
        seen.append(line["step"])
        if line["step"] == 3:
            reached.set()

    with follow(path, on_line):
        write(range(1, 4), "w")
        assert reached.wait(10)
        time.sleep(0.01)
        write(range(1, 3), "w")  # killed after the checkpoint of step 2, started again
        write(range(3, 6), "a")
    assert seen == [1, 2, 3, 4, 5]


def test_one_held_out_scene_means_a_run_without_validation(
    tmp_path: Path,
    rooms: BoxRooms,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    alone = BoxRooms(RECIPE, rooms=1, seed=1)
    data = dataclasses.replace(open_data(rooms, RECIPE), held_out=alone)
    monkeypatch.setattr("spa3r.train.pretrain_work.open_data", lambda *_, **__: data)
    recipe = override(RECIPE, {"train.validate_every": 2})
    pretrain(recipe, rooms, tmp_path)
    assert "without validation: validation on 1 held-out scenes" in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines and not any(name.startswith("field/") for line in lines for name in line)
