from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import (
    AutoModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from spa3r.config import TeacherSpec
from spa3r.errors import ConfigError, TeacherError, WeightsError
from spa3r.teachers.base import ClipViews
from spa3r.teachers.build import build_semantic
from spa3r.teachers.dinov2_hf import Dinov2Teacher

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "layerscale_value": 0.7,
}
KINDS = ["dinov2", "dinov2_with_registers"]


def small(kind: str = "dinov2") -> Dinov2Model | Dinov2WithRegistersModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "dinov2":
            return Dinov2Model(Dinov2Config(**SIZES))
        return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, num_register_tokens=3))


def clip() -> ClipViews:
    images = torch.rand(1, 2, 3, 56, 70, generator=torch.Generator().manual_seed(3))
    return ClipViews(images_BV3HW=images, is_target_BV=torch.zeros(1, 2).bool())


def slow(folder: Path, images_V3HW: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Transformers' own loading, one frame at a time, statistics written out."""
    model = AutoModel.from_pretrained(folder).eval()
    tokens = []
    for image_3HW in images_V3HW:
        pixels = interpolate(image_3HW[None], (224, 224), mode="bilinear")
        for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
            pixels[:, channel] = (pixels[:, channel] - mean) / std
        with torch.no_grad():
            hidden = model(pixels).last_hidden_state[0, -256:]
        map_D16 = hidden.T.reshape(1, -1, 16, 16)
        tokens.append(interpolate(map_D16, grid_hw, mode="bilinear")[0].flatten(1).T)
    return torch.stack(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_patch_tokens_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    small(kind).save_pretrained(tmp_path)
    teacher = Dinov2Teacher.from_uri(tmp_path)
    teacher.train()
    teacher.model.train()
    tokens = teacher(clip(), (4, 5))
    assert tokens.shape == (1, 2, 20, 32) and tokens.dtype == torch.float32
    torch.testing.assert_close(tokens[0], slow(tmp_path, clip().images_BV3HW[0], (4, 5)))
    assert teacher.hash == Dinov2Teacher(small(kind), uri="x").hash
    assert teacher.reference() == {
        "kind": "dinov2",
        "uri": str(tmp_path),
        "hash": teacher.hash,
        "variant": "squash224",
        "licence": "apache-2.0",
    }


def test_names_in_memory_are_read_too(tmp_path: Path) -> None:
    model = small()
    model.save_pretrained(tmp_path)
    expected = Dinov2Teacher.from_uri(tmp_path).hash
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert Dinov2Teacher.from_uri(tmp_path).hash == expected


def test_misfits_are_named_as_published(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    gone = "encoder.layer.1.attention.attention.query.weight"
    wrong = "encoder.layer.0.attention.output.dense.bias"
    del state[gone]
    state |= {"classifier.weight": torch.zeros(2), wrong: torch.zeros(5)}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        Dinov2Teacher.from_uri(tmp_path)
    for part in (f"missing {gone}", "unexpected classifier.weight", f"{wrong} has shape (5,)"):
        assert part in str(caught.value)


def test_the_configuration_must_be_there_and_fit(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    for text, message in (
        ('{"model_type": "dinov3_vit"}', "not dinov2 or dinov2_with_registers; give facebook/dino"),
        ('{"model_type": "dinov2", "use_swiglu_ffn": true}', "giant"),
    ):
        config.write_text(text)
        with pytest.raises(TeacherError, match=message):
            Dinov2Teacher.from_uri(tmp_path)
    config.unlink()
    with pytest.raises(WeightsError, match=r"no config\.json beside the weights"):
        Dinov2Teacher.from_uri(tmp_path / "model.safetensors")


def test_built_from_a_spec(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    spec = TeacherSpec(semantic="dinov2", semantic_uri=str(tmp_path), semantic_width=32)
    teacher = build_semantic(spec)
    assert teacher is not None and teacher.reference()["kind"] == "dinov2"
    with pytest.raises(ConfigError, match=r"semantic_width is 1024 but the teacher has 32"):
        build_semantic(TeacherSpec(semantic="dinov2", semantic_uri=str(tmp_path)))
    with pytest.raises(ConfigError, match="set it to 'facebook/dinov2-large'"):
        build_semantic(TeacherSpec(semantic="dinov2"))
