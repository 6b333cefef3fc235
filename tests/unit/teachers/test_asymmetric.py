import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from spa3r.teachers.asymmetric import asymmetric_attention


def dense_oracle(q: Tensor, k: Tensor, v: Tensor, context: int) -> Tensor:
    """The paper's mask, spelt out: a query may see a key if it is a target or the key context."""
    tokens = torch.arange(q.shape[2])
    allowed = (tokens[:, None] >= context) | (tokens[None, :] < context)
    return scaled_dot_product_attention(q, k, v, attn_mask=allowed)


def qkv(tokens: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    # As a projection leaves them: (B, T, 3, H, D) memory seen as (B, H, T, D).
    packed = torch.randn(2, tokens, 3, 3, 8, generator=generator, dtype=dtype)
    return tuple(part.transpose(1, 2) for part in packed.unbind(2))


@pytest.mark.parametrize("context", [0, 1, 10, 23, 24])
def test_equals_the_dense_mask(context: int) -> None:
    q, k, v = qkv(24, torch.float64)
    ours = asymmetric_attention(q, k, v, context)
    torch.testing.assert_close(ours, dense_oracle(q, k, v, context if context else 24))


def test_a_target_never_reaches_the_context() -> None:
    q, k, v = qkv(24, torch.float32)
    before = asymmetric_attention(q, k, v, 10)
    for tensor in (q, k, v):
        tensor[:, :, 10:] += 1
    after = asymmetric_attention(q, k, v, 10)
    assert torch.equal(before[:, :, :10], after[:, :, :10])
    assert not torch.equal(before[:, :, 10:], after[:, :, 10:])


def test_the_output_folds_back_into_tokens_without_a_copy() -> None:
    q, k, v = qkv(24, torch.float32)
    assert asymmetric_attention(q, k, v, 10).transpose(1, 2).is_contiguous()
