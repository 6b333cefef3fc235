"""Targets written by teachers on a CUDA device, in batches and in bfloat16, against the CPU."""

from pathlib import Path

import pytest
import torch

from preprocessing.targets import write_targets
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.cached import CachedTargets
from spa3r.data.shards import FrameTable
from spa3r.teachers.vggt import save_vggt
from tests.frames_maker import make_frames
from tests.small_vggt import small_vggt

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_a_gpu_s_targets_are_the_cpu_s_but_for_bfloat16(tmp_path: Path) -> None:
    save_vggt(tmp_path / "vggt", small_vggt())
    spec = TeacherSpec(geometric_uri=str(tmp_path / "vggt"), semantic="none", width=64)
    table = FrameTable(make_frames(tmp_path / "frames", {"a": 9, "b": 8}))
    clips = ClipSpec(view_counts=(4, 5), gap=(1, 2), clips_per_scene=6)
    found: list[CachedTargets] = []
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        write_targets(table, out, clips=clips, teacher=spec, split="train", device=device)
        again = write_targets(table, out, clips=clips, teacher=spec, split="train", device=device)
        assert again.reused == 2
        found.append(CachedTargets(out))
    assert [clip.id for clip in found[0].clips] == [clip.id for clip in found[1].clips]
    for clip in found[0].clips:
        exact, fast = (source.load([clip]).geo_BVND.float() for source in found)
        assert (fast - exact).norm() < 0.05 * exact.norm()
