"""Checkpoints: whole or absent, of this run or refused, kept by policy, written behind the run."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spa3r import storage
from spa3r.config import TrainConfig
from spa3r.errors import ConfigError, TrainingError
from spa3r.train import checkpoint_files as files
from spa3r.train.checkpoints import Checkpoints
from tests.unit.train.conftest import SmallDisk
from tests.unit.train.run_state import (
    CONFIG,
    IDENTITY,
    WORLD,
    fresh,
    opened,
    saved,
    started,
    stepped,
    weight,
)


def steps(url: object) -> list[int]:
    return [int(f[-8:]) for f in files.complete(str(url))]


@pytest.mark.parametrize("where", ["", "memory://runs/"])
def test_what_is_saved_is_continued_from(tmp_path: Path, where: str):
    url = where + str(tmp_path / "checkpoints")
    state = saved(url)
    found = started(url)
    assert found.step == 2
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, found.model.state_dict()[name])
    assert steps(url) == [2]


def test_a_checkpoint_is_read_without_this_project(tmp_path: Path):
    state = saved(tmp_path)
    folder = tmp_path / "step-00000002"
    said = json.loads((folder / "state.json").read_text())
    assert said["step"] == 2 and said["identity"]["target_hash"] == "t"
    assert set(said["files"]) == {p.name for p in folder.iterdir()} - {"state.json"}
    tensors = load_file(folder / "model.safetensors")
    assert torch.equal(tensors["0.weight"], weight(state))


def test_the_newest_the_best_and_the_round_ones_are_kept(tmp_path: Path):
    config = TrainConfig(steps=99, keep_checkpoints=2, keep_best=1, keep_every=30)
    state = stepped()
    scores = {10: 0.1, 20: 0.9, 30: 0.2, 40: float("nan"), 50: None, 60: 0.3, 70: 0.4, 80: 0.1}
    with opened(tmp_path, config=config) as checkpoints:
        for state.step, score in scores.items():
            checkpoints.save(state, score=score)
    assert steps(tmp_path) == [20, 30, 60, 70, 80]
    with opened(tmp_path, config=config) as checkpoints:  # known to the next process as well
        checkpoints.start(state)
        state.step = 90
        checkpoints.save(state, score=0.95)
    assert steps(tmp_path) == [30, 60, 80, 90]
    assert {p.name for p in tmp_path.iterdir()} == {f"step-000000{s}" for s in (30, 60, 80, 90)}


def test_a_save_is_written_behind_the_run_and_the_next_one_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write, go = files.write, threading.Event()

    def slow(*arguments):
        assert go.wait(30)
        return write(*arguments)

    monkeypatch.setattr(files, "write", slow)
    state = stepped()
    before = weight(state).detach().clone()
    with opened(tmp_path) as checkpoints:
        checkpoints.save(state)
        assert steps(tmp_path) == []
        with torch.no_grad():
            weight(state).zero_()  # the run goes on
        go.set()
        checkpoints.wait()
        assert steps(tmp_path) == [2]
    assert torch.equal(weight(started(tmp_path)), before)


def test_what_a_killed_save_left_is_no_checkpoint_and_is_cleared(tmp_path: Path):
    saved(tmp_path)
    half = tmp_path / "step-00000003"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"whole, but alone")
    (half / ".optimizer.safetensors.0123.tmp").write_bytes(b"half")
    assert steps(tmp_path) == [2]
    assert started(tmp_path).step == 2
    assert not half.exists()


def test_another_run_is_refused_and_every_difference_named(tmp_path: Path):
    saved(tmp_path)
    other = {"recipe": {"train": {"lr": 0.2}}, "target_hash": "u"}
    with pytest.raises(TrainingError) as caught:
        started(tmp_path, other)
    text = str(caught.value)
    assert "recipe.train.lr is 0.1 there, 0.2 here" in text
    assert "target_hash is t there, u here" in text and "\n" not in text


def spoil(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "flipped":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif how == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        path.write_text(how)


DAMAGE = [
    ("optimizer.safetensors", "missing"), ("model.safetensors", "flipped"),
    ("rng.safetensors", "cut"), ("state.json", ""), ("state.json", "[]"), ("state.json", "{"),
    ("state.json", '{"schema": 2}'),
    ("state.json", '{"schema": 2, "step": 4, "score": null, "identity": {}, "files": {"a": 1}}'),
    ("state.json", '{"schema": 2, "step": "4", "score": null, "identity": {}, "files": {}}'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "how"), DAMAGE)
def test_a_damaged_one_is_named_and_the_one_before_it_taken(
    tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
):
    saved(tmp_path, 3, 4)
    spoil(tmp_path / "step-00000004" / name, how)
    assert started(tmp_path).step == 3
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "1 damaged" in warning and f"step-00000004/{name}" in warning
    # It never counts as one of the newest: with room for one alone, the whole one stays.
    one = TrainConfig(steps=9, keep_checkpoints=1, keep_best=0)
    with opened(tmp_path, config=one) as checkpoints:
        state = fresh()
        checkpoints.start(state)
        state.step = 5
        checkpoints.save(state)
    assert steps(tmp_path) == [5]
    assert started(tmp_path).step == 5


def test_where_all_are_damaged_nothing_begins_anew_in_silence(tmp_path: Path):
    saved(tmp_path, 3, 4)
    for number in (3, 4):
        spoil(tmp_path / f"step-0000000{number}" / "model.safetensors", "flipped")
    with pytest.raises(TrainingError, match=r"all 2 checkpoints are damaged .*delete them") as got:
        started(tmp_path)
    assert "\n" not in str(got.value)


def test_one_of_another_version_is_refused_not_passed_over(tmp_path: Path):
    saved(tmp_path)
    spoil(tmp_path / "step-00000002" / "state.json", '{"schema": 1, "position": 8}')
    with pytest.raises(TrainingError, match="schema 1, this version reads 2"):
        started(tmp_path)


def test_order_is_own_run_then_given_weights_then_scratch(tmp_path: Path):
    weights, run = tmp_path / "model.safetensors", tmp_path / "run"
    given = fresh(seed=9)
    save_file(given.model.state_dict(), weights)
    assert torch.equal(weight(started(run)), weight(fresh(seed=5)))
    found = started(run, init_from=str(weights))
    assert torch.equal(weight(found), weight(given)) and found.step == 0
    own = saved(run)
    found = started(run, init_from=str(weights))
    assert torch.equal(weight(found), weight(own)) and found.step == 2


# --- a full disk ----------------------------------------------------------------------------------


def check_full_disk(url: Path, fill, free) -> None:
    """Saves, fails to save, and saves again; the first one is usable in between."""
    state = saved(url)
    with opened(url) as checkpoints:
        state.step = 3
        fill()
        checkpoints.save(state)
        with pytest.raises(TrainingError, match=r"No space left on device.*start again") as caught:
            checkpoints.save(state)
        assert "\n" not in str(caught.value)
        assert steps(url) == [2] and {p.name for p in url.iterdir()} == {"step-00000002"}
    assert started(url).step == 2
    free()
    with opened(url) as checkpoints:
        checkpoints.save(state)
    assert started(url).step == 3


@pytest.mark.parametrize("name", ["model.safetensors", "rng.safetensors", "state.json"])
def test_a_full_disk_leaves_the_one_before_usable(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    write = storage.write_bytes

    def full(url, data):
        if str(url).endswith(name):
            raise ConfigError(f"{url}: cannot be written ({os.strerror(errno.ENOSPC)})")
        write(url, data)

    check_full_disk(
        tmp_path,
        lambda: monkeypatch.setattr(storage, "write_bytes", full),
        lambda: monkeypatch.setattr(storage, "write_bytes", write),
    )


def test_a_disk_that_is_really_full(small_disk: SmallDisk):
    check_full_disk(small_disk.run, small_disk.fill, small_disk.free)


def test_an_error_of_the_run_is_not_hidden_by_that_of_its_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(*_):
        raise TrainingError("no space")

    monkeypatch.setattr(files, "write", full)
    with pytest.raises(KeyError), opened(tmp_path) as checkpoints:
        checkpoints.save(stepped())
        raise KeyError("mine")
    assert "no space" in caplog.text
    with pytest.raises(TrainingError, match="no space"), opened(tmp_path) as checkpoints:
        checkpoints.save(stepped())


def test_a_run_that_was_taken_over_saves_no_more(tmp_path: Path):
    def lost() -> None:
        raise TrainingError("taken over")

    checkpoints = Checkpoints(str(tmp_path), WORLD, CONFIG, IDENTITY, allowed=lost)
    with pytest.raises(TrainingError, match="taken over"), checkpoints:
        checkpoints.save(stepped())
    assert steps(tmp_path) == []
