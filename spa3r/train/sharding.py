"""Weights, gradients and optimizer state cut up among the workers (FSDP2), and whole again.

Every tensor keeps its name; only its type changes, to a DTensor that holds one rank's rows.
Functions marked collective must be called by all ranks in the same order.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from spa3r.loop_config import LoopConfig
from spa3r.models.transformer import Block
from spa3r.train.objective import Task
from spa3r.train.world import World


def blocks(module: nn.Module) -> Iterator[Block]:
    """Its transformer blocks: what is gathered, and compiled, at a time."""
    return (part for part in module.modules() if isinstance(part, Block))


def distribute(task: Task, config: LoopConfig, world: World) -> nn.Module:
    """The task (an nn.Module), compiled if asked, as its workers call it; parameters keep names.

    DDP: whole weights on every rank, gradients averaged in the last backward of a step. FSDP2:
    weights, gradients and what an optimizer then makes are cut up; a world of one has nothing to
    cut. Compiled are the blocks, each for itself: as all are alike, one serves for all.
    """
    assert isinstance(task, nn.Module)
    if config.compile:
        for block in task.blocks():
            block.compile(dynamic=True)
    if world.size == 1:
        return task
    if config.sharding == "fsdp2":
        shard(task, world)
        return task
    return DistributedDataParallel(
        task,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        # DDP lays gradients out anew after the first backward of a process, unless it looks for
        # unused parameters; gloo adds those of three or more ranks in an order that depends on the
        # layout, so a continued run would differ. GPUs promise no order anyway.
        find_unused_parameters=world.device.type == "cpu",
    )


def gradient_sync(module: nn.Module, *, wanted: bool) -> AbstractContextManager[Any]:
    """Around a forward and its backward: whether gradients are averaged over the world in it."""
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(wanted)
    elif isinstance(module, DistributedDataParallel) and not wanted:
        return module.no_sync()
    return nullcontext()


def shard(task: Task, world: World) -> None:
    """Cuts the parameters of a task up among the workers, in place, in float32.

    A block's weights are gathered when it is called and dropped after it, all others when the
    task itself is called: it must be entered there, not through a part of it.
    """
    assert distributed.group.WORLD is not None, "the workers' group is open"
    assert isinstance(task, nn.Module)
    mesh = DeviceMesh.from_group(distributed.group.WORLD, world.device.type)
    for block in task.blocks():
        fully_shard(block, mesh=mesh)
    fully_shard(task, mesh=mesh)


def gather_for_good(module: nn.Module) -> None:
    """After this, forwards of the module need no other rank. Collective."""
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False)
        part.unshard()


def local(x: Tensor) -> Tensor:
    """This rank's part of a tensor, sharing its memory; all of it where it is not cut up."""
    return x.to_local() if isinstance(x, DTensor) else x


def whole(x: Tensor) -> Tensor:
    """The full tensor on every rank. Collective where it is cut up."""
    return x.full_tensor() if isinstance(x, DTensor) else x


@torch.no_grad()
def full_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole copies on the CPU on rank 0, {} on the others. Collective where tensors are cut up."""
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    found: dict[str, Tensor] = {}
    for name, x in tensors.items():
        full = whole(x)
        if first:
            found[name] = full.detach().to("cpu", copy=True)
    return found


@torch.no_grad()
def copy_full(target: Tensor, full: Tensor) -> None:
    """Writes a whole tensor, which every rank has, into one that may be cut up; in place."""
    if not isinstance(target, DTensor):
        target.copy_(full)
        return
    assert target.shape == full.shape
    mine = distribute_tensor(
        full.to(target.device, target.dtype),
        target.device_mesh,
        target.placements,
        src_data_rank=None,
    )
    target.to_local().copy_(mine.to_local())
