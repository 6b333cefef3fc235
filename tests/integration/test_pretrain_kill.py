"""Pre-training killed at any moment, checkpoints being written included, and started again."""

import random
import shutil
import time
from pathlib import Path

import pytest

from tests.integration.train_pair import Alone, Group


def weights_of(folder: Path) -> dict[str, bytes]:
    """The result and every checkpoint's tensors; not the log, which holds rates."""
    results = [path for name in ("encoder", "vlm") for path in folder.glob(f"{name}/**/*")]
    kept = [*results, *folder.glob("checkpoints/*/*.safetensors")]
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(kept) if path.is_file()
    }


class Calm:
    """A run that nothing disturbs: its files, and the seconds it takes."""

    def __init__(self, kind: type[Group], folder: Path) -> None:
        self.kind = kind
        for name in ("warm", "run"):
            begin = time.perf_counter()
            self.carry_on(folder / name)
            self.seconds = time.perf_counter() - begin
        self.files = weights_of(folder / "run")

    def carry_on(self, folder: Path) -> None:
        assert set(self.kind(folder).start().wait()) == {0}

    def check_kills(self, folder: Path, kills: int, seed: int) -> None:
        """SIGKILL of one process or of all at seeded moments; whatever is left is killed too."""
        draw = random.Random(seed)
        landed = 0
        while landed < kills:
            group = self.kind(folder).start()
            time.sleep(draw.uniform(0, self.seconds))
            doomed = draw.choice([group.ranks[:1], group.ranks[-1:], group.ranks])
            landed += all(process.is_alive() for process in doomed)
            for process in doomed:
                process.kill()
            time.sleep(draw.uniform(0, 0.02))
            group.kill()
            if [*folder.glob("*/config.json")]:  # it had ended: begin anew
                self.carry_on(folder)
                assert weights_of(folder) == self.files
                shutil.rmtree(folder)
        self.carry_on(folder)
        assert weights_of(folder) == self.files


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    return Calm(Alone, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    return Calm(Group, tmp_path_factory.mktemp("pair"))


@pytest.mark.soak
def test_killed_training_ends_with_the_same_weights(alone: Calm, tmp_path: Path) -> None:
    alone.check_kills(tmp_path / "run", kills=3, seed=0)


def test_two_workers_killed_end_with_the_same_weights(pair: Calm, tmp_path: Path) -> None:
    pair.check_kills(tmp_path / "run", kills=3, seed=1)


class Three(Group):
    """With three workers the order of a sum matters."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, size=3)


@pytest.mark.soak
def test_ten_kills_of_three_workers(tmp_path: Path) -> None:
    calm = Calm(Three, tmp_path)
    calm.check_kills(tmp_path / "killed", kills=10, seed=4)


@pytest.mark.soak
def test_thirty_kills(alone: Calm, tmp_path: Path) -> None:
    alone.check_kills(tmp_path / "run", kills=30, seed=2)


@pytest.mark.soak
def test_twenty_kills_of_two_workers(pair: Calm, tmp_path: Path) -> None:
    pair.check_kills(tmp_path / "run", kills=20, seed=3)
