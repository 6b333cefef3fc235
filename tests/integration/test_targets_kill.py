"""Target writing killed at any moment and started again: the same bytes."""

from pathlib import Path

import pytest

from tests.frames_maker import make_frames
from tests.integration.targets_once import run
from tests.killing import Stage


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


def test_workers_die_with_a_killed_run(stage: Stage, tmp_path: Path) -> None:
    stage.check_workers_die(tmp_path / "out")
