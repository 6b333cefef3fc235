"""Written targets equal teachers in the loop, bit for bit; damaged shards are named."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel

from preprocessing.targets import write_targets
from spa3r import schema
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.batch import ClipBatch
from spa3r.data.cached import CachedTargets
from spa3r.data.clips import draw_clips
from spa3r.data.online import OnlineTargets
from spa3r.data.shards import FrameTable, iter_samples
from spa3r.data.views import load_views
from spa3r.errors import ConfigError, ShardError, TeacherError
from spa3r.teachers.base import ClipViews, GeometricTargets, GeometricTeacher, SemanticTeacher
from spa3r.teachers.build import build_geometric, build_semantic
from spa3r.teachers.dinov3 import DinoV3Teacher
from spa3r.teachers.vggt_teacher import VggtTeacher
from tests.frame_teachers import ColourWaves
from tests.frames_maker import make_frames
from tests.small_vggt import small_vggt

CLIPS = ClipSpec(view_counts=(4, 5), gap=(1, 2), clips_per_scene=4, mirror=True)
RGBD = TeacherSpec(
    geometric="rgbd", semantic="labels", cameras="dataset", width=80, semantic_width=48
)
VGGT = TeacherSpec(width=64, semantic_width=32, dtype="bfloat16")
TWO_PASS = TeacherSpec(width=64, semantic="none", passes="two_pass")
ALL_KINDS = replace(RGBD, linguistic="clip", linguistic_width=20)
SPOKEN = replace(ALL_KINDS, semantic="none")


def small_dinov3() -> DinoV3Teacher:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DINOv3ViTModel(DINOv3ViTConfig(**sizes, num_attention_heads=2))
    return DinoV3Teacher(model, uri="small")


def teachers(
    spec: TeacherSpec,
) -> tuple[GeometricTeacher, SemanticTeacher | None, SemanticTeacher | None]:
    spoken = None if spec.linguistic == "none" else ColourWaves(spec.linguistic_width, seed=1)
    if spec.geometric == "rgbd":
        return build_geometric(spec), build_semantic(spec), spoken
    vggt = VggtTeacher(small_vggt(), uri="small", passes=spec.passes, cameras=spec.cameras)
    return vggt, None if spec.semantic == "none" else small_dinov3(), spoken


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> FrameTable:
    return FrameTable(make_frames(tmp_path_factory.mktemp("frames"), {"a": 9, "b": 8}))


def write(table: FrameTable, out: Path, spec: TeacherSpec) -> CachedTargets:
    geometric, semantic, linguistic = teachers(spec)
    write_targets(
        table, out, clips=CLIPS, teacher=spec, split="train", geometric=geometric,
        semantic=semantic, linguistic=linguistic,
    )  # fmt: skip
    return CachedTargets(out)


def assert_equal(ours: ClipBatch, theirs: ClipBatch) -> None:
    for name in ClipBatch.__dataclass_fields__:
        a, b = getattr(ours, name), getattr(theirs, name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b), name
        else:
            assert a == b, name


def test_statistics_are_those_of_the_tokens(table: FrameTable, tmp_path: Path) -> None:
    cached = write(table, tmp_path, RGBD)
    batches = [cached.load([clip]) for clip in cached.clips]
    tokens = torch.cat([b.geo_BVND[b.valid_BVN] for b in batches]).double()
    torch.testing.assert_close(cached.stats["geo_mean"].double(), tokens.mean(0))
    torch.testing.assert_close(cached.stats["geo_std"].double(), tokens.std(0, correction=0))
    assert cached.stats["sem_std"].shape == (48,) and bool((cached.stats["sem_std"] > 0).all())
    assert cached.references["geometric"]["kind"] == "rgbd"
    assert cached.references["linguistic"] is None


def test_linguistic_tokens_are_their_teacher_s_and_lie_beside_the_semantic_ones(
    table: FrameTable, tmp_path: Path
) -> None:
    both, alone = write(table, tmp_path / "both", ALL_KINDS), write(table, tmp_path / "one", SPOKEN)
    teacher = ColourWaves(20, seed=1)
    for clip in both.clips:
        batch = both.load([clip])
        wanted = teacher(load_views(table, clip), batch.grid_hw).half()
        assert batch.lang_BVND is not None and torch.equal(batch.lang_BVND, wanted)
        assert torch.equal(batch.lang_BVND, alone.load([clip]).tokens()["lang"])
    frames = {(c.scene, f, c.mirror) for c in both.clips for f in c.frames}
    single = [replace(both.clips[0], scene=s, frames=(f,), mirror=m) for s, f, m in sorted(frames)]
    every = torch.cat([teacher(load_views(table, one), (3, 4)).half() for one in single])
    flat = every.double().flatten(0, -2)
    torch.testing.assert_close(both.stats["lang_mean"].double(), flat.mean(0))
    torch.testing.assert_close(both.stats["lang_std"].double(), flat.std(0, correction=0))
    assert both.references["linguistic"] == teacher.reference()
    assert set(alone.stats) == {f"{k}_{w}" for k in ("geo", "depth", "lang")
                                for w in ("mean", "std")}  # fmt: skip
    with pytest.raises(ConfigError, match=r"frame teachers \['sem'\] given, .* \['lang', 'sem'\]"):
        OnlineTargets(table, both.clips, ALL_KINDS, *teachers(RGBD))


def test_a_manifest_from_before_a_setting_means_its_default(
    table: FrameTable, tmp_path: Path
) -> None:
    calm = write(table, tmp_path, RGBD)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for name in ("linguistic", "linguistic_uri", "linguistic_width", "layer", "metric_scale"):
        del manifest["teacher"][name]
    del manifest["references"]["linguistic"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    old = CachedTargets(tmp_path)
    assert old.spec == RGBD
    assert_equal(old.load(old.clips[:1]), calm.load(calm.clips[:1]))


class _Scaled:
    """A geometric teacher with metric scale: VGGT's answer, and what the poses say of its unit."""

    def __init__(self) -> None:
        self.inner = VggtTeacher(small_vggt(), uri="small")
        self.patch_size, self.width, self.precision = self.inner.patch_size, 64, "float32"
        self.hash, self.reference = "scaled", self.inner.reference
        self.context = self.inner.context
        self.seen: list[torch.Tensor] = []

    def __call__(
        self, views: ClipViews, *, heads: Literal["all", "targets"] = "all"
    ) -> GeometricTargets:
        assert heads == "all"
        assert views.world_from_camera_BV44 is not None
        self.seen.append(views.world_from_camera_BV44)
        centre_BV3 = views.world_from_camera_BV44[..., :3, 3]
        baseline_B = (centre_BV3[:, -1] - centre_BV3[:, 0]).norm(dim=-1)
        return replace(self.inner(views), metres_per_unit_B=baseline_B.float())


def test_a_metric_teacher_sees_poses_and_its_scale_is_stored(
    table: FrameTable, tmp_path: Path
) -> None:
    spec, teacher = replace(TWO_PASS, passes="asymmetric", metric_scale=True), _Scaled()
    write_targets(table, tmp_path, clips=CLIPS, teacher=spec, split="train", geometric=teacher)
    cached = CachedTargets(tmp_path)
    stored = [json.loads(sample[schema.CLIP_META_PART]) for scene in "ab"
              for sample in iter_samples(str(tmp_path / f"{scene}.clips.tar"))]  # fmt: skip
    assert len(stored) == len(teacher.seen) == len(cached.clips)
    by_id = {clip.id: clip for clip in cached.clips}
    for meta, seen in zip(stored, teacher.seen, strict=True):
        clip = by_id[meta["id"]]
        poses = [
            table.load_frame(clip.scene, f, mirror=clip.mirror).world_from_camera_44
            for f in clip.frames
        ]
        assert (seen[0].numpy() == np.stack([p for p in poses if p is not None])).all()
        assert poses[0] is not None and poses[-1] is not None
        step = poses[-1][:3, 3] - poses[0][:3, 3]
        assert meta["metres_per_unit"] == pytest.approx(float(np.linalg.norm(step)), rel=1e-6)


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
