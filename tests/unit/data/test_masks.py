"""Parts of an image that a dataset made unrecognisable are no targets, whatever the teacher."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from preprocessing import shards
from spa3r import images, schema
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.clips import Clip, draw_clips
from spa3r.data.online import OnlineTargets
from spa3r.data.shards import FrameTable, iter_samples
from spa3r.data.views import load_views
from spa3r.teachers.base import GeometricTeacher
from spa3r.teachers.build import build_geometric
from spa3r.teachers.vggt_teacher import VggtTeacher
from tests.frames_maker import make_frames
from tests.small_vggt import small_vggt

SPEC = ClipSpec(view_counts=(4,), gap=(1, 1), clips_per_scene=1)
RGBD = TeacherSpec(geometric="rgbd", semantic="none", cameras="dataset", width=80)
VGGT = TeacherSpec(width=64, semantic="none")
# Patches of 14 x 14 in a grid of 3 x 4: column 0 is hidden, of column 1 just over half is used,
# of column 2 just under half.
MASK = np.full((42, 56), 255, np.uint8)
MASK[:, :14] = 0
MASK[:, 14:20] = 0
MASK[:, 28:36] = 0
USED = torch.tensor([[False, True, False, True]] * 3).flatten()


def masked(folder: Path, scene: str, frame: int) -> None:
    """Gives one frame of a scene a mask."""
    samples = []
    for sample in iter_samples(str(folder / f"{scene}.tar")):
        parts = {name: data for name, data in sample.items() if not name.startswith("__")}
        if sample["__key__"] == f"{scene}-{frame:06d}":
            parts[schema.MASK_PART] = images.encode_mask_png(MASK)
        samples.append((sample["__key__"], parts))
    index = shards.write_tar(str(folder / f"{scene}.tar"), samples)
    table = pq.read_table(folder / "manifest.parquet")
    rows = {f"{row['scene']}-{row['frame']:06d}": row for row in table.to_pylist()}
    for entry in index.entries:
        name = entry.part.split(".")[0]
        rows[entry.key] |= {f"{name}_offset": entry.offset, f"{name}_size": entry.size}
    changed = table.from_pylist(list(rows.values()), table.schema)
    shards.write_parquet(str(folder / "manifest.parquet"), [changed], table.schema)


def vggt() -> GeometricTeacher:
    return VggtTeacher(small_vggt(), uri="small")


@pytest.mark.parametrize(
    ("spec", "teacher"), [(RGBD, lambda: build_geometric(RGBD)), (VGGT, vggt)], ids=["rgbd", "vggt"]
)
def test_a_patch_with_less_than_half_of_its_pixels_is_not_valid(
    tmp_path: Path, spec: TeacherSpec, teacher: Callable[[], GeometricTeacher]
) -> None:
    folder = make_frames(tmp_path, {"a": 4, "b": 4})
    clip, other = (draw_clips("box", s, range(0, 8, 2), SPEC)[0] for s in "ab")
    mirrored = Clip(
        dataset="box", scene="a", frames=clip.frames, is_target=clip.is_target, mirror=True
    )
    plain = OnlineTargets(FrameTable(folder), [clip], spec, teacher(), None).load([clip])
    masked(folder, "a", frame=2)
    table = FrameTable(folder)
    source = OnlineTargets(table, [clip], spec, teacher(), None)
    batch = source.load([clip])
    assert plain.valid_BVN.all()
    assert torch.equal(batch.valid_BVN[0, 1], USED)
    assert batch.valid_BVN[0, [0, 2, 3]].all()
    assert torch.equal(batch.geo_BVND, plain.geo_BVND)
    flipped = source.load([mirrored]).valid_BVN[0, 1]
    assert torch.equal(flipped.view(3, 4), USED.view(3, 4).flip(1))
    both = source.load([other, clip])  # beside a clip whose frames have no mask
    assert torch.equal(both.valid_BVN[1, 1], USED) and both.valid_BVN[0].all()
    assert load_views(table, other).mask_BVHW is None
