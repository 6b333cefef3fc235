"""Training under Ray: the numbers of the plain loop, whatever happens to its processes.

A step here is two micro-batches: a sum of two is one whatever their order, so one worker and two
give the same bytes.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from spa3r.errors import ConfigError, ShardError, TrainingError
from spa3r.plain import override
from spa3r.train.checkpoint_files import newest_step
from spa3r.train.job import Job
from spa3r.train.metrics import read_lines
from spa3r.train.pretrain import Pretrained, pretrain
from spa3r.train.pretrain_work import PretrainWork
from tests.conftest import REPO
from tests.integration.ray_rooms import RECIPE, Damaged, Mortal, Patient, Rooms, wait_for_checkpoint

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def running() -> Iterator[None]:
    """One Ray for several runs; in test_deployment.py `on_ray` starts its own."""
    import ray

    from spa3r.train import cluster

    cluster._start_ray(workers=2, gpu=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Weights of a run without Ray that nothing disturbs."""
    run = tmp_path_factory.mktemp("calm")
    return weights(pretrain(RECIPE, Rooms(RECIPE, run), run))


def weights(done: Pretrained) -> bytes:
    return (done.encoder / "model.safetensors").read_bytes()


def test_a_lost_head_a_stop_and_another_number_of_workers(
    tmp_path: Path, calm: bytes, running: None
):
    """One run, three lives: its driver is killed, then told to stop, then left to end."""
    from spa3r.train.cluster import on_ray

    run = tmp_path / "run"
    head = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.ray_rooms", str(run)],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert head.stdout and next(line for line in head.stdout if int(line) >= 4)
    wait_for_checkpoint(run, 4)
    head.kill()
    head.communicate(timeout=60)
    seen: list[int] = []

    def stop(line) -> None:
        seen.append(line["step"])
        if line["step"] == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingError, match=r"stopped at step \d+ of 12; its state is saved"):
        pretrain(RECIPE, Patient(RECIPE, run), run, launch=on_ray(workers=2), on_line=stop)
    assert 8 <= newest_step(str(run / "checkpoints")) < 12
    done = pretrain(RECIPE, Rooms(RECIPE, run), run, launch=on_ray(workers=1))
    assert not done.reused and weights(done) == calm
    lines = read_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 13))


@pytest.mark.soak  # Ray itself starts and ends for 18 s; the chain tunes under it, with one worker
def test_tuning_by_two_workers_is_that_of_one(tmp_path: Path, running: None):
    """Sharded; and the teacher is gone when the workers begin."""
    from spa3r.train.cluster import on_ray
    from spa3r.train.tune import settled, tune
    from tests.unit.train.tune_rooms import make_colours, recipe

    rooms = make_colours(tmp_path / "colours", videos=3)
    asked = recipe(train__sharding="fsdp2", train__steps=3)
    alone = tune(asked, rooms.places(), tmp_path / "alone")
    settled(asked, rooms.places(), tmp_path / "pair")
    (tmp_path / "colours" / "teacher").rename(tmp_path / "gone")
    done = tune(asked, rooms.places(), tmp_path / "pair", launch=on_ray(workers=2))
    assert not done.reused and done.metrics["step"] == 3
    assert done.metrics["text"] == pytest.approx(alone.metrics["text"], rel=2e-3)
    for name in ("fusion", "language"):
        ours, theirs = (load_file(x.vlm / f"{name}.safetensors") for x in (done, alone))
        assert ours.keys() == theirs.keys()
        for key, x in theirs.items():
            assert (ours[key] - x).abs().max() <= 5e-3 * x.abs().max() + 2e-4, key


@pytest.mark.soak
def test_a_worker_told_to_go_saves_first_and_a_killed_one_is_replaced(
    tmp_path: Path, calm: bytes, running: None
):
    from spa3r.train.cluster import on_ray

    recipe = override(RECIPE, {"train.checkpoint_every": 1000})
    run = tmp_path / "run"
    done = pretrain(recipe, Mortal(recipe, run), run, launch=on_ray(workers=2))
    assert int((tmp_path / "run-told").read_text()) == 0
    assert int((tmp_path / "run-killed").read_text()) >= 3, "saved although none was due"
    assert weights(done) == calm


def test_an_error_of_ours_ends_the_run_without_a_file_or_another_try():
    """A full disk has no room to write down that it is full."""
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    from spa3r.train.cluster import _NoRetry, _raise_ours

    full, lost = TrainingError("No space left on device"), RuntimeError("a peer is gone")
    with pytest.raises(TrainingError, match="No space left on device"):
        _NoRetry().after_exception(None, {0: lost, 1: full})
    _NoRetry().after_exception(None, {0: lost})  # Ray starts the group again
    with pytest.raises(TrainingError, match="No space left on device"):
        _raise_ours(ControllerError(full))
    _raise_ours(ControllerError(lost))
    _raise_ours(WorkerGroupError("lost", {0: lost}))


def test_others_wait_long_for_a_validation():
    from spa3r.train.cluster import _Listening

    assert _Listening().to_dict()["timeout_s"] == 2 * 3600


@pytest.mark.timeout(240)  # without the error's own way out: hours, the group's time-out
def test_an_error_of_one_worker_does_not_leave_the_others_waiting(tmp_path: Path, running: None):
    from spa3r.train.cluster import on_ray

    run = tmp_path / "run"
    with pytest.raises(ShardError, match=r"box0_000\.tar: damaged"):
        pretrain(RECIPE, Damaged(RECIPE, run), run, launch=on_ray(workers=2))
    assert not (run / "done.json").exists()


def test_as_many_workers_as_micro_batches_and_equal_shares_where_needed(tmp_path: Path):
    from spa3r.train.cluster import _scaling

    def scaling(most: int, least: int, **settings: object):
        recipe = override(RECIPE, {f"train.{name}": x for name, x in settings.items()})
        work = PretrainWork(recipe=recipe, targets="")
        return _scaling(Job(work=work, run=tmp_path), most, least, gpu=False)

    assert scaling(8, 8).num_workers == 2
    assert scaling(8, 1).num_workers == (1, 2)
    assert scaling(4, 2, batches_per_step=16).num_workers == (2, 4)
    assert scaling(4, 4, batches_per_step=16, sharding="fsdp2").num_workers == 4
    with pytest.raises(ConfigError, match="3 workers do not divide"):
        scaling(4, 2, batches_per_step=16, sharding="fsdp2")
