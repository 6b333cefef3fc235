from pathlib import Path

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from spa3r.errors import WeightsError
from spa3r.teachers.base import ClipViews
from spa3r.teachers.dinov3 import DinoV3Teacher

CONFIG = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_register_tokens": 4,
}


def small() -> DINOv3ViTModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DINOv3ViTModel(DINOv3ViTConfig(**CONFIG))


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
    monkeypatch.setattr("spa3r.teachers.dinov3.FRAMES_PER_PASS", 1)
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
    }


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"missing model\.layer\.23"):
        DinoV3Teacher.from_uri(tmp_path)
