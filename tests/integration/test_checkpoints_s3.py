"""Checkpoints on an object store: complete or none there too, and a whole run that uses them."""

from pathlib import Path

import pytest
import torch

from spa3r import storage
from spa3r.errors import TrainingError
from spa3r.train.checkpoint_files import complete, folder_of
from spa3r.train.pretrain import pretrain
from tests.box_rooms import BoxRooms, box_recipe
from tests.s3_server import Gate, contents
from tests.unit.train.run_state import opened, saved, started, stepped, weight


def test_what_is_saved_is_continued_from_and_old_ones_go(bucket: str):
    url = f"{bucket}/checkpoints"
    state = saved(url, 3, 4, 5)
    assert [folder[-1] for folder in complete(url)] == ["4", "5"]
    assert {name.split("/")[0] for name in contents(url)} == {"step-00000004", "step-00000005"}
    found = started(url)
    assert found.step == 5 and torch.equal(weight(found), weight(state))


def test_a_half_written_one_is_cleared_and_a_damaged_one_passed_over(bucket: str):
    saved(bucket, 3, 4)
    storage.write_bytes(f"{folder_of(bucket, 5)}/model.safetensors", b"whole, but alone")
    storage.write_bytes(f"{folder_of(bucket, 4)}/model.safetensors", b"other bytes")
    assert started(bucket).step == 3
    assert not any("step-00000005" in name for name in contents(bucket))


def test_a_store_that_fails_leaves_the_one_before_usable(
    gate: Gate, bucket: str, quick_retries: None
):
    saved(bucket, 2)
    state = stepped()
    state.step = 3
    with opened(bucket) as checkpoints:
        gate.share, gate.faults = 1.0, ("internal",)
        checkpoints.save(state)
        with pytest.raises(TrainingError, match=r"start again to continue") as caught:
            checkpoints.wait()
    gate.share = 0.0
    assert "\n" not in str(caught.value)
    assert started(bucket).step == 2


def test_a_run_with_its_checkpoints_there_continues(bucket: str, tmp_path: Path):
    recipe = box_recipe(train__steps=4, train__checkpoint_every=2, train__batches_per_step=1)
    rooms = BoxRooms(recipe, rooms=2)
    whole = pretrain(recipe, rooms, tmp_path / "whole")
    url = f"{bucket}/runs/boxes"
    done = pretrain(recipe, rooms, tmp_path / "run", checkpoints=url)
    assert not (tmp_path / "run" / "checkpoints").exists()
    (tmp_path / "run" / "done.json").unlink()
    storage.remove(f"{folder_of(url, 4)}/state.json")  # as if the last save had been cut short
    again = pretrain(recipe, rooms, tmp_path / "run", checkpoints=url)
    weights = {(r.encoder / "model.safetensors").read_bytes() for r in (whole, done, again)}
    assert len(weights) == 1
