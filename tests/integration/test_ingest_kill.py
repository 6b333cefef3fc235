"""Ingest killed at any moment, or with a full disk, and started again: the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from preprocessing.ingest import ingest_dataset
from tests.conftest import REPO
from tests.integration.ingest_once import SPEC
from tests.sens_maker import make_dataset


def start(raw: Path, out: Path, workers: int, *limit: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.integration.ingest_once", raw, out, str(workers)]
    child = subprocess.Popen(
        [*map(str, command), *limit],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout and child.stdout.readline() == "ready\n"
    return child


def finish(child: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = child.communicate(timeout=60)
    return child.returncode, errors


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def published(folder: Path) -> dict[str, bytes]:
    """What lies under a final name."""
    if not folder.exists():
        return {}
    return {n: data for n, data in files_of(folder).items() if not n.endswith(".tmp")}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], float]:
    """Raw scans, the files of an undisturbed ingest, and the seconds it takes."""
    folder = tmp_path_factory.mktemp("kill")
    raw = make_dataset(folder / "raw", scans=4, frames=24, bad_poses=[3])
    ingest_dataset(str(raw), "", SPEC, str(folder / "warm"))  # not timed: imports
    begin = time.perf_counter()
    ingest_dataset(str(raw), "", SPEC, str(folder / "calm"))
    return raw, files_of(folder / "calm"), time.perf_counter() - begin


def check_kills(
    dataset: tuple[Path, dict[str, bytes], float], out: Path, kills: int, seed: int
) -> None:
    """Kills an ingest at seeded moments; in between, nothing half-written has a final name."""
    raw, expected, seconds = dataset
    draw = random.Random(seed)
    landed = 0
    for _ in range(kills):
        child = start(raw, out, workers=1)
        # The child also imports webdataset: moments before the first tar are worth fewer kills.
        time.sleep(draw.uniform(0, 1.5 * seconds + 1.0))
        landed += child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
        finish(child)
        for name, data in published(out).items():
            assert data == expected[name], f"{name} differs after a kill"
        if landed and len(published(out)) == len(expected):
            for path in out.iterdir():  # finished before the kill: begin anew
                path.unlink()
    assert landed, "no kill came before the end; the data set is too small"
    code, errors = finish(start(raw, out, workers=1))
    assert (code, errors) == (0, "")
    assert files_of(out) == expected


def test_killed_ingest_ends_with_the_same_bytes(dataset, tmp_path: Path):
    check_kills(dataset, tmp_path / "out", kills=3, seed=0)


@pytest.mark.soak
def test_forty_kills(dataset, tmp_path: Path):
    check_kills(dataset, tmp_path / "out", kills=40, seed=1)


def test_workers_do_not_outlive_a_killed_ingest(dataset, tmp_path: Path):
    raw, expected, _ = dataset
    out = tmp_path / "out"
    child = start(raw, out, workers=2)
    give_up = time.monotonic() + 60
    while not list(out.glob(".*.tmp")) and time.monotonic() < give_up:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    # All of its workers hold its stderr open: end of file means that the last one is gone.
    child.communicate(timeout=30)
    code, errors = finish(start(raw, out, workers=2))
    assert (code, errors) == (0, "")
    assert files_of(out) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_is_one_line_and_a_later_run_completes(dataset, tmp_path: Path, workers: int):
    raw, expected, _ = dataset
    out = tmp_path / "out"
    limit = min(len(data) for name, data in expected.items() if name.endswith(".tar")) // 2
    code, errors = finish(start(raw, out, workers, str(limit)))
    assert code == 1
    assert errors.startswith("ShardError: ") and errors.count("\n") == 1, errors
    assert ".tar: cannot be written" in errors and "run again" in errors
    assert published(out) == {}
    assert not list(out.glob(".*.tmp"))
    assert finish(start(raw, out, workers)) == (0, "")
    assert files_of(out) == expected
