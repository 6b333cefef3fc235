"""Ingest killed at any moment, or with a full disk, and started again: the same bytes."""

from pathlib import Path

import pytest

from preprocessing.ingest import ingest_dataset
from tests.integration.ingest_once import SPEC
from tests.killing import Stage, finish, published
from tests.sens_maker import make_dataset


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("kill")
    raw = make_dataset(folder / "raw", scans=4, frames=24, bad_poses=[3])
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
def test_forty_kills(stage: Stage, tmp_path: Path):
    stage.check_kills(tmp_path / "out", kills=40, seed=1)


def test_workers_do_not_outlive_a_killed_ingest(stage: Stage, tmp_path: Path):
    stage.check_workers_die(tmp_path / "out")


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
