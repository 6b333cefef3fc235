import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from spa3r.errors import TeacherError, WeightsError
from spa3r.teachers.base import ClipViews
from spa3r.teachers.checkpoints import state_hash
from spa3r.teachers.dinov3 import DinoV3Teacher, from_meta, load_dinov3, to_meta

CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_register_tokens": 4,
}
HEAD_WIDTH = 16


def small() -> DINOv3ViTModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DINOv3ViTModel(DINOv3ViTConfig.from_dict(CONFIG))


def meta_state() -> dict[str, Tensor]:
    """As Meta's file: with key biases that the mask makes void."""
    state = to_meta(small().state_dict(), head_width=HEAD_WIDTH)
    for name in state:
        if name.endswith("qkv.bias"):
            state[name] = torch.linspace(1, 2, 96)
    return state


def clip(num_views: int = 2) -> ClipViews:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(1, num_views, 3, 56, 70, generator=generator)
    return ClipViews(images_BV3HW=images, is_target_BV=torch.zeros(1, num_views).bool())


def test_the_same_input_gives_the_same_output_whatever_mode_is_asked_for() -> None:
    teacher = DinoV3Teacher(small(), uri="small")
    first = teacher(clip(), (4, 5))
    teacher.train()
    teacher.model.train()
    second = teacher(clip(), (4, 5))
    assert torch.equal(first, second)
    assert first.shape == (1, 2, 20, teacher.width)
    # What the release did: in training mode the same network is noise.
    teacher.model.train()
    pixels = torch.rand(1, 3, 64, 64)
    noisy = [teacher.model(pixels).last_hidden_state for _ in range(2)]
    assert not torch.equal(*noisy)


def test_each_frame_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = DinoV3Teacher(small(), uri="small")
    whole = teacher(clip(3), (4, 5))
    monkeypatch.setattr("spa3r.teachers.frame_teacher.FRAMES_PER_PASS", 1)
    torch.testing.assert_close(teacher(clip(3), (4, 5)), whole)


def test_loads_what_transformers_saves(tmp_path: Path) -> None:
    model = small()
    model.save_pretrained(tmp_path)
    made = DinoV3Teacher(model, uri="x")
    for uri in (tmp_path, tmp_path / "model.safetensors"):
        teacher = DinoV3Teacher.from_uri(uri)
        assert teacher.hash == made.hash
        assert torch.equal(teacher(clip(), (4, 5)), made(clip(), (4, 5)))
    assert teacher.reference() == {
        "kind": "dinov3",
        "uri": str(tmp_path / "model.safetensors"),
        "hash": made.hash,
        "variant": "squash224",
        "licence": "dinov3-license",
    }


@pytest.mark.parametrize("rounded", [False, True])
def test_both_namings_are_the_same_teacher(tmp_path: Path, rounded: bool) -> None:
    small().save_pretrained(tmp_path)
    meta = meta_state()
    theirs = DINOv3ViTModel(DINOv3ViTConfig.from_dict(CONFIG))
    load_dinov3(theirs, from_meta(meta))
    theirs.save_pretrained(tmp_path)
    expected = DinoV3Teacher.from_uri(tmp_path / "model.safetensors")
    if rounded:  # a file may hold the periods in bfloat16; the model has its own
        meta["rope_embed.periods"] = meta["rope_embed.periods"].bfloat16()
    torch.save(meta, tmp_path / "dinov3.pth")
    teacher = DinoV3Teacher.from_uri(tmp_path / "dinov3.pth")
    assert teacher.hash == expected.hash
    assert torch.equal(teacher(clip(), (4, 5)), expected(clip(), (4, 5)))


def test_meta_names_there_and_back() -> None:
    hf = {DinoV3Teacher.published_name(k): v for k, v in small().state_dict().items()}
    meta = to_meta(hf, head_width=HEAD_WIDTH)
    assert not [name for name in meta if "layer" in name or "_proj" in name]
    assert state_hash(from_meta(meta)) == state_hash(hf)
    assert state_hash(to_meta(from_meta(meta), head_width=HEAD_WIDTH)) == state_hash(meta)


def test_a_key_bias_that_would_be_lost_is_an_error() -> None:
    bias, mask = "blocks.1.attn.qkv.bias", "blocks.1.attn.qkv.bias_mask"

    def load(state: dict[str, Tensor]) -> None:
        load_dinov3(small(), state, where="meta.pth")

    state = meta_state()
    load(state)
    for wrong in (torch.ones(96), torch.zeros(96), torch.full((96,), torch.nan)):
        with pytest.raises(
            WeightsError, match=rf"meta\.pth: the key third of {bias} is not zeroed"
        ):
            load(state | {mask: wrong})
    del state[mask]
    with pytest.raises(WeightsError, match=bias):
        load(state)
    without = state[bias].clone()
    without[32:64] = 0
    load(state | {bias: without})


def test_other_rotary_periods_are_an_error() -> None:
    state = meta_state()
    state["rope_embed.periods"] = state["rope_embed.periods"] * 1.02
    with pytest.raises(WeightsError, match=r"rope_embed\.periods is not 100"):
        load_dinov3(small(), state)


def test_misfits_are_named_as_the_file_names_them() -> None:
    state = meta_state()
    del state["blocks.0.attn.qkv.weight"], state["rope_embed.periods"]
    state |= {"head.weight": torch.zeros(1), "blocks.1.ls1.gamma": torch.zeros(3)}
    with pytest.raises(WeightsError) as caught:
        load_dinov3(small(), state, where="meta.pth")
    for part in (
        "meta.pth: 4 tensors", "missing blocks.0.attn.qkv.weight", "missing rope_embed.periods",
        "unexpected head.weight", "blocks.1.ls1.gamma has shape (3,), expected (32,)",
    ):  # fmt: skip
        assert part in str(caught.value)


def test_a_tensor_in_two_namings_is_an_error() -> None:
    state = small().state_dict()
    state |= {re.sub(r"^model\.", "", k): v for k, v in state.items() if "layer.0.norm1" in k}
    with pytest.raises(WeightsError, match=r"layer\.0\.norm1\.bias, layer\.0\.norm1\.weight twice"):
        load_dinov3(small(), state)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    with pytest.raises(TeacherError, match="model_type 'dinov2', not dinov3_vit"):
        DinoV3Teacher.from_uri(tmp_path)


def test_a_bare_file_is_taken_for_vit_l16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors.torch.save_file(meta_state(), tmp_path / "dinov3.safetensors")
    with pytest.raises(WeightsError):  # two layers are not ViT-L/16
        monkeypatch.setattr("spa3r.teachers.dinov3.VITL16", {**CONFIG, "num_hidden_layers": 3})
        DinoV3Teacher.from_uri(tmp_path / "dinov3.safetensors")
    monkeypatch.setattr("spa3r.teachers.dinov3.VITL16", CONFIG)
    assert DinoV3Teacher.from_uri(tmp_path / "dinov3.safetensors").width == 32
