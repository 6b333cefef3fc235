"""Checkpoints: whole or absent, of this run or refused, every tensor accounted for."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spa3r.config import TrainConfig
from spa3r.errors import TrainingError, WeightsError
from spa3r.train.optim import build_optimizer
from spa3r.train.state import TrainState, checkpoints, differences, latest, save, start
from spa3r.train.world import World

WORLD = World(device=torch.device("cpu"))
IDENTITY = {"recipe": {"train": {"lr": 0.1, "log_every": 1}}, "target_hash": "t"}


def fresh(seed: int = 0, width: int = 3) -> TrainState:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.LayerNorm(width))
    return TrainState(model=model, optimizer=build_optimizer(model, TrainConfig(steps=9)))


def stepped(count: int = 2) -> TrainState:
    state = fresh()
    for _ in range(count):
        state.model(torch.rand(4, 3)).square().sum().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.position += 4
    return state


def rewrite(folder: Path, name: str, change) -> None:
    """Edits a file of a checkpoint as a bug, not a disk, would: with its checksum."""
    from spa3r import storage

    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    found = json.loads((folder / "state.json").read_text())
    found["files"][name]["sha256"] = storage.sha256(folder / name)
    (folder / "state.json").write_text(json.dumps(found))


def test_restored_state_is_equal_in_every_tensor(tmp_path: Path):
    state = stepped()
    save(state, tmp_path, IDENTITY, WORLD, keep=2)
    drawn = torch.rand(3)
    other = fresh(seed=5)
    start(other, tmp_path, IDENTITY, WORLD)
    assert torch.equal(torch.rand(3), drawn), "the generator continues"
    assert (other.step, other.position) == (2, 8)
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])
    for ours, theirs in zip(state.model.parameters(), other.model.parameters(), strict=True):
        a, b = state.optimizer.state[ours], other.optimizer.state[theirs]
        assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)


def test_only_the_newest_are_kept_and_the_newest_is_found(tmp_path: Path):
    assert latest(tmp_path) is None
    state = stepped()
    for step in (2, 30, 4):
        state.step = step
        save(state, tmp_path, IDENTITY, WORLD, keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000004", "step-00000030"]
    assert latest(tmp_path) == tmp_path / "checkpoints" / "step-00000030"


def test_what_a_killed_save_left_is_no_checkpoint_and_is_cleared(tmp_path: Path):
    state = stepped()
    save(state, tmp_path, IDENTITY, WORLD, keep=2)
    half = tmp_path / "checkpoints" / ".step-00000003.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert latest(tmp_path) == tmp_path / "checkpoints" / "step-00000002"
    state.step = 3
    save(state, tmp_path, IDENTITY, WORLD, keep=2)
    assert not half.exists() and len(checkpoints(tmp_path)) == 2


def test_another_run_is_refused_and_every_difference_named(tmp_path: Path):
    save(stepped(), tmp_path, IDENTITY, WORLD, keep=2)
    other = {"recipe": {"train": {"lr": 0.2, "log_every": 7}}, "target_hash": "u"}
    with pytest.raises(TrainingError) as caught:
        start(fresh(), tmp_path, other, WORLD)
    text = str(caught.value)
    assert "recipe.train.lr is 0.1 there, 0.2 here" in text
    assert "target_hash is t there, u here" in text
    assert "log_every" not in text, "bookkeeping may change"
    assert differences({"a": {"b": 1}}, {"a": {"b": 1}}) == []
    assert differences({"a": {"b": 1}}, {"a": None}) == ["a is {'b': 1} there, None here"]


def test_a_flipped_byte_or_missing_file_is_found(tmp_path: Path):
    folder = save(stepped(), tmp_path, IDENTITY, WORLD, keep=2)
    path = folder / "optimizer.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(WeightsError, match="missing or damaged"):
        start(fresh(), tmp_path, IDENTITY, WORLD)
    path.unlink()
    with pytest.raises(WeightsError, match="missing or damaged"):
        start(fresh(), tmp_path, IDENTITY, WORLD)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', '{"schema": 99}', '"x"'])
def test_a_damaged_state_file_is_a_named_error(tmp_path: Path, text: str):
    folder = save(stepped(), tmp_path, IDENTITY, WORLD, keep=2)
    (folder / "state.json").write_text(text)
    with pytest.raises(TrainingError, match=r"state\.json"):
        start(fresh(), tmp_path, IDENTITY, WORLD)


def test_tensors_that_do_not_fit_are_all_named(tmp_path: Path):
    folder = save(stepped(), tmp_path, IDENTITY, WORLD, keep=2)

    def spoil(tensors):
        tensors["0.weight"] = torch.zeros(2, 2)
        tensors["new"] = tensors.pop("1.bias")

    rewrite(folder, "model.safetensors", spoil)
    with pytest.raises(WeightsError) as caught:
        start(fresh(), tmp_path, IDENTITY, WORLD)
    assert all(name in str(caught.value) for name in ("0.weight", "new", "1.bias"))


def test_optimizer_tensors_that_do_not_fit_are_all_named(tmp_path: Path):
    folder = save(stepped(), tmp_path, IDENTITY, WORLD, keep=2)

    def spoil(tensors):
        tensors["0.weight/exp_avg"] = torch.zeros(2, 2)
        del tensors["1.bias/exp_avg_sq"]
        tensors["nobody/step"] = torch.zeros(())

    rewrite(folder, "optimizer.safetensors", spoil)
    with pytest.raises(WeightsError) as caught:
        start(fresh(), tmp_path, IDENTITY, WORLD)
    for name in ("0.weight/exp_avg", "1.bias/exp_avg_sq", "nobody/step"):
        assert name in str(caught.value)


def test_order_is_own_run_then_given_weights_then_scratch(tmp_path: Path):
    weights = tmp_path / "model.safetensors"
    given = fresh(seed=9)
    save_file(given.model.state_dict(), weights)
    scratch, from_weights, from_run = fresh(), fresh(), fresh()
    start(scratch, tmp_path / "run", IDENTITY, WORLD)
    assert torch.equal(scratch.model[0].weight, fresh().model[0].weight)
    start(from_weights, tmp_path / "run", IDENTITY, WORLD, init_from=str(weights))
    assert torch.equal(from_weights.model[0].weight, given.model[0].weight)
    own = stepped()
    save(own, tmp_path / "run", IDENTITY, WORLD, keep=2)
    start(from_run, tmp_path / "run", IDENTITY, WORLD, init_from=str(weights))
    assert torch.equal(from_run.model[0].weight, own.model[0].weight) and from_run.step == 2
    with pytest.raises(WeightsError, match=r"0\.weight"):
        start(fresh(width=4), tmp_path / "new", IDENTITY, WORLD, init_from=str(weights))
