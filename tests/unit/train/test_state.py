"""What a state gives away and takes back: every tensor, bit for bit, or a named misfit."""

import pytest
import torch

from spa3r.config import ModelConfig
from spa3r.errors import WeightsError
from spa3r.models.spa3r import Spa3RModel
from spa3r.train.state import EMA, MODEL, OPTIMIZER, begin_with, restore, snapshot
from tests.unit.train.run_state import WORLD, fresh, step, stepped, weight


def test_a_restored_state_is_equal_in_every_tensor_and_goes_on_alike():
    state = stepped(ema=True)
    files = snapshot(state, WORLD)
    other = fresh(seed=5, ema=True)
    restore(other, files, WORLD, "here")
    assert state.ema and other.ema
    for _ in range(2):  # as restored, and one step on: the generator continues too
        for name, value in state.model.state_dict().items():
            assert torch.equal(value, other.model.state_dict()[name]), name
        for ours, theirs in zip(state.model.parameters(), other.model.parameters(), strict=True):
            a, b = state.optimizer.state[ours], other.optimizer.state[theirs]
            assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a)
        assert all(torch.equal(x, other.ema[name]) for name, x in state.ema.items())
        drawn = torch.get_rng_state()
        step(state)
        torch.set_rng_state(drawn)
        step(other)


def test_a_snapshot_does_not_change_with_the_run_nor_the_run_with_the_files():
    state = stepped()
    files = snapshot(state, WORLD)
    kept = {f: {n: x.clone() for n, x in table.items()} for f, table in files.items()}
    restored = fresh(seed=5)
    restore(restored, files, WORLD, "here")
    step(state)
    step(restored)
    assert all(torch.equal(x, kept[f][n]) for f, table in files.items() for n, x in table.items())


def test_only_the_student_is_saved_about_103_million_parameters():
    with torch.device("meta"):
        model = Spa3RModel(ModelConfig())
    assert 100e6 < sum(p.numel() for p in model.parameters()) < 106e6
    assert set(snapshot(stepped(), WORLD)[MODEL]) == {
        "0.weight", "0.bias", "1.weight", "1.bias", "mean"
    }  # fmt: skip


def test_tensors_that_do_not_fit_are_all_named():
    files = snapshot(stepped(ema=True), WORLD)
    model = {**files[MODEL], "0.weight": torch.zeros(2, 2), "new": torch.zeros(1)}
    del model["1.bias"]
    with pytest.raises(WeightsError, match="here/model") as caught:
        restore(fresh(), {**files, MODEL: model}, WORLD, "here")
    assert all(name in str(caught.value) for name in ("0.weight", "new", "1.bias"))
    moments = {
        **files[OPTIMIZER],
        "0.weight/exp_avg": torch.zeros(2),
        "nobody/step": torch.ones(()),
    }
    del moments["1.bias/exp_avg_sq"]
    with pytest.raises(WeightsError, match="here/optimizer") as caught:
        restore(fresh(), {**files, OPTIMIZER: moments}, WORLD, "here")
    for name in ("0.weight/exp_avg", "1.bias/exp_avg_sq", "nobody/step"):
        assert name in str(caught.value)
    del files[EMA]
    with pytest.raises(WeightsError, match="here/ema"):
        restore(fresh(ema=True), files, WORLD, "here")


def test_beginning_with_other_weights_takes_them_and_nothing_else():
    given, state = stepped(), fresh(seed=5)
    begin_with(state, given.model.state_dict(), "there")
    assert torch.equal(weight(state), weight(given)) and state.step == 0
    assert not state.optimizer.state
    with pytest.raises(WeightsError, match=r"there: .*0\.weight"):
        begin_with(fresh(width=4), given.model.state_dict(), "there")
