"""`spa3r convert` against the published key maps at full shape, and the fixture spa3r_small.

The full-size tensors lie on the meta device: names and shapes, no numbers.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from spa3r.config import ModelConfig
from spa3r.convert.checkpoint import convert
from spa3r.convert.layout import split
from spa3r.convert.sizes import AdapterSizes, plan
from spa3r.errors import WeightsError
from spa3r.hub import Spa3REncoder
from spa3r.teachers.base import ClipViews
from spa3r.teachers.vggt import VggtConfig
from tests.parity.golden import Golden, named, read_keymap
from tests.parity.test_vggt_teacher import PASSES, published_vggt


def on_meta(keys: list[tuple[str, list[int], str]]) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape, _ in keys}


def lightning() -> dict[str, Tensor]:
    return on_meta(read_keymap("spa3r_lightning")["keys"])


def vlm() -> dict[str, Tensor]:
    inside = {
        f"geometry_encoder.spa3r.{k.removeprefix('model.')}": v for k, v in lightning().items()
    }
    return inside | on_meta(read_keymap("spa3_vlm_3b")["keys_without_geometry_encoder"])


def test_lightning_names_and_shapes_are_the_published_ones() -> None:
    keymap = read_keymap("spa3r_lightning")
    made = plan(split(lightning(), "map"), "map", vggt=VggtConfig())
    assert made.student.config == ModelConfig()
    assert sum(x.numel() for x in made.student.parameters()) == keymap["trainable_elements"]
    aggregator = made.vggt.config.aggregator
    assert aggregator.global_qk_norm == "rms"  # the file has no biases there
    # Of nothing else may the teacher differ from a loaded facebook/VGGT-1B: its hash covers this.
    published = VggtConfig()
    rms = replace(published, aggregator=replace(published.aggregator, global_qk_norm="rms"))
    assert made.vggt.config == rms


def test_vlm_names_and_shapes_are_the_published_ones() -> None:
    keymap = read_keymap("spa3_vlm_3b")
    state = vlm()
    assert len(state) == keymap["summary"]["n_keys"]
    parts = split(state, "map")
    assert not state  # emptied: nothing is held twice
    made = plan(parts, "map", vggt=VggtConfig())
    assert parts.kind == "vlm" and made.student.config == ModelConfig()
    assert made.adapter == AdapterSizes()
    assert len(parts.adapter) == keymap["adapter_summary"]["n_keys"]
    assert sum(x.numel() for x in parts.adapter.values()) == keymap["adapter_summary"]["n_elements"]
    language = ("visual", "model.embed_tokens", "model.layers", "model.norm", "lm_head")
    assert parts.num_base == sum(keymap["groups"][group]["keys"] for group in language)


def test_vlm_of_a_later_transformers_with_its_head_tied() -> None:
    renamed = {}
    for name, x in vlm().items():
        if name.startswith("visual."):
            renamed[f"model.{name}"] = x
        elif name.startswith("model."):
            renamed[f"model.language_model.{name.removeprefix('model.')}"] = x
        elif name != "lm_head.weight":
            renamed[name] = x
    parts = split(renamed, "map")
    plan(parts, "map", vggt=VggtConfig())  # raises WeightsError naming every misfit
    assert parts.num_base == 824


def test_every_kind_of_misfit_is_named_at_full_size() -> None:
    state = vlm()
    inside = "geometry_encoder.spa3r."
    removed = [f"{inside}encoder.blocks.3.attn.qkv.bias", f"{inside}depth_head.norm.weight",
               f"{inside}dino.blocks.7.ls1.gamma", "geometry_gate.0.bias"]  # fmt: skip
    added = [f"{inside}decoder.blocks.6.norm1.bias", f"{inside}camera_head.extra",
             f"{inside}dino.blocks.0.attn.extra", "ln.extra", "score.weight"]  # fmt: skip
    misshapen = [f"{inside}projection.weight", f"{inside}aggregator.patch_embed.pos_embed",
                 f"{inside}dino.blocks.23.mlp.fc2.weight", f"{inside}dino.rope_embed.periods",
                 "geom_cross_attention.k_proj.weight"]  # fmt: skip
    for name in removed:
        del state[name]
    state |= {name: torch.empty(1, device="meta") for name in added}
    state |= {name: torch.empty(3, 5, device="meta") for name in misshapen}
    with pytest.raises(WeightsError) as caught:
        plan(split(state, "map"), "map", vggt=VggtConfig())
    text = str(caught.value)
    for name in removed:
        assert f"missing {name}" in text
    for name in added:
        assert f"unexpected {name}" in text
    for name in misshapen:
        assert f"{name} has shape (3, 5)" in text


@pytest.mark.parametrize("name", named("spa3r"))
def test_the_fixture_converts_and_answers_as_published(name: str, tmp_path: Path) -> None:
    golden = Golden(name)
    vggt = published_vggt(golden)
    state = {f"model.{key}": x for key, x in golden.below("weights/").items()}
    save_file(state, tmp_path / "golden.safetensors")
    done = convert(
        tmp_path / "golden.safetensors", tmp_path / "out",
        teacher_out=tmp_path / "vggt", vggt=vggt.config,
    )  # fmt: skip
    encoder = Spa3REncoder.from_pretrained(done.encoder)
    views = ClipViews(images_BV3HW=golden["inputs/images"], is_target_BV=golden["inputs/view_mask"])
    mode = PASSES[encoder.card.teacher.passes]
    height, width = views.images_BV3HW.shape[-2:]
    grid_hw = (height // encoder.patch_size, width // encoder.patch_size)
    with torch.no_grad():
        latents = encoder.model.encode(encoder.teacher(views).context_BCND, grid_hw)
    atol = golden.spec["tolerance"]["activations_atol"]
    torch.testing.assert_close(latents, golden[f"outputs/{mode}/latents"], atol=atol, rtol=0)
