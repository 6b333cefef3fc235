"""torch.compile of the student's blocks: the same numbers, the same names, few graphs."""

import functools
import shutil
from pathlib import Path

import pytest
import torch

from spa3r.plain import override
from spa3r.train.sharding import blocks, distribute
from spa3r.train.sources import open_data
from spa3r.train.task import PretrainTask
from tests.box_rooms import BoxRooms, box_recipe
from tests.unit.train.run_task import ALONE, losses, newest, run

RECIPE = box_recipe(train__steps=3, train__batches_per_step=2, train__views_per_batch=16)
COMPILED = override(RECIPE, {"train.compile": True})


@pytest.fixture
def rooms() -> BoxRooms:
    return BoxRooms(RECIPE, rooms=2)


def test_names_stay_clean(rooms: BoxRooms) -> None:
    plain, ours = (PretrainTask(r, open_data(rooms, r)) for r in (RECIPE, COMPILED))
    for task, recipe in ((plain, RECIPE), (ours, COMPILED)):
        distribute(task, recipe.train, ALONE)
        compiled = [block._compiled_call_impl is not None for block in blocks(task)]
        assert compiled == [recipe.train.compile] * 2
    assert list(ours.state_dict()) == list(plain.state_dict())


@pytest.mark.soak
def test_blocks_are_traced_once_each_whatever_the_number_of_views(
    rooms: BoxRooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced only, not translated: that takes a C++ compiler and a minute."""
    counters = torch._dynamo.utils.counters
    counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    plain, ours = (PretrainTask(r, open_data(rooms, r)) for r in (RECIPE, COMPILED))
    distribute(ours, COMPILED.train, ALONE)
    views = set()
    for index in range(8):
        batch = plain.load(index)
        views.add(batch.is_target_BV.shape)
        for task in (plain, ours):
            task.zero_grad()
            task(batch)["total"].backward()
        for p, q in zip(plain.parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)
    assert len(views) > 1
    assert counters["stats"]["unique_graphs"] == len(list(blocks(ours.model))) == 2
    assert not counters["graph_break"]


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_a_compiled_run_agrees_with_a_plain_one(tmp_path: Path, rooms: BoxRooms) -> None:
    run(tmp_path / "plain", rooms, RECIPE)
    run(tmp_path / "compiled", rooms, COMPILED)
    for ours, theirs in zip(losses(tmp_path / "compiled"), losses(tmp_path / "plain"), strict=True):
        assert ours["total"] == pytest.approx(theirs["total"], rel=1e-4)
    assert newest(tmp_path / "plain").keys() == newest(tmp_path / "compiled").keys()
