"""The formulas against PyTorch's own counter on small networks, whose every part counts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from spa3r.config import ModelConfig
from spa3r.models.spa3r import Spa3RModel
from spa3r.teachers.base import ClipViews
from spa3r.teachers.dinov3 import VITL16, DinoV3Teacher
from spa3r.teachers.vggt import VggtConfig
from spa3r.teachers.vggt_teacher import VggtTeacher
from spa3r.train import flops
from tests.small_vggt import SMALL, small_vggt

GRID = (3, 5)
IS_TARGET = torch.tensor([[False, True, False, True, True]])
VIEWS = ClipViews(
    images_BV3HW=torch.rand(1, 5, 3, 14 * GRID[0], 14 * GRID[1]), is_target_BV=IS_TARGET
)
CONTEXT = replace(VIEWS, is_target_BV=torch.zeros_like(IS_TARGET))


def counted(run: Callable[[], object]) -> int:
    # The CPU's fused attention is unknown to the counter; plain matrix products are not.
    math = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), math, FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth_probe": "features", "semantic": False},
        {"camera": "plucker", "linguistic": True, "lang_width": 24},
    ],
)
def test_student(options) -> None:
    config = ModelConfig(
        geo_width=64, sem_width=32, width=48, num_latents=7, encoder_layers=2, decoder_layers=3,
        num_heads=2, patch_size=14, **options,
    )  # fmt: skip
    model = Spa3RModel(config)
    context, cameras = torch.rand(1, 2, 15, 64), torch.eye(4).expand(1, 3, 4, 4)
    K = torch.tensor([[40.0, 0, 35], [0, 40, 21], [0, 0, 1]]).expand(1, 3, 3, 3)
    expected = counted(lambda: model(context, cameras, K, GRID))
    ours = flops.student_flops(config, context_views=2, decoded_views=3, grid_hw=GRID)
    assert ours == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("passes", ["asymmetric", "two_pass"])
@pytest.mark.parametrize("heads", ["all", "targets"])
def test_vggt(passes: Literal["asymmetric", "two_pass"], heads: Literal["all", "targets"]) -> None:
    teacher = VggtTeacher(small_vggt(), uri="small", passes=passes)
    expected = counted(lambda: teacher(VIEWS, heads=heads))
    ours = flops.vggt_flops(
        SMALL, context_views=2, target_views=3, grid_hw=GRID, passes=passes, heads=heads
    )
    assert ours == pytest.approx(expected, rel=0.01)


def test_dinov3() -> None:
    values = VITL16 | {
        "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }  # fmt: skip
    teacher = DinoV3Teacher(DINOv3ViTModel(DINOv3ViTConfig.from_dict(dict(values))), uri="random")
    expected = counted(lambda: teacher(VIEWS, GRID))
    assert flops.dinov3_flops(values, views=5) == pytest.approx(expected, rel=0.01)


def test_depth_of_every_pixel() -> None:
    teacher = VggtTeacher(small_vggt(), uri="small")
    expected = counted(lambda: teacher.context(CONTEXT, surface=True))
    ours = flops.vggt_flops(SMALL, context_views=5, target_views=0, grid_hw=GRID, whole_maps=True)
    assert ours == pytest.approx(expected, rel=0.01)


def test_one_asymmetric_pass_against_two_passes_at_full_size() -> None:
    """1.54, as the design says of 8 views of 518 x 378."""
    one, two = (
        flops.vggt_flops(
            VggtConfig(), context_views=4, target_views=4, grid_hw=(27, 37), passes=passes,
            heads="none",
        )
        for passes in ("asymmetric", "two_pass")
    )  # fmt: skip
    assert two / one == pytest.approx(1.54, abs=0.005)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 5090", 210e12),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_peak_of_known_gpus(monkeypatch, name: str, peak: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert flops.peak_flops("cuda") == peak
    assert flops.peak_flops("cpu") is None
