"""The transformer's last block, which computes only what is read, and its graph."""

import pytest
import torch

from spa3r.models.cameras import projections
from spa3r.models.prope import DecoderPosition
from spa3r.models.rope import EncoderPosition, encoder_table, ray_table
from spa3r.models.transformer import Transformer
from tests.unit.models.scenes import random_cameras

CPU = torch.device("cpu")
GRID_HW, LATENTS, REGISTERS, HEAD = (2, 5), 4, 2, 16
TOKENS = LATENTS + GRID_HW[0] * GRID_HW[1]


def transformer() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(2 * HEAD, 2, 2, 2, REGISTERS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def position_of(kind):
    if kind == "none":
        return None
    if kind == "encoder":
        table = encoder_table(REGISTERS + LATENTS, 1, GRID_HW, HEAD, 100.0, CPU)
        return EncoderPosition(rope=table)
    P, inverse = projections(*random_cameras(3, 1, GRID_HW, 14), GRID_HW, 14)
    return DecoderPosition(
        image_from_world_S44=P[:, 0],
        world_from_image_S44=inverse[:, 0],
        num_prefix=REGISTERS + LATENTS,
        rope=ray_table(GRID_HW, HEAD // 2, 100.0, CPU),
    )


@pytest.mark.parametrize("kind", ["none", "encoder", "decoder"])
def test_reading_some_rows_gives_those_rows_of_all(kind):
    model, position = transformer(), position_of(kind)
    x = torch.randn(3, TOKENS, 2 * HEAD, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    whole = model(x, position, slice(0, None))
    assert whole.shape == x.shape
    for part in (slice(0, LATENTS), slice(LATENTS, None), slice(2, 7), slice(6, 9), slice(13, 14)):
        ours = model(x, position, part)
        torch.testing.assert_close(ours, whole[:, part], atol=1e-5, rtol=1e-5)
        loss = ours.square().sum()
        gradient = torch.autograd.grad(whole[:, part].square().sum(), x, retain_graph=True)
        scale = gradient[0].abs().max().item()
        torch.testing.assert_close(
            torch.autograd.grad(loss, x), gradient, atol=1e-5 * scale, rtol=1e-4
        )


def test_the_decoder_is_one_graph_without_host_reads():
    model, position = transformer(), position_of("decoder")
    x = torch.randn(3, TOKENS, 2 * HEAD)
    # fullgraph: a branch on a tensor's value, or any read of it on the host, is an error.
    traced = torch.compile(model, backend="eager", fullgraph=True)
    read = slice(LATENTS, None)
    torch.testing.assert_close(traced(x, position, read), model(x, position, read))
