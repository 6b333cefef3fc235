"""Pre-training killed at any moment, checkpoints being written included, and started again."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import REPO
from tests.integration.train_once import run
from tests.killing import finish


def weights_of(folder: Path) -> dict[str, bytes]:
    """The encoder and every checkpoint's tensors; not the log, which holds rates."""
    kept = [*folder.glob("encoder/*"), *folder.glob("checkpoints/*/*.safetensors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(kept)}


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """Files of a run that nothing disturbs, and the seconds it takes."""
    folder = tmp_path_factory.mktemp("calm")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run(folder / "warm")
    begin = time.perf_counter()
    run(folder / "run")
    seconds = time.perf_counter() - begin
    torch.set_num_threads(threads)
    return weights_of(folder / "run"), seconds


def start(folder: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.train_once", str(folder)],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout and child.stdout.readline() == "ready\n"
    return child


def check_kills(folder: Path, calm: tuple[dict[str, bytes], float], kills: int, seed: int) -> None:
    """Each run is killed at up to three seeded moments, then left to end."""
    expected, seconds = calm
    draw = random.Random(seed)
    landed = 0
    for number in range(kills):
        life = folder / f"run{number // 3}"
        child = start(life)
        time.sleep(draw.uniform(0, seconds / 2))
        landed += child.poll() is None
        child.send_signal(signal.SIGKILL)
        finish(child)
        if number % 3 == 2 or number == kills - 1:
            status, errors = finish(start(life))
            assert status == 0, errors
            assert weights_of(life) == expected
    assert landed > kills // 2, "kills came after the end; the run is too short"


def test_killed_training_ends_with_the_same_weights(
    calm: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    check_kills(tmp_path, calm, kills=3, seed=0)


@pytest.mark.soak
def test_thirty_kills(calm: tuple[dict[str, bytes], float], tmp_path: Path) -> None:
    check_kills(tmp_path, calm, kills=30, seed=1)
