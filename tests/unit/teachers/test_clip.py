import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import CLIPConfig, CLIPModel

from spa3r.config import TeacherSpec
from spa3r.errors import TeacherError, WeightsError
from spa3r.teachers.base import ClipViews
from spa3r.teachers.build import build_linguistic
from spa3r.teachers.clip import ClipTeacher
from spa3r.teachers.frame_teacher import FrameTeacher

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 42,
    "patch_size": 14,
}
TEXT = {
    **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "vocab_size": 50, "max_position_embeddings": 8},
    **{"bos_token_id": 1, "eos_token_id": 2},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole CLIP as published: both towers, projections, and the buffers of older files."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=8))
    model.save_pretrained(tmp_path)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    for name in state:  # the norms are 1 and 0 at first
        if "norm" in name:
            state[name] = torch.rand(state[name].shape, generator=generator)
    state["vision_model.embeddings.position_ids"] = torch.arange(10)[None]
    state["text_model.embeddings.position_ids"] = torch.arange(8)[None]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def clip() -> ClipViews:
    images = torch.rand(1, 2, 3, 56, 70, generator=torch.Generator().manual_seed(3))
    return ClipViews(images_BV3HW=images, is_target_BV=torch.zeros(1, 2).bool())


def slow(folder: Path, image_3HW: Tensor) -> Tensor:
    """Tokens (9, D) of one frame: Transformers' loading, statistics and norm written out."""
    model = CLIPModel.from_pretrained(folder).eval()
    pixels = interpolate(image_3HW[None], (42, 42), mode="bilinear")
    means, stds = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    for channel in range(3):
        pixels[:, channel] = (pixels[:, channel] - means[channel]) / stds[channel]
    with torch.no_grad():
        hidden = model.vision_model(pixels).last_hidden_state[0, 1:]
    norm = model.vision_model.post_layernorm
    centred = hidden - hidden.mean(1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
    return scaled * norm.weight.detach() + norm.bias.detach()


def test_tokens_are_the_normed_patches_of_transformers(folder: Path) -> None:
    teacher = ClipTeacher.from_uri(folder)
    teacher.train()
    tokens = teacher(clip(), (3, 3))  # the network's own grid: nothing is resized
    assert tokens.dtype == torch.float32
    for view in range(2):
        expected = slow(folder, clip().images_BV3HW[0, view])
        torch.testing.assert_close(tokens[0, view], expected)
    assert teacher(clip(), (4, 5)).shape == (1, 2, 20, 32)
    assert teacher.reference() == {
        "kind": "clip",
        "uri": str(folder),
        "hash": teacher.hash,
        "variant": "squash42",
        "licence": "mit",
    }


def test_the_tower_alone_under_any_prefix_is_the_same_teacher(folder: Path) -> None:
    expected = ClipTeacher.from_uri(folder).hash
    file = folder / "model.safetensors"
    whole = safetensors.torch.load_file(file)
    tower = {k: v for k, v in whole.items() if k.startswith("vision_model.")}
    (folder / "config.json").write_text(json.dumps({"model_type": "clip_vision_model", **VISION}))
    for prefix in ("vision_model.", ""):
        renamed = {k.replace("vision_model.", prefix): v for k, v in tower.items()}
        safetensors.torch.save_file(renamed, file)
        assert ClipTeacher.from_uri(folder).hash == expected


def test_misfits_are_named_as_published(folder: Path) -> None:
    file = folder / "model.safetensors"
    state = safetensors.torch.load_file(file)
    gone = "vision_model.encoder.layers.1.mlp.fc2.bias"
    del state[gone]
    safetensors.torch.save_file(state | {"logit_bias": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match=f"missing {gone}; unexpected logit_bias"):
        ClipTeacher.from_uri(folder)


def test_the_configuration_must_be_there_and_fit(folder: Path) -> None:
    config = folder / "config.json"
    for text, message in (
        ('{"model_type": "siglip"}', "'siglip', not clip or clip_vision_model; give openai/clip"),
        ('{"model_type": "clip"}', "no vision_config"),
    ):
        config.write_text(text)
        with pytest.raises(TeacherError, match=message):
            ClipTeacher.from_uri(folder)
    config.unlink()
    with pytest.raises(WeightsError, match=r"no config\.json beside the weights"):
        ClipTeacher.from_uri(folder)


def test_built_from_a_spec(folder: Path) -> None:
    assert build_linguistic(TeacherSpec()) is None
    spec = TeacherSpec(linguistic="clip", linguistic_uri=str(folder), linguistic_width=32)
    teacher = build_linguistic(spec)
    assert teacher is not None and teacher.width == 32


def test_equal_numbers_under_another_kind_have_another_hash(folder: Path) -> None:
    class Other(ClipTeacher):
        kind = "other"

    teacher = ClipTeacher.from_uri(folder)
    assert isinstance(teacher, FrameTeacher)
    assert Other.from_uri(folder).hash != teacher.hash
    values = json.loads((folder / "config.json").read_text())
    values["vision_config"]["num_attention_heads"] = 4  # no shape tells
    (folder / "config.json").write_text(json.dumps(values))
    assert ClipTeacher.from_uri(folder).hash != teacher.hash


@pytest.mark.parametrize(
    "change", [{"hidden_size": "x"}, {"hidden_act": "nope"}, {"patch_size": 0},
               {"num_attention_heads": 7}],
)  # fmt: skip
def test_a_config_of_no_network_is_one_line(change: dict, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="describes no network") as caught:
        ClipTeacher.from_uri(folder)
    assert "\n" not in str(caught.value)
