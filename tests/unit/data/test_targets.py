"""Written targets equal teachers in the loop, bit for bit; damaged shards are named."""

import random
from pathlib import Path

import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from preprocessing.targets import write_targets
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.batch import ClipBatch
from spa3r.data.clips import draw_clips
from spa3r.data.shards import FrameTable
from spa3r.data.targets import CachedTargets, OnlineTargets
from spa3r.errors import ShardError, TeacherError
from spa3r.teachers.base import GeometricTeacher, SemanticTeacher
from spa3r.teachers.build import build_geometric, build_semantic
from spa3r.teachers.dinov3 import DinoV3Teacher
from spa3r.teachers.vggt_teacher import VggtTeacher
from tests.frames_maker import make_frames
from tests.small_vggt import small_vggt

CLIPS = ClipSpec(view_counts=(4, 5), gap=(1, 2), clips_per_scene=4, mirror=True)
RGBD = TeacherSpec(
    geometric="rgbd", semantic="labels", cameras="dataset", width=80, semantic_width=48
)
VGGT = TeacherSpec(width=64, semantic_width=32, dtype="bfloat16")
TWO_PASS = TeacherSpec(width=64, semantic="none", passes="two_pass")


def small_dinov3() -> DinoV3Teacher:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DINOv3ViTModel(DINOv3ViTConfig(**sizes, num_attention_heads=2))
    return DinoV3Teacher(model, uri="small")


def teachers(spec: TeacherSpec) -> tuple[GeometricTeacher, SemanticTeacher | None]:
    if spec.geometric == "rgbd":
        return build_geometric(spec), build_semantic(spec)
    vggt = VggtTeacher(small_vggt(), uri="small", passes=spec.passes, cameras=spec.cameras)
    return vggt, None if spec.semantic == "none" else small_dinov3()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> FrameTable:
    return FrameTable(make_frames(tmp_path_factory.mktemp("frames"), {"a": 9, "b": 8}))


def write(table: FrameTable, out: Path, spec: TeacherSpec) -> CachedTargets:
    geometric, semantic = teachers(spec)
    write_targets(
        table, out, clips=CLIPS, teacher=spec, split="train", geometric=geometric, semantic=semantic
    )
    return CachedTargets(out)


def assert_equal(ours: ClipBatch, theirs: ClipBatch) -> None:
    for name in ClipBatch.__dataclass_fields__:
        a, b = getattr(ours, name), getattr(theirs, name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b), name
        else:
            assert a == b, name


@pytest.mark.parametrize("spec", [RGBD, VGGT, TWO_PASS], ids=["rgbd", "vggt", "two_pass"])
def test_read_back_equals_online(table: FrameTable, tmp_path: Path, spec: TeacherSpec) -> None:
    cached = write(table, tmp_path, spec)
    online = OnlineTargets(table, cached.clips, spec, *teachers(spec))
    assert [c.scene for c in cached.clips] == ["a"] * 4 + ["b"] * 4
    for clip in cached.clips:  # of the batch shape in which they were written: one clip
        assert_equal(cached.load([clip]), online.load([clip]))
    same = [c for c in cached.clips if c.num_views == cached.clips[0].num_views]
    batch = cached.load(same)
    assert batch.geo_BVND.shape[:3] == (len(same), same[0].num_views, 12)
    assert batch.geo_BVND.dtype == getattr(torch, spec.dtype)
    assert (batch.sem_BVND is None) == (spec.semantic == "none")
    taken = batch.geo_BVND[~batch.is_target_BV].reshape(batch.context_BCND.shape)
    assert torch.equal(taken, batch.context_BCND) == (spec.passes == "asymmetric")
    torch.testing.assert_close(
        batch.geo_BVND.float(), online.load(same).geo_BVND.float(), atol=2e-2, rtol=2e-2
    )


def test_statistics_are_those_of_the_tokens(table: FrameTable, tmp_path: Path) -> None:
    cached = write(table, tmp_path, RGBD)
    batches = [cached.load([clip]) for clip in cached.clips]
    tokens = torch.cat([b.geo_BVND[b.valid_BVN] for b in batches]).double()
    torch.testing.assert_close(cached.stats["geo_mean"].double(), tokens.mean(0))
    torch.testing.assert_close(cached.stats["geo_std"].double(), tokens.std(0, correction=0))
    assert cached.stats["sem_std"].shape == (48,) and bool((cached.stats["sem_std"] > 0).all())
    assert cached.references["geometric"]["kind"] == "rgbd"


def test_mirrored_clips_are_mirrored(table: FrameTable, tmp_path: Path) -> None:
    """A clip and its mirror image: the same depths with the grid's columns reversed."""
    spec = ClipSpec(view_counts=(4,), clips_per_scene=1, gap=(1, 1))
    (clip,) = draw_clips("box", "a", table.frames("a"), spec)
    mirrored = type(clip)(
        dataset="box", scene="a", frames=clip.frames, is_target=clip.is_target, mirror=True
    )
    online = OnlineTargets(table, [clip, mirrored], RGBD, *teachers(RGBD))
    plain, flipped = online.load([clip]), online.load([mirrored])
    depth = plain.depth_BVN.unflatten(-1, plain.grid_hw)
    torch.testing.assert_close(flipped.depth_BVN.unflatten(-1, plain.grid_hw), depth.flip(-1))
    flip = torch.diag(torch.tensor([-1.0, 1, 1, 1]))
    torch.testing.assert_close(
        flipped.camera_from_world_BV44,
        flip @ plain.camera_from_world_BV44 @ flip,
        atol=1e-5,
        rtol=0,
    )


def test_teachers_that_lack_their_input_name_the_scene(tmp_path: Path) -> None:
    photos = FrameTable(make_frames(tmp_path / "photos", {"trip": 6}, depth=False))
    with pytest.raises(TeacherError, match=r"scene trip: .*photos without depth"):
        clips = draw_clips("box", "trip", photos.frames("trip"), CLIPS)
        OnlineTargets(photos, clips, RGBD, *teachers(RGBD)).load(clips[:1])
    plain = FrameTable(make_frames(tmp_path / "plain", {"room": 6}, labels=False))
    with pytest.raises(TeacherError, match=r"scene room: .*semantic='none'"):
        write(plain, tmp_path / "out", RGBD)


def test_a_field_of_view_of_zero_is_refused_by_the_clips_name(
    table: FrameTable, tmp_path: Path
) -> None:
    vggt, semantic = small_vggt(), small_dinov3()
    with torch.no_grad():
        vggt.camera_head.pose_branch.fc2.bias[7:] = -9  # the head's ReLU makes 0 of it
    blind = VggtTeacher(vggt, uri="blind")
    clips = draw_clips("box", "a", table.frames("a"), CLIPS)
    refusal = rf"clip {clips[0].id}: .*camera of view 0 .*not finite"
    with pytest.raises(TeacherError, match=refusal):
        OnlineTargets(table, clips, VGGT, blind, semantic).load(clips[:1])
    with pytest.raises(TeacherError, match=r"clip a-.*not finite"):
        write_targets(
            table, tmp_path, clips=CLIPS, teacher=VGGT, split="train", geometric=blind,
            semantic=semantic,
        )  # fmt: skip
    assert not (tmp_path / "a.clips.tar").exists()


def test_clips_of_different_grids_are_refused(tmp_path: Path) -> None:
    make_frames(tmp_path / "frames", {"a": 6})
    wide = FrameTable(make_frames(tmp_path / "wide", {"a": 6}, size=(70, 42)))
    cached = write(wide, tmp_path / "out", RGBD)
    cached._grids[cached.clips[0].id] = (3, 4)
    with pytest.raises(ShardError, match=r"\(3, 4\), \(3, 5\)"):
        cached.load([cached.clips[0], cached.clips[1]])
    with pytest.raises(ShardError, match=r"a\.clips\.tar: clip a-.*geo"):
        cached.load(cached.clips[:1])


def check_mutations(cached: CachedTargets, rounds: int, seed: int) -> int:
    """Overwrites bytes of one clip's payload; returns how many damages were noticed."""
    clip = cached.clips[0]
    place = cached._places[clip.id]
    path = Path(cached.folder) / place.shard
    original = path.read_bytes()
    shapes = {k: v.shape for k, v in vars_of(cached.load([clip])).items()}
    draw = random.Random(seed)
    refused = 0
    for _ in range(rounds):
        data = bytearray(original)
        # Half of the damage goes into the header, which decides what is allocated.
        reach = min(place.size, 600 if draw.random() < 0.5 else place.size)
        for _ in range(draw.randint(1, 4)):
            data[place.offset + draw.randrange(reach)] = draw.randrange(256)
        path.write_bytes(data)
        try:
            read = vars_of(CachedTargets(cached.folder).load([clip]))
        except ShardError as error:
            assert path.name in str(error) and clip.id in str(error)
            refused += 1
        else:
            assert {k: v.shape for k, v in read.items()} == shapes
    path.write_bytes(original)
    return refused


def vars_of(batch: ClipBatch) -> dict[str, torch.Tensor]:
    every = {name: getattr(batch, name) for name in ClipBatch.__dataclass_fields__}
    return {name: value for name, value in every.items() if isinstance(value, torch.Tensor)}


def test_damaged_payloads_are_named_or_harmless(table: FrameTable, tmp_path: Path) -> None:
    assert check_mutations(write(table, tmp_path, RGBD), rounds=30, seed=0) >= 10


@pytest.mark.soak
def test_two_thousand_damages(table: FrameTable, tmp_path: Path) -> None:
    assert check_mutations(write(table, tmp_path, RGBD), rounds=2000, seed=1) >= 700


def test_missing_and_foreign_files_are_named(table: FrameTable, tmp_path: Path) -> None:
    cached = write(table, tmp_path, RGBD)
    (tmp_path / "a.frames.tar").write_bytes(b"")
    with pytest.raises(ShardError, match=r"a\.frames\.tar"):
        cached.load(cached.clips[:1])
    (tmp_path / "stats.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ShardError, match=r"stats\.safetensors"):
        CachedTargets(tmp_path)
    (tmp_path / "clips.parquet").unlink()
    with pytest.raises(ShardError, match=r"clips\.parquet"):
        CachedTargets(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema": 1}')
    with pytest.raises(ShardError, match=r"manifest\.json: not a manifest of targets"):
        CachedTargets(tmp_path)
    with pytest.raises(ShardError, match="absent"):
        CachedTargets(tmp_path / "elsewhere")
