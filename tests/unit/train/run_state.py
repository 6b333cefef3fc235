"""A small model in training, for tests of what is saved of it."""

import torch
from torch import Tensor, nn

from spa3r.config import TrainConfig
from spa3r.train.checkpoints import Checkpoints
from spa3r.train.optim import build_optimizer
from spa3r.train.state import TrainState
from spa3r.train.world import World

WORLD = World(device=torch.device("cpu"))
IDENTITY = {"recipe": {"train": {"lr": 0.1}}, "target_hash": "t"}
CONFIG = TrainConfig(steps=9, keep_best=0)


def fresh(seed: int = 0, width: int = 3, ema: bool = False) -> TrainState:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.LayerNorm(width))
    model.register_buffer("mean", torch.rand(2))
    average = {name: p.detach().clone() for name, p in model.named_parameters()} if ema else None
    return TrainState(model=model, optimizer=build_optimizer(model, CONFIG), ema=average)


def stepped(count: int = 2, ema: bool = False) -> TrainState:
    state = fresh(ema=ema)
    for _ in range(count):
        step(state)
    return state


def step(state: TrainState) -> None:
    state.model(torch.rand(4, 3)).square().sum().backward()
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.step += 1
    if state.ema is not None:
        for name, parameter in state.model.named_parameters():
            state.ema[name].lerp_(parameter.detach(), 0.5)


def opened(url: object, identity: object = None, config: TrainConfig = CONFIG) -> Checkpoints:
    return Checkpoints(str(url), WORLD, config, identity or IDENTITY)  # type: ignore[arg-type]


def saved(url: object, *steps: int, config: TrainConfig = CONFIG) -> TrainState:
    """A state of two steps, saved as each of the given ones (as itself without any)."""
    state = stepped()
    with opened(url, config=config) as checkpoints:
        for number in steps or (state.step,):
            state.step = number
            checkpoints.save(state)
    return state


def started(url: object, identity: object = None, init_from: str | None = None) -> TrainState:
    """A fresh state, brought to where a run at this place begins."""
    state = fresh(seed=5)
    with opened(url, identity) as checkpoints:
        checkpoints.start(state, init_from)
    return state


def weight(state: TrainState) -> Tensor:
    """Its first parameter."""
    return state.model.state_dict()["0.weight"]
