"""The same clip gives the same numbers, whatever they come from: cached, packed, hybrid, online."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from preprocessing.pack import pack_targets
from preprocessing.targets import write_targets
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.batch import ClipBatch, Staged
from spa3r.data.cached import CachedTargets
from spa3r.data.clips import Clip
from spa3r.data.online import HybridTargets, OnlineTargets
from spa3r.data.packed import PackedTargets
from spa3r.data.parts import Views
from spa3r.data.quantise import pack_tokens, unpack_tokens
from spa3r.data.shards import FrameTable
from spa3r.teachers.base import ClipViews, GeometricTeacher, SemanticTeacher
from spa3r.teachers.build import build_geometric, build_semantic
from spa3r.teachers.vggt_teacher import VggtTeacher
from tests.frame_teachers import ColourWaves
from tests.frames_maker import make_frames
from tests.small_vggt import small_vggt

CLIPS = ClipSpec(view_counts=(4,), gap=(1, 2), clips_per_scene=3, mirror=True)
RGBD = TeacherSpec(
    geometric="rgbd", semantic="labels", cameras="dataset", width=80, semantic_width=48
)
VGGT = TeacherSpec(width=64, semantic_width=32, linguistic="clip", linguistic_width=20)
SPECS = [
    *(replace(RGBD, dtype=dtype) for dtype in ("float16", "int8")),
    *(replace(VGGT, dtype=dtype) for dtype in ("float16", "bfloat16", "int8")),
    replace(VGGT, passes="two_pass"),
]
Source = CachedTargets | PackedTargets | HybridTargets


@dataclass
class World:
    """Targets of one spec in every arrangement."""

    table: FrameTable
    spec: TeacherSpec
    folder: Path
    geometric: GeometricTeacher
    semantic: SemanticTeacher
    linguistic: SemanticTeacher | None

    @property
    def batches(self) -> Iterator[tuple[Clip, ...]]:
        """Two clips of two scenes that agree, and one alone."""
        clips = CachedTargets(self.folder / "targets").clips
        yield clips[0], clips[-1]
        yield (clips[1],)

    def online(self, views: Views = "all") -> OnlineTargets:
        clips = CachedTargets(self.folder / "targets").clips
        teachers = (self.geometric, self.semantic, self.linguistic)
        return OnlineTargets(self.table, clips, self.spec, *teachers, views=views)

    def sources(self, views: Views = "all") -> dict[str, Source]:
        cached = CachedTargets(self.folder / "targets", views=views)
        return {
            "cached": cached,
            "packed": PackedTargets(self.folder / "packed", views=views),
            "hybrid": HybridTargets(self.table, cached, self.geometric, views=views),
        }  # fmt: skip


@pytest.fixture(scope="module")
def vggt() -> VggtTeacher:
    return VggtTeacher(small_vggt(), uri="small")


@pytest.fixture(scope="module", params=SPECS, ids=lambda s: f"{s.geometric}-{s.dtype}-{s.passes}")
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, vggt: VggtTeacher
) -> World:
    spec: TeacherSpec = request.param
    folder = tmp_path_factory.mktemp("agree")
    table = FrameTable(make_frames(folder / "frames", {"a": 7, "b": 7}))
    if spec.geometric == "rgbd":
        semantic = build_semantic(spec)
        assert semantic is not None
        teachers = (build_geometric(spec), semantic, None)
    else:
        geometric = vggt
        if spec.passes == "two_pass":
            geometric = VggtTeacher(vggt.model, uri="small", passes="two_pass")
        teachers = (geometric, ColourWaves(32), ColourWaves(20, seed=1))
    write_targets(
        table, folder / "targets", clips=CLIPS, teacher=spec, split="train",
        geometric=teachers[0], semantic=teachers[1], linguistic=teachers[2],
    )  # fmt: skip
    pack_targets(folder / "targets", folder / "packed", clips_per_shard=4)
    return World(table, spec, folder, *teachers)


def tensors(batch: ClipBatch) -> dict[str, Tensor]:
    every = {name: getattr(batch, name) for name in ClipBatch.__dataclass_fields__}
    return {name: value for name, value in every.items() if isinstance(value, Tensor)}


def assert_same(ours: ClipBatch, theirs: ClipBatch) -> None:
    assert (ours.clips, ours.grid_hw, ours.dropped) == (theirs.clips, theirs.grid_hw, ())
    a, b = tensors(ours), tensors(theirs)
    assert set(a) == set(b)
    for name, x in a.items():
        assert x.dtype == b[name].dtype and torch.equal(x, b[name]), name


def rounded(batch: ClipBatch, spec: TeacherSpec) -> ClipBatch:
    """A batch with its tokens as they come back from the stored dtype."""

    def stored(x: Tensor) -> Tensor:
        return unpack_tokens("x", pack_tokens("x", x, spec.dtype), spec.dtype)

    geo_BVND = torch.stack([stored(x_VND) for x_VND in batch.geo_BVND])
    taken = geo_BVND[~batch.is_target_BV].reshape(batch.context_BCND.shape)
    changed = {"geo_BVND": geo_BVND, "context_BCND": taken}
    for name in ("sem_BVND", "lang_BVND"):
        if (x_BVND := getattr(batch, name)) is not None:
            frames = torch.stack([stored(x_ND) for x_ND in x_BVND.flatten(0, 1)])
            changed[name] = frames.view_as(x_BVND)
    return replace(batch, **changed)


def test_every_source_gives_the_same_bits(world: World) -> None:
    online = world.online()
    for clips in world.batches:
        wanted = online.load(clips)
        assert wanted.geo_BVND.dtype == (
            torch.bfloat16 if world.spec.dtype == "bfloat16" else torch.float16
        )
        taken = wanted.geo_BVND[~wanted.is_target_BV].reshape(wanted.context_BCND.shape)
        assert torch.equal(taken, wanted.context_BCND) == (world.spec.passes == "asymmetric")
        found = {name: source.load(clips) for name, source in world.sources().items()}
        if world.spec.dtype == "int8":  # stored tokens have lost what int8 loses, no more
            wanted = rounded(wanted, world.spec)
            hybrid = found.pop("hybrid")
            assert torch.equal(hybrid.geo_BVND, online.load(clips).geo_BVND)
            assert torch.equal(hybrid.tokens()["sem"], wanted.tokens()["sem"])
        for batch in found.values():
            assert_same(batch, wanted)


def test_loading_is_fetching_and_finishing(world: World) -> None:
    hybrid, (clips, _) = world.sources()["hybrid"], world.batches
    assert isinstance(hybrid, Staged) and not isinstance(world.sources()["cached"], Staged)
    assert_same(hybrid.finish(hybrid.fetch(clips)), hybrid.load(clips))


def test_with_the_loss_on_targets_their_rows_have_the_same_bits(world: World) -> None:
    clips, _ = world.batches
    asked = {**world.sources("targets"), "online": world.online("targets")}
    every = {**world.sources(), "online": world.online()}
    for name, source in asked.items():
        some, all_ = tensors(source.load(clips)), tensors(every[name].load(clips))
        is_target = all_["is_target_BV"]
        assert set(some) == set(all_)
        for field, x in all_.items():
            if field in ("sem_BVND", "lang_BVND", "depth_BVN", "valid_BVN"):
                assert torch.equal(some[field][is_target], x[is_target]), (name, field)
                assert not some[field][~is_target].any() and x[~is_target].any(), (name, field)
            else:
                assert torch.equal(some[field], x), (name, field)


class _Counting(ColourWaves):
    frames = 0

    def __call__(self, views: ClipViews, grid_hw: tuple[int, int]) -> Tensor:
        self.frames += views.is_target_BV.numel()
        return super().__call__(views, grid_hw)


def test_frames_that_are_not_asked_are_neither_computed_nor_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, _ = world.batches
    targets = sum(sum(clip.is_target) for clip in clips)
    world = replace(world, semantic=_Counting(world.spec.semantic_width))
    world.online("targets").load(clips)
    assert isinstance(world.semantic, _Counting) and world.semantic.frames == targets
    cached = world.sources("targets")["cached"]
    assert isinstance(cached, CachedTargets)
    read: list[str] = []
    many = cached._reader.read_many
    monkeypatch.setattr(
        cached._reader, "read_many", lambda asked: read.extend(r.url for r in asked) or many(asked)
    )
    cached.load(clips)
    assert sum(url.endswith(".frames.tar") for url in read) == targets
