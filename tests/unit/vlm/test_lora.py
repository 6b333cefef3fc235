"""Low-rank updates: no change at the start, only they are saved, peft is asked for by name."""

import sys

import pytest
import torch

from spa3r.errors import ConfigError, WeightsError
from spa3r.tune_config import LoraConfig
from tests.unit.vlm.small_bases import Talk, batch, by_the_base, qwen2_5, qwen3, vlm

TALKS = (Talk(2, 9, 1), Talk(1, 14, 2))
RANK_2 = LoraConfig(rank=2, alpha=8)


@pytest.mark.parametrize("maker", [qwen2_5, qwen3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_start_nothing_changes_bit_for_bit(maker, dtype):
    model, hf = vlm(hf=maker(), language="lora", lora=RANK_2).to(dtype), maker().to(dtype)
    given = batch(model, TALKS, pad="left")
    with torch.no_grad():
        assert torch.equal(model(given), hf(**by_the_base(model, given)).logits)
    greedy = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 3}
    theirs = hf.generate(**by_the_base(model, given), **greedy)[:, -3:]
    assert torch.equal(torch.stack(model.generate(given, max_new_tokens=3)), theirs)


def test_an_update_is_the_published_formula():
    model = vlm(language="lora", lora=RANK_2)
    layer = model.base.layers[1].self_attn.q_proj
    before = layer.base_layer.weight.clone()
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert down.shape == (2, 32)
    assert up.shape == (32, 2)
    with torch.no_grad():
        up.normal_()
        x = torch.randn(3, 32)
        expected = layer.base_layer(x) + (8 / 2) * (x @ down.T @ up.T)
        torch.testing.assert_close(layer(x), expected)
    assert torch.equal(layer.base_layer.weight, before)


def test_only_the_updates_are_saved_and_they_load_strictly():
    model = vlm(language="lora", lora=RANK_2)
    state = model.language_state()
    assert len(state) == 3 * 7 * 2  # layers, linear layers, two factors each
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in state)
    assert "layers.0.mlp.down_proj.lora_B.weight" in state
    less = {name: x for name, x in state.items() if "layers.2.mlp.up_proj" not in name}
    with pytest.raises(WeightsError, match=r"missing layers\.2\.mlp\.up_proj\.lora_A\.weight"):
        model.load_language_state(less, "lora.safetensors")
    other_rank = vlm(language="lora", lora=LoraConfig(rank=4)).language_state()
    with pytest.raises(WeightsError, match=r"lora\.safetensors: .* has shape \(4, 32\)"):
        model.load_language_state(other_rank, "lora.safetensors")


def test_without_peft_the_message_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"needs peft.*vlm\.language.*spa3r-platform\[lora\]"):
        vlm(language="lora")
