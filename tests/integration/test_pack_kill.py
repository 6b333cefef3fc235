"""Packing killed at any moment and started again: the same bytes."""

from pathlib import Path

import pytest

from tests.frames_maker import make_frames
from tests.integration.pack_once import run
from tests.integration.targets_once import run as write_targets
from tests.killing import Stage


@pytest.mark.soak
def test_twenty_kills(tmp_path: Path) -> None:
    frames = make_frames(tmp_path / "frames", {f"scene{i}": 12 for i in range(6)})
    targets = tmp_path / "targets"
    write_targets(str(frames), str(targets), workers=1)
    stage = Stage.measure(
        "tests.integration.pack_once",
        targets,
        lambda out: run(str(targets), str(out), workers=1),
        tmp_path / "calm",
    )
    stage.check_kills(tmp_path / "out", kills=20, seed=0)
