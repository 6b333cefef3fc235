"""The fusion adapter of the release: its numbers, its gradients, its names at 3B."""

from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from spa3r.vlm.adapter import CrossAttentionAdapter
from tests.parity.golden import Golden, named, read_keymap

NAMES = named("adapter")


class Case(Golden):
    """A fixture with an adapter of form "release" that has its weights."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.adapter = CrossAttentionAdapter(
            self.config["hidden_size"],
            self.config["num_attention_heads"],
            self.config["spa3r_embed_dim"],
            form="release",
        )
        self.adapter.load_state_dict(self.below("weights/"), strict=True)


@pytest.fixture(params=NAMES)
def case(request) -> Case:
    return Case(request.param)


def test_fused_tokens(case):
    latents_1ND = case["inputs/latents"]
    case.close(case.adapter(case["inputs/image_embeds"], latents_1ND[0]), "fused")


def test_stages(case):
    seen: dict[str, Tensor] = {}
    for name, module in case.adapter.named_children():
        module.register_forward_hook(lambda _, args, out, name=name: seen.update({name: out}))
    case.adapter(case["inputs/image_embeds"], case["inputs/latents"][0])
    middle = case.below("outputs/mid/")
    assert middle.keys() == seen.keys()
    for name in middle:
        case.close(seen[name].reshape(middle[name].shape), f"mid/{name}")


def test_gradients(case):
    image_nH = case["inputs/image_embeds"].requires_grad_()
    latents_1ND = case["inputs/latents"].requires_grad_()
    (case.adapter(image_nH, latents_1ND[0]) * case["inputs/grad_out"]).sum().backward()
    ours: dict[str, Any] = {"image_embeds": image_nH.grad, "latents": latents_1ND.grad}
    ours |= {name: p.grad for name, p in case.adapter.named_parameters()}
    assert ours.keys() == case.below("outputs/grad/").keys()
    for name, gradient in ours.items():
        case.close(gradient, f"grad/{name}")


def test_a_batch_does_not_mix_scenes_as_the_release_does(case):
    """The release lays the latents of a batch in one row, so each image token asks all scenes. Ours
    asks its own: a second scene changes nothing, and the release's number comes out only if the
    scenes are laid in one row on purpose."""
    image_nH, latents_BND = case["inputs/image_embeds"], case["inputs/latents_batch2"]
    mixed = case["outputs/fused_batch2_latents_flattened"]
    alone = [case.adapter(image_nH, latents_ND) for latents_ND in latents_BND]
    tolerance = case.spec["tolerance"]["atol"]
    assert all((x - mixed).abs().max() > 100 * tolerance for x in alone)
    case.close(case.adapter(image_nH, latents_BND.flatten(0, 1)), "fused_batch2_latents_flattened")


def test_names_and_shapes_at_3b():
    keymap = read_keymap("spa3_vlm_3b")
    published = {name: tuple(shape) for name, shape, _ in keymap["adapter_keys"]}
    real = read_real_sizes()
    with torch.device("meta"):
        adapter = CrossAttentionAdapter(
            real["hidden_size"],
            real["num_attention_heads"],
            real["spa3r_embed_dim"],
            form="release",
        )
    ours = {name: tuple(p.shape) for name, p in adapter.named_parameters()}
    assert ours == published
    assert adapter.state_dict().keys() == published.keys()  # no buffers
    total = sum(prod(shape) for shape in ours.values())
    assert total == keymap["adapter_summary"]["n_elements"]


def read_real_sizes() -> dict[str, int]:
    """Sizes on Qwen2.5-VL-3B, from the fixture."""
    if not NAMES:
        pytest.skip("no adapter fixture")
    return Golden(NAMES[0]).config["real"]
