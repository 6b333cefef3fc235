"""Target writing killed at any moment and started again: the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.frames_maker import make_frames
from tests.integration.targets_once import run

Calm = tuple[Path, dict[str, bytes], float]


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def published(folder: Path) -> dict[str, bytes]:
    """What lies under a final name."""
    files = files_of(folder) if folder.exists() else {}
    return {name: data for name, data in files.items() if not name.endswith(".tmp")}


def start(frames: Path, out: Path, workers: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.integration.targets_once", frames, out, workers]
    child = subprocess.Popen(
        [str(part) for part in command],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout and child.stdout.readline() == "ready\n"
    return child


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """Frame shards, the files of an undisturbed run on them, and the seconds it takes."""
    folder = tmp_path_factory.mktemp("kill")
    frames = make_frames(folder / "frames", {f"scene{i}": 12 for i in range(6)})
    run(str(frames), str(folder / "warm"), workers=1)  # not timed: first calls
    begin = time.perf_counter()
    run(str(frames), str(folder / "calm"), workers=1)
    return frames, files_of(folder / "calm"), time.perf_counter() - begin


def check_kills(calm: Calm, out: Path, kills: int, seed: int) -> None:
    """Kills runs at seeded moments; in between, no file under a final name is half-written."""
    frames, expected, seconds = calm
    draw = random.Random(seed)
    landed = 0
    for _ in range(kills):
        child = start(frames, out)
        time.sleep(draw.uniform(0.1, 1.0) * seconds)
        landed += child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
        child.communicate(timeout=60)
        for name, data in published(out).items():
            assert data == expected[name], f"{name} differs after a kill"
        if published(out) == expected:  # finished before the kill: begin anew
            for path in out.iterdir():
                path.unlink()
    assert landed, "no kill came before the end; the data set is too small"
    child = start(frames, out)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert files_of(out) == expected


def test_killed_run_ends_with_the_same_bytes(calm: Calm, tmp_path: Path) -> None:
    check_kills(calm, tmp_path / "out", kills=3, seed=0)


@pytest.mark.soak
def test_forty_kills(calm: Calm, tmp_path: Path) -> None:
    check_kills(calm, tmp_path / "out", kills=40, seed=1)


def test_workers_die_with_a_killed_run(calm: Calm, tmp_path: Path) -> None:
    frames, expected, _ = calm
    out = tmp_path / "out"
    child = start(frames, out, workers=2)
    give_up = time.monotonic() + 60
    while not published(out) and time.monotonic() < give_up:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    # All of its workers hold its stderr open: end of file means that the last one is gone.
    child.communicate(timeout=30)
    child = start(frames, out, workers=2)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert files_of(out) == expected
