"""Tuning killed at any moment, while features are made and checkpoints written included, and
started again."""

from pathlib import Path

import pytest

from tests.integration.test_pretrain_kill import Calm
from tests.integration.tune_pair import Alone
from tests.unit.train.tune_rooms import make_colours


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("tune")
    make_colours(found / "colours", videos=3)
    return found


@pytest.fixture(scope="module")
def calm(folder: Path) -> Calm:
    return Calm(Alone, folder / "calm")


def test_killed_tuning_ends_with_the_same_files(calm: Calm, folder: Path) -> None:
    calm.check_kills(folder / "killed" / "run", kills=2, seed=0)


@pytest.mark.soak
def test_thirty_kills(calm: Calm, folder: Path) -> None:
    calm.check_kills(folder / "often" / "run", kills=30, seed=1)
