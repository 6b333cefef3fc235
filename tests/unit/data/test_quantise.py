"""Tokens as they are stored: layouts, the error of int8, what is not spoilt by outliers."""

import pytest
import torch

from spa3r.data.quantise import loop_dtype, pack_tokens, stored_layout, unpack_tokens


def plain_tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("shape", [(3, 5, 16), (7, 16)])
def test_the_layout_is_that_of_the_tensors(dtype: str, shape: tuple[int, ...]) -> None:
    packed = pack_tokens("geo", plain_tokens(*shape), dtype)
    found = {name: (tuple(x.shape), x.dtype) for name, x in packed.items()}
    assert found == stored_layout("geo", shape, dtype)
    read = unpack_tokens("geo", packed, dtype)
    assert read.shape == shape and read.dtype == loop_dtype(dtype)


def test_floats_are_kept_to_the_bit() -> None:
    for dtype in ("float16", "bfloat16"):
        tokens = plain_tokens(4, 8).to(loop_dtype(dtype))
        assert torch.equal(unpack_tokens("x", pack_tokens("x", tokens, dtype), dtype), tokens)


def test_int8_is_within_half_a_step() -> None:
    tokens = plain_tokens(3, 50, 64) * torch.logspace(-3, 2, 64)
    packed = pack_tokens("geo", tokens, "int8")
    read = unpack_tokens("geo", packed, "int8").float()
    half_step = packed["geo.token"][..., None] * packed["geo.channel"] / 2
    rounding = tokens.abs() * 2**-10 + 2**-24
    assert ((read - tokens).abs() <= half_step + rounding).all()
    assert packed["geo"].abs().amax(-1).eq(127).all(), "a token does not use all levels"


def test_a_few_large_channels_cost_the_others_nothing() -> None:
    tokens = plain_tokens(2, 200, 256)
    large = tokens.clone()
    large[..., :4] *= 50
    errors = []
    for x in (tokens, large):
        read = unpack_tokens("geo", pack_tokens("geo", x, "int8"), "int8").float()
        errors.append((read - x)[..., 4:].square().mean().sqrt().item())
    assert errors[1] == pytest.approx(errors[0], rel=0.01) and errors[0] < 0.01
    # With one scale a token alone, the same outliers cost most of the levels.
    step = large.abs().amax(-1, keepdim=True) / 127
    one_scale = ((large / step).round() * step - large)[..., 4:].square().mean().sqrt().item()
    assert one_scale > 10 * errors[1]


def test_zero_and_constant_tokens_and_channels() -> None:
    tokens = plain_tokens(6, 8)
    tokens[2] = 0
    tokens[:, 3] = 0
    tokens[:, 4] = -7.5
    read = unpack_tokens("x", pack_tokens("x", tokens, "int8"), "int8").float()
    assert (read[2].abs() <= 7.5).all() and read[2, [0, 1, 2, 3, 5, 6, 7]].eq(0).all()
    assert read[:, 3].eq(0).all() and torch.allclose(read[:, 4], tokens[:, 4], rtol=0.02)
    assert unpack_tokens("x", pack_tokens("x", torch.zeros(2, 4), "int8"), "int8").eq(0).all()


def test_the_end_of_float16_does_not_become_infinite() -> None:
    # Rounded up to 127 levels of the other channel's ratio, 65400 would be read as 65596.
    tokens = torch.tensor([[65400.0, 1.003], [65400.0, 0.997]])
    read = unpack_tokens("x", pack_tokens("x", tokens, "int8"), "int8").float()
    assert read.isfinite().all() and torch.allclose(read, tokens, rtol=0.01)
