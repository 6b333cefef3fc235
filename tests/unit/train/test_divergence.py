"""Which log windows are compared when a loss may run away."""

import pytest
import torch

from spa3r.config import TrainConfig
from spa3r.errors import TrainingError
from spa3r.train.divergence import DivergenceStop
from spa3r.train.world import World

WORLD = World(device=torch.device("cpu"))
CONFIG = TrainConfig(steps=99, log_every=4, checkpoint_every=12, validate_every=0)


def line(step: int, total: float) -> dict[str, float]:
    return {"step": step, "total": total}


def test_windows_that_a_stop_cut_short_are_passed_over() -> None:
    before = [line(4, 2.0), line(5, 0.1)]  # stopped after step 5: a lucky batch
    guard = DivergenceStop(CONFIG, before, WORLD, first_step=5)
    guard.check(line(8, 50.0), "")
    guard.check(line(12, 5.9), "")
    with pytest.raises(TrainingError, match=r"mean loss 6\.1 up to step 16, .* before, 2;"):
        guard.check(line(16, 6.1), "")


def test_where_checkpoints_close_every_window_these_are_compared() -> None:
    config = TrainConfig(steps=99, log_every=50, checkpoint_every=3, validate_every=0)
    guard = DivergenceStop(config, [], WORLD, first_step=0)
    guard.check(line(3, 1.0), "")
    with pytest.raises(TrainingError, match="diverged"):
        guard.check(line(6, 4.0), "")
