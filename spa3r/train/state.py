"""The state of a run between two optimizer steps, as named tensors: taken whole, given back whole.

The learning rate is a function of the step and so is the data order, so neither has a state of its
own. Tensors are full ones, whatever the sharding: any number of workers can go on from them. What
is frozen is not part of it: a run finds that where it found it at its beginning.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spa3r.teachers.checkpoints import check_fit
from spa3r.train.sharding import copy_full, full_tensors
from spa3r.train.world import World

MODEL: Final = "model.safetensors"
OPTIMIZER: Final = "optimizer.safetensors"
RNG: Final = "rng.safetensors"
EMA: Final = "ema.safetensors"
_MOMENTS: Final = ("exp_avg", "exp_avg_sq")
Table = Mapping[str, Tensor]


@dataclass(kw_only=True)
class TrainState:
    """What one optimizer step changes, torch's global generators apart."""

    model: nn.Module
    optimizer: Optimizer
    step: int = 0
    """Optimizer steps taken."""
    ema: dict[str, Tensor] | None = None
    """Moving average of the parameters by name, float32; None: not kept."""


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that an optimizer changes, by name; one that has two names by the first."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state_dict without its frozen parameters and without second names."""
    kept = trained(model).keys()
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state = model.state_dict()
    return {name: x for name, x in state.items() if name in kept or name not in parameters}


def snapshot(state: TrainState, world: World) -> dict[str, dict[str, Tensor]]:
    """Copies of all tensors on the CPU, by file; empty tables on other ranks than 0.

    Every rank must call it.
    """
    model = trained_state(state.model)
    moments = {
        f"{name}/{part}": state.optimizer.state[p][part]
        for name, p in trained(state.model).items()
        for part in ("step", *_MOMENTS)
    }
    generators = world.gather(_generators(world.device))
    files = {MODEL: full_tensors(model), OPTIMIZER: full_tensors(moments)}
    if state.ema is not None:
        files[EMA] = full_tensors(state.ema)
    return files | {RNG: {f"rank{i:05d}": x for i, x in enumerate(generators)}}


@torch.no_grad()
def restore(state: TrainState, files: Mapping[str, Table], world: World, where: str) -> None:
    """Writes the tensors of a snapshot into a fresh state and torch's generators, in place.

    Args:
        where: the checkpoint's name, for messages.

    Raises:
        WeightsError: names every missing, unexpected and misshapen tensor.
    """
    _fill(state.model, files.get(MODEL, {}), f"{where}/{MODEL}")
    _restore_optimizer(state, files.get(OPTIMIZER, {}), f"{where}/{OPTIMIZER}")
    if state.ema is not None:
        check_fit(state.ema, files.get(EMA, {}), network="the average", where=f"{where}/{EMA}")
        for name, average in state.ema.items():
            copy_full(average, files[EMA][name])
    generators = files.get(RNG, {}).get(f"rank{world.rank:05d}")
    if generators is not None:  # a world that has grown: its new ranks keep what they have
        _restore_generators(generators, world.device)


@torch.no_grad()
def begin_with(state: TrainState, weights: Table, where: str) -> None:
    """Gives a fresh state the weights of another run. Raises WeightsError as `restore`."""
    _fill(state.model, weights, where)


def _fill(model: nn.Module, tensors: Table, where: str) -> None:
    """Loads every tensor of a model, sharded or not."""
    wanted = trained_state(model)
    check_fit(wanted, tensors, network=type(model).__name__, where=where)
    for name, tensor in wanted.items():
        copy_full(tensor, tensors[name])


def _restore_optimizer(state: TrainState, tensors: Table, where: str) -> None:
    """Gives AdamW back its two moments and step count of every parameter."""
    found: dict[str, Tensor] = {}
    for name, parameter in trained(state.model).items():
        mine = {part: torch.zeros_like(parameter) for part in _MOMENTS}
        mine["step"] = torch.zeros((), device=parameter.device)
        state.optimizer.state[parameter] = mine
        found |= {f"{name}/{part}": tensor for part, tensor in mine.items()}
    check_fit(found, tensors, network="the optimizer", where=where)
    for name, tensor in found.items():
        copy_full(tensor, tensors[name])


def _generators(device: torch.device) -> Tensor:
    """uint8: the CPU generator's state and, on CUDA, the device generator's behind it."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def _restore_generators(states: Tensor, device: torch.device) -> None:
    length = torch.get_rng_state().numel()
    torch.set_rng_state(states[:length].clone())
    if device.type == "cuda" and states.numel() > length:
        torch.cuda.set_rng_state(states[length:].clone(), device)
