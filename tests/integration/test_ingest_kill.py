"""Ingest killed at any moment, with a full disk, or twice at once: in the end the same bytes."""

import os
import signal
import time
from pathlib import Path

import pytest

from preprocessing.dataset import ingest_dataset
from tests.integration.ingest_once import SPEC
from tests.killing import Stage, finish, published
from tests.sens_maker import make_dataset


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("kill")
    raw = make_dataset(folder / "raw", scans=12, frames=8, bad_poses=[3])
    return Stage.measure(
        "tests.integration.ingest_once",
        raw,
        lambda out: ingest_dataset(str(raw), "", SPEC, str(out)),
        folder / "calm",
        slack=1.0,  # the first tar imports webdataset
    )


def test_killed_ingest_ends_with_the_same_bytes(stage: Stage, tmp_path: Path):
    stage.check_kills(tmp_path / "out", kills=3, seed=0)


@pytest.mark.soak
def test_fifty_kills(stage: Stage, tmp_path: Path):
    stage.check_kills(tmp_path / "out", kills=50, seed=1)


def test_workers_do_not_outlive_a_killed_ingest(stage: Stage, tmp_path: Path):
    stage.check_workers_die(tmp_path / "out")


@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL])
def test_a_second_ingest_is_refused_while_the_first_lives(
    stage: Stage, tmp_path: Path, end: signal.Signals
):
    out = tmp_path / "out"
    first = stage.start(out)
    give_up = time.monotonic() + 60
    while not published(out) and time.monotonic() < give_up:
        time.sleep(0.002)
    os.kill(first.pid, signal.SIGSTOP)
    assert first.poll() is None, "it ended before it was stopped; the data set is too small"
    before = published(out)
    code, errors = finish(stage.start(out))
    assert code == 1 and errors.count("\n") == 1, errors
    assert errors.startswith("ShardError: ") and f"process {first.pid} on " in errors
    assert published(out) == before
    os.kill(first.pid, end)
    if end is signal.SIGCONT:  # it ends as if nothing had been
        assert finish(first) == (0, "") and published(out) == stage.expected
    else:
        finish(first)
    stage.check_rerun(out)


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_is_one_line_and_a_later_run_completes(
    stage: Stage, tmp_path: Path, workers: int
):
    out = tmp_path / "out"
    tars = (data for name, data in stage.expected.items() if name.endswith(".tar"))
    limit = min(len(data) for data in tars) // 2
    code, errors = finish(stage.start(out, workers, str(limit)))
    assert code == 1
    assert errors.startswith("ShardError: ") and errors.count("\n") == 1, errors
    assert ".tar: cannot be written" in errors and "run again" in errors
    assert published(out) == {}
    assert not list(out.glob(".*.tmp"))
    stage.check_rerun(out, workers)
