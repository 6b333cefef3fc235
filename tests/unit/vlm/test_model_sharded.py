"""FSDP2 with activation checkpointing on two workers, one of which has no geometry in its batch."""

import os

import pytest
import torch
from torch import distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tests.ports import free_port
from tests.unit.vlm.small_bases import Talk, batch, moved_from_zero, vlm

TALKS = (Talk(2, 9, 1), Talk(2, 7, 4, with_geometry=False))


def loss(model, talk: Talk) -> torch.Tensor:
    return model(batch(model, [talk])).log_softmax(-1)[..., 9].mean()


def work(rank: int, port: int, kind: str, language: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    model = moved_from_zero(vlm(kind, language=language)).train()
    model.base.checkpoint_activations()
    for block in model.blocks():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    loss(model, TALKS[rank]).backward()
    whole = moved_from_zero(vlm(kind, language=language)).train()
    (sum(loss(whole, talk) for talk in TALKS) / 2).backward()
    expected = {name: p.grad for name, p in whole.trainable().items()}
    ours = {name: p.grad.full_tensor() for name, p in model.trainable().items()}
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "language"), [("deep_stack", "full"), ("release", "lora"), ("append", "full")]
)
def test_gradients_are_those_of_one_worker(kind, language):
    multiprocessing.spawn(work, args=(free_port(), kind, language), nprocs=2)
