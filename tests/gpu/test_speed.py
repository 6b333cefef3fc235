"""The fast ways of the teachers and every side of the step benchmark on a CUDA device."""

import argparse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from benchmarks.pretrain_parts import SMALL
from benchmarks.pretrain_step import SIDES, Sides, count_flops, measure_peak_shares, write_all
from spa3r.teachers.base import ClipViews
from spa3r.teachers.dinov3 import VITL16, DinoV3Teacher
from spa3r.teachers.vggt_teacher import VggtTeacher
from tests.small_vggt import small_vggt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def views_on(device: str) -> ClipViews:
    images = torch.rand(2, 4, 3, 56, 70, generator=torch.Generator().manual_seed(0))
    is_target = torch.tensor([[False, True, False, True], [False, False, True, True]])
    return ClipViews(images_BV3HW=images.to(device), is_target_BV=is_target.to(device))


def test_depth_of_targets_alone_agrees_with_the_cpu() -> None:
    expected = VggtTeacher(small_vggt(), uri="s")(views_on("cpu"), heads="targets")
    found = VggtTeacher(small_vggt().cuda(), uri="s")(views_on("cuda"), heads="targets")
    for field in fields(expected):
        torch.testing.assert_close(
            getattr(found, field.name).cpu(), getattr(expected, field.name),
            rtol=2e-3, atol=2e-3, equal_nan=True,
        )  # fmt: skip


def test_a_compiled_teacher_agrees_with_itself() -> None:
    plain, compiled = (VggtTeacher(small_vggt().cuda(), uri="s", autocast=True) for _ in range(2))
    compiled.compile()
    ours, theirs = (teacher(views_on("cuda")).tokens_BVND for teacher in (compiled, plain))
    assert float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_dinov3_in_bfloat16_stays_near_float32() -> None:
    values = VITL16 | {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2}
    teacher = DinoV3Teacher(DINOv3ViTModel(DINOv3ViTConfig.from_dict(dict(values))), uri="random")
    torch.nn.Module.cuda(teacher.model)
    exact = teacher(views_on("cuda"), (4, 5))
    teacher.precision = "bfloat16"
    rounded = teacher(views_on("cuda"), (4, 5))
    assert exact.dtype == rounded.dtype == torch.float32
    assert 0 < float((rounded - exact).norm() / exact.norm()) < 0.05


def test_every_side_of_the_step_benchmark_runs(tmp_path: Path) -> None:
    options = argparse.Namespace(device="cuda", compile=False)
    write_all(SMALL, "cuda", tmp_path)
    with ThreadPoolExecutor(1) as pool:
        sides = Sides(SMALL, options, tmp_path, pool)
        work = {name: count_flops(sides.steps[name], "cuda") for name in SIDES}
        losses = [step() for step in sides.steps.values()]
        shares = measure_peak_shares(sides)
    assert torch.tensor(losses).isfinite().all()
    assert max(work, key=lambda name: work[name]) == "published"
    assert all(0 < share < 1 for share in shares.values())
