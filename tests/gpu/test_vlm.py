"""Spa3-VLM on a CUDA device: no change at the start, scenes side by side. Skipped without one."""

import pytest
import torch

from tests.unit.vlm.small_bases import (
    FUSIONS,
    Talk,
    batch,
    by_the_base,
    moved_from_zero,
    qwen2_5,
    vlm,
)

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
TALKS = (Talk(2, 9, 1), Talk(1, 14, 2), Talk(3, 5, 3))


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_start_logits_are_the_base_s_bit_for_bit(kind, dtype):
    model, hf = vlm(kind).to(DEVICE, dtype), qwen2_5().to(DEVICE, dtype)
    given = batch(model, TALKS).to(DEVICE)
    with torch.no_grad():
        assert torch.equal(model(given), hf(**by_the_base(model, given)).logits)


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_batch_equals_its_conversations_one_by_one(kind):
    model = moved_from_zero(vlm(kind)).to(DEVICE)
    given = batch(model, TALKS).to(DEVICE)
    with torch.no_grad():
        together = model(given)
        for i, talk in enumerate(TALKS):
            alone = model(batch(model, [talk]).to(DEVICE))[0]
            ours = together[i, given.attention_mask_BT[i].bool()]
            torch.testing.assert_close(ours, alone, atol=1e-3, rtol=1e-3)
