"""Tuning by two workers, with whole weights (DDP) or cut up (FSDP2), and by one."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from spa3r.train.job import Job, run_job
from spa3r.train.loop import TrainResult
from spa3r.train.tune_work import TuneWork
from spa3r.train.world import World
from tests.unit.train.tune_rooms import Colours, make_colours, recipe
from tests.unit.train.tune_task_runs import losses, train_on, work_of
from tests.unit.train.workers import Workers


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Colours:
    return make_colours(tmp_path_factory.mktemp("colours"), videos=4)


def whole_run(world: World, run: Path, work: TuneWork) -> TrainResult:
    return run_job(Job(work=work, run=run), world)


def are_cut(world: World, run: Path, work: TuneWork) -> tuple[set[bool], set[bool]]:
    """Whether weights were DTensors in a run of one step: the trained ones, the frozen ones."""
    from spa3r.train.checkpoints import Checkpoints
    from spa3r.train.loop import train

    opened = work.open()
    url = str(run / "checkpoints")
    with Checkpoints(url, world, work.config, opened.identity) as checkpoints:
        train(opened.task, work.config, run, checkpoints=checkpoints, world=world)
    kinds: dict[bool, set[bool]] = {True: set(), False: set()}
    for parameter in opened.task.parameters():
        kinds[parameter.requires_grad].add(isinstance(parameter, DTensor))
    return kinds[True], kinds[False]


@pytest.mark.parametrize("language", ["full", pytest.param("lora", marks=pytest.mark.soak)])
def test_two_workers_train_as_one_does(
    tmp_path: Path, rooms: Colours, workers: Workers, language: str
) -> None:
    asked = {
        "vlm__language": language, "train__steps": 3, "train__validate_every": 3,
        "train__validate_conversations": 3, "train__activation_checkpointing": language == "full",
        "train__batches_per_step": 4, "mixture__blind_share": 0.4,
    }  # fmt: skip
    ddp = work_of(rooms, tmp_path / "one", recipe(**asked))
    fsdp2 = work_of(rooms, tmp_path / "one", recipe(**asked, train__sharding="fsdp2"))
    task = ddp.open().task
    shown = [sum(task.fetch(i).images_of) for i in range(12)]
    assert 0 in shown and max(shown) > 0, "one worker has no image while the other has some"
    train_on(tmp_path / "one", ddp)
    for name, work in (("ddp", ddp), ("fsdp2", fsdp2)):
        results = workers.run(2, whole_run, tmp_path / name, work)
        assert results == [TrainResult(step=3, finished=True)] * 2
    one = losses(tmp_path / "one")
    for name in ("ddp", "fsdp2"):
        for line, other in zip(one, losses(tmp_path / name), strict=True):
            assert line.keys() == other.keys()
            for key in line:
                assert other[key] == pytest.approx(line[key], rel=2e-3, abs=1e-5), (name, key)
    assert "validation/text" in one[2]
    # One format of checkpoints: the same names, whole tensors, close values; and so the models.
    for file in ("checkpoints/step-00000003/model", "checkpoints/step-00000003/optimizer",
                 "vlm/fusion", f"vlm/{'language' if language == 'full' else 'lora'}"):  # fmt: skip
        a, b, c = (
            load_file(tmp_path / name / f"{file}.safetensors") for name in ("one", "ddp", "fsdp2")
        )
        assert a.keys() == b.keys() == c.keys()
        for key, x in a.items():
            for y in (b[key], c[key]):
                assert y.shape == x.shape
                assert (y - x).abs().max() <= 5e-3 * x.abs().max() + 2e-4, (file, key)


def test_frozen_weights_are_cut_up_too(tmp_path: Path, rooms: Colours, workers: Workers) -> None:
    work = work_of(rooms, tmp_path, recipe(train__sharding="fsdp2", train__steps=1))
    assert workers.run(2, are_cut, tmp_path, work) == [({True}, {True})] * 2
