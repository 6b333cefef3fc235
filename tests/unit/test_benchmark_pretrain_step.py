"""The sides of the step benchmark do the work that they say, on the same networks and images."""

from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.pretrain_parts import IS_TARGET, SMALL, Student, make_teachers
from benchmarks.pretrain_sources import (
    OnlineTargets,
    PublishedTargets,
    read_semantic,
    write_targets,
)
from spa3r.data.cached import CachedTargets
from tests.small_vggt import SMALL as VGGT

TINY = replace(
    SMALL,
    image_hw=(28, 42),
    vggt=VGGT,
    dinov3=SMALL.dinov3 | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
    student=replace(
        SMALL.student, geo_width=64, sem_width=32, width=32, num_latents=4, encoder_layers=1,
        decoder_layers=1,
    ),
)  # fmt: skip
TARGET_V = torch.tensor(IS_TARGET)


def test_published_and_online_see_the_same_context_and_frames() -> None:
    torch.manual_seed(0)
    teachers = make_teachers(TINY, "cpu")
    published = PublishedTargets(TINY, teachers, "cpu").load()
    online = OnlineTargets(TINY, teachers, "cpu", heads="all").load()
    # One asymmetric pass gives the context-only pass's tokens; the target views' differ by design.
    torch.testing.assert_close(online.context_BCND, published.context_BCND, atol=2e-2, rtol=2e-3)
    torch.testing.assert_close(online.sem_BVND, published.sem_BVND)
    assert (online.geo_BVND - published.geo_BVND).abs().max() > 0.1
    assert published.valid_BVN.all()


def test_the_loss_on_targets_needs_no_more_than_that_side_makes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teachers, student = make_teachers(TINY, "cpu"), Student(TINY, "cpu")
    every = OnlineTargets(TINY, teachers, "cpu", heads="all").load()
    asked = OnlineTargets(TINY, teachers, "cpu", heads="targets").load()
    assert asked.sem_BVND is not None
    assert torch.equal(asked.depth_BVN[:, TARGET_V], every.depth_BVN[:, TARGET_V])
    assert not asked.depth_BVN[:, ~TARGET_V].any()
    assert not asked.sem_BVND[:, ~TARGET_V].any()
    write_targets(tmp_path, every, student.recipe.teacher)
    cached = CachedTargets(tmp_path, views="targets")
    with torch.no_grad():
        losses = [
            float(student.loss(batch, "targets"))
            for batch in (every, asked, cached.load(cached.clips))
        ]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(losses[:1] * 3))
    assert every.sem_BVND is not None
    assert torch.equal(read_semantic(tmp_path), every.sem_BVND)
