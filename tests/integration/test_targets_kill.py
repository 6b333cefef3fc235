"""Target writing killed at any moment and started again: the same bytes."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.frames_maker import make_frames
from tests.integration.targets_once import run
from tests.killing import Stage, finish


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("kill")
    frames = make_frames(folder / "frames", {f"scene{i}": 12 for i in range(6)})
    return Stage.measure(
        "tests.integration.targets_once",
        frames,
        lambda out: run(str(frames), str(out), workers=1),
        folder / "calm",
    )


def test_killed_run_ends_with_the_same_bytes(stage: Stage, tmp_path: Path) -> None:
    stage.check_kills(tmp_path / "out", kills=3, seed=0)


@pytest.mark.soak
def test_forty_kills(stage: Stage, tmp_path: Path) -> None:
    stage.check_kills(tmp_path / "out", kills=40, seed=1)


@pytest.mark.soak
def test_workers_die_with_a_killed_run(stage: Stage, tmp_path: Path) -> None:
    stage.check_workers_die(tmp_path / "out")


def test_a_finished_clip_is_not_asked_again(stage: Stage, tmp_path: Path) -> None:
    """Killed in the second scene, with the first one done: only what was not published is asked."""
    out, log = tmp_path / "out", tmp_path / "log"
    child = stage.start(out, 1, str(log))
    give_up = time.monotonic() + 60
    while len(asked(log)) < 15 and time.monotonic() < give_up:
        time.sleep(0.001)
    os.kill(child.pid, signal.SIGKILL)
    assert finish(child)[0] == -signal.SIGKILL, "it ended before the kill"
    before = asked(log)
    assert finish(stage.start(out, 1, str(log)))[0] == 0
    # Lost are the answer that was being made, and the one that was being written.
    assert len(before) >= 15 and len(set(asked(log))) == 60 and len(asked(log)) <= 60 + 2
    assert not list((out / ".parts").glob("*")), "parts were left"


def asked(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []
