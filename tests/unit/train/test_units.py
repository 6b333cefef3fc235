"""Every number that training and evaluation can log has a unit."""

import pytest
import torch

from spa3r.eval.metrics import DEPTH_METRICS, FEATURE_METRICS
from spa3r.train.metrics import MetricsLog, read_lines
from spa3r.train.units import unit_of
from spa3r.train.world import World

PARTS = ("geo/l1", "geo/cos", "sem/l1", "sem/cos", "depth_prob", "total")  # of psfm_loss


def test_every_line_of_a_run_has_units(tmp_path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", World(device=torch.device("cpu")), first_step=0)
    log.add({name: torch.ones(()) for name in PARTS}, views=4)
    log.write(1, lr=1e-3, grad_norm=torch.ones(()))
    (line,) = read_lines(tmp_path / "metrics.jsonl")
    assert set(PARTS) < set(line)
    assert all(unit_of(f"train/{name}") for name in line if name != "step")


def test_every_score_of_an_evaluation_has_a_unit() -> None:
    names = [f"{kind}/{name}" for kind in ("geo", "sem") for name in FEATURE_METRICS]
    names += [f"depth/{name}" for name in DEPTH_METRICS]
    assert all(unit_of(f"field/wrong_camera/{name}") for name in names)


def test_a_number_without_a_unit_is_found() -> None:
    for name in ("train/speed", "field/model/geo/speed"):
        with pytest.raises(KeyError, match="speed"):
            unit_of(name)
