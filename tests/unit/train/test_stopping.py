"""Runs that are told to stop, that are held by another process, or that fill the disk."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from spa3r import storage
from spa3r.errors import TrainingError
from spa3r.lock import locked_folder
from spa3r.train.checkpoint_files import complete, newest_step
from spa3r.train.job import Job, run_job
from spa3r.train.loop import TrainResult
from spa3r.train.pretrain import Pretrained, absolute, in_this_process, pretrain
from spa3r.train.pretrain_work import PretrainWork
from spa3r.train.run_lock import carrying_on, check_ours
from spa3r.train.sources import DataPlaces
from spa3r.train.world import World
from tests.box_rooms import BoxRooms, box_recipe
from tests.conftest import REPO
from tests.unit.train.conftest import SmallDisk

RECIPE = box_recipe(train__steps=6, train__checkpoint_every=2, train__batches_per_step=1)
WORLD = World(device=torch.device("cpu"))


class Acting(BoxRooms):
    """Does something when a batch is read for the third time."""

    loads = 0

    def __init__(self, act=lambda: None) -> None:
        super().__init__(RECIPE, rooms=2)
        self.act = act

    def load(self, clips):
        self.loads += 1
        if self.loads == 3:
            self.act()
        return super().load(clips)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Weights of a run that nothing disturbs."""
    return weights(pretrain(RECIPE, Acting(), tmp_path_factory.mktemp("calm")))


def weights(done: Pretrained) -> bytes:
    return (done.encoder / "model.safetensors").read_bytes()


# --- told to stop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_saved(
    tmp_path: Path, calm: bytes, number: signal.Signals
):
    before = signal.getsignal(number)
    with pytest.raises(TrainingError, match="stopped at step 3 of 6; its state is saved") as caught:
        pretrain(RECIPE, Acting(lambda: os.kill(os.getpid(), number)), tmp_path)
    assert "\n" not in str(caught.value)
    assert newest_step(str(tmp_path / "checkpoints")) == 3
    assert signal.getsignal(number) == before
    assert weights(pretrain(RECIPE, Acting(), tmp_path)) == calm


def test_a_second_signal_does_not_wait(tmp_path: Path):
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pretrain(RECIPE, Acting(twice), tmp_path)


def test_a_file_stops_a_run_from_anywhere_once(
    tmp_path: Path, calm: bytes, monkeypatch: pytest.MonkeyPatch
):
    from spa3r.train import job

    monkeypatch.setattr(job, "_LOOK_SECONDS", 0.0)
    with pytest.raises(TrainingError, match="stopped at step 3 of 6"):
        pretrain(RECIPE, Acting((tmp_path / "stop").touch), tmp_path)
    assert not (tmp_path / "stop").exists()
    (tmp_path / "stop").touch()  # asked of a run that has ended since
    assert weights(pretrain(RECIPE, Acting(), tmp_path)) == calm


# --- one name, one run ----------------------------------------------------------------------------

HOLDER = """
import sys
import time
from pathlib import Path
from spa3r.train.run_lock import carrying_on
with carrying_on(Path(sys.argv[1]), sys.argv[1] + "/checkpoints"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_of_one_name_is_refused_and_a_dead_ones_lock_is_free(
    tmp_path: Path, calm: bytes
):
    run = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)],
        cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout and child.stdout.readline() == "held\n"
        held = rf"run: process {child.pid} on .*, since 20\d\d-.* is writing there"
        with pytest.raises(TrainingError, match=held) as caught:
            pretrain(RECIPE, Acting(), run)
        assert "\n" not in str(caught.value)
        assert not (run / "metrics.jsonl").exists()
    finally:
        child.kill()
        child.communicate(timeout=30)
    assert weights(pretrain(RECIPE, Acting(), run)) == calm


def test_a_finished_run_is_reused_while_another_process_holds_it(tmp_path: Path):
    pretrain(RECIPE, Acting(), tmp_path / "run")
    with locked_folder(tmp_path / "run", TrainingError):
        assert pretrain(RECIPE, Acting(), tmp_path / "run").reused


def test_two_run_folders_do_not_share_a_checkpoints_folder(tmp_path: Path):
    url = f"memory://{tmp_path}"
    pretrain(RECIPE, Acting(), tmp_path / "one", checkpoints=url)
    assert complete(url)
    belongs = r"belongs to the run .*/one on .*, since .*delete owner\.json there"
    with pytest.raises(TrainingError, match=belongs) as caught:
        pretrain(RECIPE, Acting(), tmp_path / "two", checkpoints=url)
    assert "\n" not in str(caught.value)
    storage.remove(storage.join(url, "owner.json"))  # handed over
    assert not pretrain(RECIPE, Acting(), tmp_path / "two", checkpoints=url).reused


def test_workers_that_outlive_their_driver_save_nothing(tmp_path: Path):
    url = str(tmp_path / "checkpoints")
    with carrying_on(tmp_path, url) as first:
        check_ours(tmp_path, url, first)
    job = Job(work=PretrainWork(recipe=RECIPE, targets=Acting()), run=tmp_path, holder=first)
    with pytest.raises(TrainingError, match="nobody holds it now"):
        run_job(job, WORLD)
    with (
        carrying_on(tmp_path, url) as second,
        pytest.raises(TrainingError, match=f"{second[:20]}.* holds it now, no longer"),
    ):
        run_job(job, WORLD)
    assert complete(url) == []


# --- a full disk ----------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path: Path, calm: bytes):
    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "metrics.jsonl"))

    with pytest.raises(
        TrainingError, match=r"jsonl: No space left on device; free space"
    ) as caught:
        pretrain(RECIPE, Acting(full), tmp_path)
    assert "\n" not in str(caught.value)
    assert weights(pretrain(RECIPE, Acting(), tmp_path)) == calm


def test_a_run_whose_disk_is_really_full_goes_on_when_it_is_not(small_disk: SmallDisk, calm: bytes):
    checkpoints = str(small_disk.run / "checkpoints")

    def fill() -> None:
        while newest_step(checkpoints) != 2:  # it is written behind the run
            time.sleep(0.001)
        small_disk.fill()

    with pytest.raises(TrainingError, match="No space left on device") as caught:
        pretrain(RECIPE, Acting(fill), small_disk.run)
    assert "\n" not in str(caught.value)
    assert newest_step(checkpoints) == 2
    small_disk.free()
    assert weights(pretrain(RECIPE, Acting(), small_disk.run)) == calm


# --- whatever launches it -------------------------------------------------------------------------


def test_the_launcher_gets_the_whole_job(tmp_path: Path):
    jobs: list[Job] = []

    def launch(job: Job) -> TrainResult:
        jobs.append(job)
        return in_this_process()(job)

    url = f"memory://{tmp_path}"
    pretrain(RECIPE, Acting(), tmp_path / "run", checkpoints=url, launch=launch, loaders=1)
    (job,) = jobs
    assert (job.checkpoints_url, job.loaders) == (url, 1)
    assert f"process {os.getpid()} on " in job.holder
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_workers_get_paths_that_hold_in_their_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    places = DataPlaces(targets="here", frames="s3://bucket/frames")
    assert absolute(places) == DataPlaces(
        targets=str(tmp_path / "here"), frames="s3://bucket/frames"
    )
    assert absolute("here") == str(tmp_path / "here")
    assert (absolute("memory://x"), absolute("")) == ("memory://x", "")
