"""The learning rate is a pure function of the step."""

import pytest
import torch
from torch import nn

from spa3r.config import TrainConfig
from spa3r.train.optim import build_optimizer, lr_at


def test_without_warmup_it_is_torchs_cosine():
    config = TrainConfig(steps=40, lr=2e-3, min_lr=2e-4)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=2e-4)
    for step in range(40):
        assert lr_at(step, config) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_warmup_rises_to_the_peak_and_the_cosine_falls_from_it():
    config = TrainConfig(steps=100, warmup_steps=10, lr=1.0, min_lr=0.02)
    rates = [lr_at(step, config) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.02 < rates[-1] < 0.03


def test_every_trainable_parameter_decays_alike():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    model[0].bias.requires_grad_(False)
    config = TrainConfig(steps=2, weight_decay=0.3, betas=(0.8, 0.9))
    (group,) = build_optimizer(model, config).param_groups
    assert len(group["params"]) == 3
    assert (group["weight_decay"], group["betas"]) == (0.3, (0.8, 0.9))
