"""Writing targets: what lies on disk, re-use, dropped scenes, workers."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch

from preprocessing.targets import write_targets
from spa3r import schema, storage
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.cached import CachedTargets
from spa3r.data.shards import FrameTable, iter_samples
from spa3r.errors import SceneError, ShardError, TeacherError
from spa3r.teachers.base import ClipViews, GeometricTargets
from spa3r.teachers.rgbd import RgbdTeacher
from tests.frame_teachers import ColourWaves
from tests.frames_maker import make_frames

CLIPS = ClipSpec(view_counts=(4, 5), gap=(1, 2), clips_per_scene=4, mirror=True)
TEACHER = TeacherSpec(
    geometric="rgbd", semantic="labels", cameras="dataset", width=80, semantic_width=48
)


@pytest.fixture
def table(tmp_path: Path) -> FrameTable:
    return FrameTable(make_frames(tmp_path / "frames", {"a": 9, "b": 8, "short": 3}))


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_what_lies_on_disk(table: FrameTable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = write_targets(table, out, clips=CLIPS, teacher=TEACHER, split="train")
    per_scene = ("clips.tar", "clips.parquet", "frames.tar", "semantic.parquet",
                 "stats.safetensors", "done.json")  # fmt: skip
    names = {f"{scene}.{name}" for scene in "ab" for name in per_scene}
    names |= {"clips.parquet", "semantic.parquet", "stats.safetensors", "manifest.json"}
    assert set(files_of(out)) == names
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["scenes"], manifest["clips"]) == (result.scenes, result.clips) == (2, 8)
    assert manifest["data_hash"] == table.data_hash
    assert "3 usable frames" in manifest["dropped"]["short"]
    samples = list(iter_samples(str(out / "a.clips.tar")))
    clips = [clip for clip in CachedTargets(out).clips if clip.scene == "a"]
    # Alike clips lie together; the table has them in the order in which they were drawn.
    alike = sorted(clips, key=lambda clip: (clip.num_views, clip.num_context))
    assert [s["__key__"] for s in samples] == [clip.id for clip in alike]
    tensors = safetensors.torch.load(samples[0][schema.CLIP_PART])
    assert set(tensors) == {"geo", "camera_from_world", "K", "depth", "valid"}
    meta = json.loads(samples[0][schema.CLIP_META_PART])
    assert meta["frames"] == list(alike[0].frames) and meta["metres_per_unit"] > 0
    # Frames are written once, however many clips share them.
    keys = [s["__key__"] for s in iter_samples(str(out / "a.frames.tar"))]
    assert sorted(keys) == sorted({f"{f:06d}{'m' * c.mirror}" for c in clips for f in c.frames})


def test_finished_scenes_are_reused(table: FrameTable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = write_targets(table, out, clips=CLIPS, teacher=TEACHER, split="train")
    calm = files_of(out)
    again = write_targets(table, out, clips=CLIPS, teacher=TEACHER, split="train")
    assert (first.reused, again.reused) == (0, 2) and files_of(out) == calm
    (out / "a.clips.tar").unlink()
    (out / ".b.clips.tar.0123.tmp").write_bytes(b"left by a killed run")
    mended = write_targets(table, out, clips=CLIPS, teacher=TEACHER, split="train")
    assert mended.reused == 1 and files_of(out) == calm
    other = replace(TEACHER, seed=1)
    changed = write_targets(table, out, clips=CLIPS, teacher=other, split="train")
    assert changed.reused == 0 and changed.target_hash != first.target_hash


def test_another_dataset_name_is_another_key(tmp_path: Path) -> None:
    """The same pixels and the same scene name, in another dataset: nothing may be re-used."""
    folder = make_frames(tmp_path / "frames", {"a": 9})
    write_targets(FrameTable(folder), tmp_path / "out", clips=CLIPS, teacher=TEACHER, split="train")
    rows = pq.read_table(f"{folder}/manifest.parquet")
    renamed = pa.array(["other"] * rows.num_rows)
    place = rows.schema.get_field_index("dataset")
    pq.write_table(rows.set_column(place, "dataset", renamed), f"{folder}/manifest.parquet")
    again = write_targets(
        FrameTable(folder), tmp_path / "out", clips=CLIPS, teacher=TEACHER, split="train"
    )
    assert again.reused == 0
    assert {clip.dataset for clip in CachedTargets(tmp_path / "out").clips} == {"other"}


def test_workers_give_the_same_bytes(table: FrameTable, tmp_path: Path) -> None:
    for workers in (1, 2):
        write_targets(
            table, tmp_path / f"{workers}", clips=CLIPS, teacher=TEACHER, split="train",
            workers=workers,
        )  # fmt: skip
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_linguistic_tokens_share_the_frames_payload(table: FrameTable, tmp_path: Path) -> None:
    spec = replace(TEACHER, linguistic="clip", linguistic_width=20)
    out, teacher = tmp_path / "out", ColourWaves(20)
    write_targets(table, out, clips=CLIPS, teacher=spec, split="train", linguistic=teacher)
    plain = tmp_path / "plain"
    write_targets(table, plain, clips=CLIPS, teacher=TEACHER, split="train")
    assert set(files_of(out)) == set(files_of(plain))
    pairs = [list(iter_samples(str(folder / "a.frames.tar"))) for folder in (out, plain)]
    for ours, theirs in zip(*pairs, strict=True):
        assert ours["__key__"] == theirs["__key__"]
        both, one = (safetensors.torch.load(s[schema.SEM_PART]) for s in (ours, theirs))
        assert set(both) == {"sem", "lang"} and both["lang"].shape == (12, 20)
        assert set(one) == {"sem"} and (one["sem"] == both["sem"]).all()
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["references"]["linguistic"] == teacher.reference()
    # Another teacher of the same spec is another key; a place that moved is not.
    moved = replace(spec, linguistic_uri="elsewhere")
    for expected, one in ((2, teacher), (0, ColourWaves(20, seed=5))):
        done = write_targets(table, out, clips=CLIPS, teacher=moved, split="train", linguistic=one)
        assert done.reused == expected


def test_without_semantics(table: FrameTable, tmp_path: Path) -> None:
    plain = replace(TEACHER, semantic="none")
    write_targets(table, tmp_path / "out", clips=CLIPS, teacher=plain, split="train")
    assert not list((tmp_path / "out").glob("*semantic*")) + list(
        (tmp_path / "out").glob("*frames*")
    )
    cached = CachedTargets(tmp_path / "out")
    assert set(cached.stats) == {"geo_mean", "geo_std", "depth_mean", "depth_std"}
    assert cached.load(cached.clips[:1]).sem_BVND is None


def test_nothing_to_write_is_an_error(table: FrameTable, tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="none of 0 scenes of split 'val'"):
        write_targets(table, tmp_path, clips=CLIPS, teacher=TEACHER, split="val")
    long = replace(CLIPS, view_counts=(12,))
    with pytest.raises(SceneError, match=r"none of 3 scenes .* needs at least 12"):
        write_targets(table, tmp_path, clips=long, teacher=TEACHER, split="train")


def test_another_precision_is_another_key_but_the_same_teacher(
    table: FrameTable, tmp_path: Path
) -> None:
    exact, fast = RgbdTeacher(TEACHER), RgbdTeacher(TEACHER)
    fast.precision = "bfloat16"
    reused = []
    for teacher in (exact, fast, fast):
        done = write_targets(
            table, tmp_path, clips=CLIPS, teacher=TEACHER, split="train", geometric=teacher
        )
        reused.append(done.reused)
    assert reused == [0, 0, 2] and fast.reference() == exact.reference()


def test_where_weights_lie_is_not_in_the_key(table: FrameTable, tmp_path: Path) -> None:
    write_targets(table, tmp_path, clips=CLIPS, teacher=TEACHER, split="train")
    moved = replace(TEACHER, geometric_uri="elsewhere", semantic_uri="elsewhere")
    again = write_targets(table, tmp_path, clips=CLIPS, teacher=moved, split="train")
    assert again.reused == again.scenes
    assert CachedTargets(tmp_path).manifest["teacher"]["geometric_uri"] == "elsewhere"


class _Blind(RgbdTeacher):
    """Sees nothing in the last view: a field of view of 0."""

    def answer(self, stats, views: ClipViews, *, heads="all") -> GeometricTargets:
        targets = super().answer(stats, views, heads=heads)
        K_BV33 = targets.K_BV33.clone()
        K_BV33[:, -1, 0, 0] = float("inf")
        return replace(targets, K_BV33=K_BV33)


def test_cameras_that_are_not_finite_are_refused(table: FrameTable, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"clip a-\S+: .*camera of view [34] .*not finite"):
        write_targets(
            table, tmp_path, clips=CLIPS, teacher=TEACHER, split="train", geometric=_Blind(TEACHER)
        )
    assert not (tmp_path / "a.clips.tar").exists()


def test_data_without_split_lists_says_what_to_do(tmp_path: Path) -> None:
    table = FrameTable(make_frames(tmp_path / "frames", {"a": 9, "b": 8}, split=""))
    with pytest.raises(SceneError, match=r"no scene belongs to a split.*scannetv2_train\.txt"):
        write_targets(table, tmp_path / "out", clips=CLIPS, teacher=TEACHER, split="train")


@pytest.mark.parametrize("name", ["a.stats.safetensors", "a.clips.parquet"])
def test_a_damaged_file_of_a_finished_scene_is_named(
    table: FrameTable, tmp_path: Path, name: str
) -> None:
    """Damage at equal size is not seen at re-use, so the cure is to delete the file."""
    out = tmp_path / "out"
    write_targets(table, out, clips=CLIPS, teacher=TEACHER, split="train")
    calm = files_of(out)
    (out / name).write_bytes(b"\xff" * len(calm[name]))
    with pytest.raises(ShardError, match=rf"{name}: .*delete it and run again"):
        write_targets(table, out, clips=CLIPS, teacher=TEACHER, split="train")
    (out / name).unlink()
    assert write_targets(table, out, clips=CLIPS, teacher=TEACHER, split="train").reused == 1
    assert files_of(out) == calm


class _Overflowing(RgbdTeacher):
    """Tokens that float16 cannot hold."""

    def answer(self, stats, views: ClipViews, *, heads="all") -> GeometricTargets:
        targets = super().answer(stats, views, heads=heads)
        return replace(targets, tokens_BVND=targets.tokens_BVND * 1e6)


def test_tokens_that_do_not_fit_are_refused(table: FrameTable, tmp_path: Path) -> None:
    huge = _Overflowing(TEACHER)
    with pytest.raises(TeacherError, match=r"clip a-.*bfloat16"):
        write_targets(
            table, tmp_path / "out", clips=CLIPS, teacher=TEACHER, split="train", geometric=huge
        )
    assert not (tmp_path / "out" / "a.clips.tar").exists()


def test_a_full_disk_keeps_finished_scenes(
    table: FrameTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    calm = tmp_path / "calm"
    write_targets(table, calm, clips=CLIPS, teacher=TEACHER, split="train")
    plain = storage.atomic_write

    def full(url: str):
        if url.endswith("b.clips.tar"):
            raise OSError(28, "No space left on device")
        return plain(url)

    monkeypatch.setattr(storage, "atomic_write", full)
    with pytest.raises(ShardError, match=r"b\.clips\.tar: cannot be written \(No space"):
        write_targets(table, out, clips=CLIPS, teacher=TEACHER, split="train")
    assert (out / "a.done.json").exists() and not (out / "manifest.json").exists()
    monkeypatch.undo()
    assert write_targets(table, out, clips=CLIPS, teacher=TEACHER, split="train").reused == 1
    assert files_of(out) == files_of(calm)
