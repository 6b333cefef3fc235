"""Scenes that fail, parts of killed runs, what is stored, one writer at a time, room on disk."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from preprocessing import target_answers, target_parts, targets
from preprocessing.lock import output_lock
from preprocessing.pack import pack_targets
from preprocessing.target_answers import SceneJob, calls_of
from preprocessing.target_sizes import packed_left, scene_bytes
from preprocessing.targets import TargetManifest, write_targets
from spa3r import schema
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.clips import Clip
from spa3r.data.quantise import unpack_tokens
from spa3r.data.shards import FrameTable, iter_samples
from spa3r.errors import ConfigError, ShardError, Spa3RError, TeacherError
from spa3r.teachers.base import ClipViews, GeometricTargets
from spa3r.teachers.rgbd import RgbdTeacher
from tests.frames_maker import make_frames
from tests.killing import files_of

CLIPS = ClipSpec(view_counts=(4, 5), gap=(1, 2), clips_per_scene=4, mirror=True)
TEACHER = TeacherSpec(
    geometric="rgbd", semantic="labels", cameras="dataset", width=80, semantic_width=48
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> FrameTable:
    return FrameTable(make_frames(tmp_path_factory.mktemp("scenes") / "frames", {"a": 9, "b": 8}))


class Teacher(RgbdTeacher):
    """Counts the clips it is asked about; some of its answers are spoilt."""

    def __init__(self, *, spoil: float | None = None, after: int = 0) -> None:
        super().__init__(TEACHER)
        self.asked, self.spoil, self.after = 0, spoil, after

    def answer(self, stats, views: ClipViews, *, heads="all") -> GeometricTargets:
        self.asked += len(views.is_target_BV)
        targets = super().answer(stats, views, heads=heads)
        if self.spoil is None or self.asked <= self.after:
            return targets
        tokens_BVND, valid_BVN = targets.tokens_BVND.clone(), targets.valid_BVN.clone()
        tokens_BVND[:, -1, 0, 0], valid_BVN[:, -1, 0] = self.spoil, False
        return replace(targets, tokens_BVND=tokens_BVND, valid_BVN=valid_BVN)


def write(table: FrameTable, out: Path, **options) -> TargetManifest:
    settings = {"clips": CLIPS, "teacher": TEACHER, "split": "train"} | options
    return write_targets(table, out, **settings)


def jobs_of(table: FrameTable) -> list[SceneJob]:
    drawn, _ = targets.draw_split(table, "train", CLIPS)
    return targets.plan_jobs(
        table, drawn, "", split="train", stored="clips", measured=frozenset(), same=[], device="cpu"
    )


def manifest_of(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


# --- scenes that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_a_scene_with_bad_tokens_is_left_out_after_it_was_named(
    table: FrameTable, tmp_path: Path, value: float
) -> None:
    """Also where the patch is not valid: nothing that is stored may be other than finite."""
    out = tmp_path / "out"
    bad = Teacher(spoil=value, after=4)
    with pytest.raises(TeacherError, match=r"1 of 2 scenes failed.*b: clip b-\w+: .*finite") as why:
        write(table, out, geometric=bad)
    assert "\n" not in str(why.value) and bad.asked == 5
    assert not (out / "manifest.json").exists() and not (out / "b.clips.tar").exists()
    calm = (out / "a.clips.tar").read_bytes()
    again = write(table, out, geometric=bad)
    assert (again.scenes, again.reused, again.clips, bad.asked) == (1, 1, 4, 5)
    assert "not finite" in manifest_of(out)["failures"]["b"]
    # Another teacher is another key: the scene is asked about again.
    good = write(table, out, teacher=replace(TEACHER, seed=1))
    assert good.scenes == 2 and good.failures == {} and not (out / "b.refused.json").exists()
    assert calm != (out / "a.clips.tar").read_bytes()


def test_all_scenes_refused_is_an_error_every_time(table: FrameTable, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(TeacherError, match="2 of 2 scenes failed"):
            write(table, tmp_path / "out", geometric=Teacher(spoil=float("nan")))


def test_a_damaged_frame_shard_is_tried_again(tmp_path: Path) -> None:
    """What a mended file cures is not remembered."""
    frames = make_frames(tmp_path / "frames", {"a": 9, "b": 8})
    shard = frames / "a.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:2000])
    for _ in range(2):
        with pytest.raises(ShardError, match=r"1 of 2 scenes failed.*a: .*a\.tar"):
            write(FrameTable(frames), tmp_path / "out")
    shard.write_bytes(whole)
    found = write(FrameTable(frames), tmp_path / "out")
    assert (found.scenes, found.reused) == (2, 1)


class _Full(Teacher):
    """A device whose memory is full for all but the first scene."""

    def answer(self, stats, views: ClipViews, *, heads="all") -> GeometricTargets:
        if self.asked == 4:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        return super().answer(stats, views)


def test_a_teacher_that_stops_fails_its_scene_until_the_next_run(
    table: FrameTable, tmp_path: Path
) -> None:
    why = r"1 of 2 scenes failed.*b: OutOfMemoryError: CUDA out of memory\. Tried to .* 2 GiB; run"
    with pytest.raises(TeacherError, match=why):
        write(table, tmp_path, geometric=_Full())
    assert (tmp_path / "a.done.json").exists() and not (tmp_path / "b.refused.json").exists()
    again = write(table, tmp_path)
    assert (again.scenes, again.reused, again.failures) == (2, 1, {})


class _Endless(RgbdTeacher):
    """Sees the first patch at infinity, as VGGT's exponential may."""

    def answer(self, stats, views: ClipViews, *, heads="all") -> GeometricTargets:
        targets = super().answer(stats, views, heads=heads)
        depth_BVN, valid_BVN = targets.depth_BVN.clone(), targets.valid_BVN.clone()
        depth_BVN[..., 0], valid_BVN[..., 0] = float("inf"), False
        return replace(targets, depth_BVN=depth_BVN, valid_BVN=valid_BVN)


def test_a_depth_that_is_not_finite_is_unknown(table: FrameTable, tmp_path: Path) -> None:
    write(table, tmp_path, geometric=_Endless(TEACHER))
    for sample in iter_samples(str(tmp_path / "a.clips.tar")):
        depth_VN = safetensors.torch.load(sample[schema.CLIP_PART])["depth"]
        assert (depth_VN[:, 0] == 0).all() and depth_VN.isfinite().all()
    stats = safetensors.torch.load((tmp_path / "stats.safetensors").read_bytes())
    assert all(x.isfinite().all() for x in stats.values())


# --- parts ----------------------------------------------------------------------------------------


class _Killed(BaseException):
    """As sudden as a signal to all that catches errors."""


def test_finished_clips_are_not_asked_again(
    table: FrameTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_answers, "PART_BYTES", 1)
    calm, out = tmp_path / "calm", tmp_path / "out"
    write(table, calm)
    first, second = Teacher(), Teacher()
    publish, published = target_parts._publish, Counter[str]()

    def until_killed(url: str, *what) -> None:
        published.update([url.split(".")[-3]])
        if published["clips"] == 3:
            raise _Killed
        publish(url, *what)

    monkeypatch.setattr(target_parts, "_publish", until_killed)
    with pytest.raises(_Killed):
        write(table, out, geometric=first)
    monkeypatch.setattr(target_parts, "_publish", publish)
    (out / ".parts" / "b.clips.0123456789abcdef.part").write_bytes(b"of other settings")
    (out / ".parts" / ".left.part.01.tmp").write_bytes(b"cut short")
    assert not (out / "a.done.json").exists()
    write(table, out, geometric=second)
    assert second.asked == 8 - 2 and files_of(out) == files_of(calm)


def test_a_damaged_part_is_named_and_made_again(
    table: FrameTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    publish = target_parts._publish

    def cut(url: str, *what) -> None:
        publish(url, *what)
        if ".clips." in url:
            Path(url).write_bytes(Path(url).read_bytes()[:-3000])

    monkeypatch.setattr(target_parts, "_publish", cut)
    with pytest.raises(ShardError, match=r"a\.clips\.\w+\.part: was damaged .*run again"):
        write(table, out)
    monkeypatch.setattr(target_parts, "_publish", publish)
    assert write(table, out).scenes == 2


def test_calls_have_clips_of_one_shape_within_the_budget(table: FrameTable) -> None:
    def clip(views: int, context: int, number: int) -> Clip:
        hidden = [False] * context + [True] * (views - context)
        frames = tuple(range(number, number + views))
        return Clip(dataset="d", scene="s", frames=frames, is_target=tuple(hidden))

    drawn = [
        clip(6, 3, 0),
        clip(4, 2, 1),
        clip(6, 2, 2),
        clip(4, 2, 3),
        clip(6, 3, 4),
        clip(4, 2, 5),
    ]
    calls = calls_of(drawn, views_per_call=8)
    shapes = [[(c.num_views, c.num_context) for c in call] for call in calls]
    assert shapes == [[(4, 2)] * 2, [(4, 2)], [(6, 2)], [(6, 3)], [(6, 3)]]
    assert {c.id for call in calls for c in call} == {c.id for c in drawn}
    assert [len(call) for call in calls_of(drawn, views_per_call=1)] == [1] * 6


# --- what is stored -------------------------------------------------------------------------------


def test_frames_or_statistics_alone(table: FrameTable, tmp_path: Path) -> None:
    every = write(table, tmp_path / "clips")
    sides = {
        stored: write(table, tmp_path / stored, stored=stored, statistics_clips=100)
        for stored in ("frames", "statistics")
    }
    names = {stored: set(files_of(tmp_path / stored)) for stored in ("clips", *sides)}
    tars = {f"{scene}.clips.tar" for scene in "ab"}
    frames = {f"{scene}.{name}" for scene in "ab" for name in ("frames.tar", "semantic.parquet")}
    assert names["frames"] == names["clips"] - tars
    assert names["statistics"] == names["frames"] - frames - {"semantic.parquet"}
    rows = [pq.read_table(tmp_path / name / "clips.parquet").to_pylist() for name in names]
    assert [row["id"] for row in rows[1]] == [row["id"] for row in rows[0]]
    assert rows[1] == rows[2] and {row["shard"] for row in rows[1]} == {""}
    stats = [(tmp_path / name / "stats.safetensors").read_bytes() for name in names]
    assert stats[0] == stats[1] == stats[2], "of all clips, however they are stored"
    assert [manifest_of(tmp_path / name)["stored"] for name in names] == list(names)
    assert len({every.target_hash, *(side.target_hash for side in sides.values())}) == 3
    assert write(table, tmp_path / "frames", stored="frames", statistics_clips=100).reused == 2


def test_statistics_come_from_a_draw_that_asks_no_more(table: FrameTable, tmp_path: Path) -> None:
    teacher = Teacher()
    options = {"stored": "frames", "geometric": teacher}
    few = write(table, tmp_path / "few", statistics_clips=3, **options)
    assert teacher.asked == 3 and few.clips == 8
    stats = safetensors.torch.load((tmp_path / "few" / "stats.safetensors").read_bytes())
    assert stats["geo_mean"].shape == (80,) and stats["sem_mean"].shape == (48,)
    other = write(table, tmp_path / "other", statistics_clips=3, clips=replace(CLIPS, seed=5))
    assert other.target_hash != few.target_hash


def test_int8_is_stored_with_its_scales(table: FrameTable, tmp_path: Path) -> None:
    spec = replace(TEACHER, dtype="int8")
    found = {
        dtype: write(table, tmp_path / dtype, teacher=replace(TEACHER, dtype=dtype))
        for dtype in ("float16", "int8")
    }
    assert found["int8"].bytes < 0.9 * found["float16"].bytes
    for name, part, kind in (
        ("clips", schema.CLIP_PART, "geo"),
        ("frames", schema.SEM_PART, "sem"),
    ):
        tars = [iter_samples(str(tmp_path / dtype / f"a.{name}.tar")) for dtype in found]
        for exact, small in zip(*tars, strict=True):
            tokens = safetensors.torch.load(exact[part])[kind].float()
            packed = safetensors.torch.load(small[part])
            assert packed[kind].dtype == torch.int8
            read = unpack_tokens(kind, packed, spec.dtype).float()
            assert (read - tokens).square().mean() < 3e-4 * tokens.square().mean()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_bytes_are_known_beforehand(table: FrameTable, tmp_path: Path, dtype: str) -> None:
    spec = replace(TEACHER, dtype=dtype)
    grid_hw = (3, 4)
    write(table, tmp_path, teacher=spec)
    for job in jobs_of(table):
        found = scene_bytes(job, grid_hw, spec)
        for kind, file in (("clips", "clips.tar"), ("frames", "frames.tar")):
            assert found[kind] == (tmp_path / f"{job.scene}.{file}").stat().st_size


# --- one writer, enough room ----------------------------------------------------------------------


def test_two_writers_do_not_mix(table: FrameTable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    teacher = Teacher()
    with output_lock(str(out)), pytest.raises(ShardError, match=r"out: process \d+ .*is writing"):
        write(table, out, geometric=teacher)
    assert teacher.asked == 0 and write(table, out).scenes == 2


def test_a_disk_that_is_too_small_is_told_of_first(
    table: FrameTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Teacher()
    monkeypatch.setattr(targets, "free_bytes", lambda _out: 100_000)
    with pytest.raises(
        ShardError, match=r"2 scenes need 2\d\d kB, 100 kB are free.*free space"
    ) as why:
        write(table, tmp_path / "out", geometric=teacher)
    assert isinstance(why.value, Spa3RError) and teacher.asked == 0


def test_room_is_asked_for_parts_of_every_worker_and_for_the_packed_copy(
    table: FrameTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, packed = tmp_path / "out", tmp_path / "packed"
    asked: list[int] = []
    monkeypatch.setattr(targets, "free_bytes", lambda _out: 0)
    monkeypatch.setattr(targets, "size", lambda count: asked.append(count) or "some")

    def needed(**options) -> int:
        asked.clear()
        with pytest.raises(ShardError, match="are free"):
            write(table, out, **options)
        return asked[0]

    one, two = needed(), needed(workers=2)
    assert 1.2 < two / one < 1.5, "the second scene's parts"
    copy = needed(packed=str(packed)) - one
    monkeypatch.undo()
    done = write(table, out)
    whole = pack_targets(out, packed).bytes
    assert 0.7 * whole < copy <= whole
    jobs = jobs_of(table)
    assert packed_left(jobs, table, TEACHER, str(packed)) == 0
    next(packed.glob("*.done.json")).unlink()
    assert 0 < packed_left(jobs, table, TEACHER, str(packed)) < copy
    monkeypatch.setattr(targets, "free_bytes", lambda _out: 0)
    with pytest.raises(ShardError, match="0 scenes and their packed copy need"):
        write(table, out, packed=str(packed))
    assert write(table, out).target_hash == done.target_hash, "needs no room"


def test_given_teachers_are_not_for_ray(table: FrameTable, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave ray=False"):
        write(table, tmp_path / "out", geometric=Teacher(), ray=True)
