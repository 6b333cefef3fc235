"""The dry run of targets: counts, bytes and hours, and nothing written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flows import target_plan
from preprocessing import target_estimate
from preprocessing.pack import pack_targets
from preprocessing.target_estimate import (
    Pace,
    SplitEstimate,
    describe_targets,
    estimate_targets,
    measure_pace,
)
from preprocessing.targets import write_targets
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.shards import FrameTable
from spa3r.recipes import catalogue
from spa3r.teachers.vggt import VggtConfig
from spa3r.train.flops import vggt_flops
from tests.frames_maker import make_frames

CLIPS = ClipSpec(view_counts=(4, 5), gap=(1, 2), clips_per_scene=4, mirror=True)
TEACHER = TeacherSpec(
    geometric="rgbd", semantic="labels", cameras="dataset", width=80, semantic_width=48
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> FrameTable:
    scenes = {"a": 9, "b": 8, "short": 3}
    return FrameTable(make_frames(tmp_path_factory.mktemp("plan") / "frames", scenes))


def estimated(table: FrameTable, out: Path, **options) -> SplitEstimate:
    settings = {"clips": CLIPS, "teacher": TEACHER, "split": "train", "stored": "clips",
                "statistics_clips": 3} | options  # fmt: skip
    return estimate_targets(table, str(out), **settings)


def test_nothing_is_written_and_the_bytes_are_those(table: FrameTable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = estimated(table, out)
    assert not list(tmp_path.iterdir())
    assert (found.scenes, found.clips, found.dropped) == (2, 8, 1)
    assert (found.done_scenes, found.done_clips) == (0, 0)
    assert found.views == sum(n * (c + t) for (c, t, _), n in found.asked.items())
    assert sum(found.asked.values()) == 8 and found.free
    done = write_targets(table, out, clips=CLIPS, teacher=TEACHER, split="train")
    again = estimated(table, out)
    tars = {name: sum(p.stat().st_size for p in out.glob(f"*.{name}.tar")) for name in found.bytes}
    assert tars["clips"] == found.bytes["clips"] and tars["frames"] == found.bytes["frames"]
    assert sum(found.bytes.values()) < done.bytes
    assert (again.done_scenes, again.done_clips, again.bytes_left) == (2, 8, 0)
    assert again.bytes == found.bytes and not again.asked and again.asked_frames == 0
    (out / "a.clips.tar").unlink()
    assert estimated(table, out).done_scenes == 1


def test_the_packed_copy_is_left_until_it_is_written(table: FrameTable, tmp_path: Path) -> None:
    out, packed = tmp_path / "out", tmp_path / "packed"
    plain, first = (estimated(table, out, packed=folder) for folder in ("", str(packed)))
    assert first.bytes_left == plain.bytes_left + first.bytes["packed"]
    write_targets(table, out, clips=CLIPS, teacher=TEACHER, split="train")
    found = estimated(table, out, packed=str(packed))
    assert found.done_scenes == 2 and found.bytes_left == first.bytes["packed"]
    assert "none of the teachers; packing is left" in describe_targets([found], 0, None)
    pack_targets(out, packed)
    done = estimated(table, out, packed=str(packed))
    assert done.bytes_left == 0 and "none: all is done" in describe_targets([done], 0, None)
    next(out.glob("a.clips.tar")).unlink()  # where each clip lies depends on all scenes
    assert estimated(table, out, packed=str(packed)).bytes_left > first.bytes["packed"]


def test_a_scene_that_was_ingested_again_is_not_done(tmp_path: Path) -> None:
    frames, out = make_frames(tmp_path / "frames", {"a": 9, "b": 8}), tmp_path / "out"
    write_targets(FrameTable(frames), out, clips=CLIPS, teacher=TEACHER, split="train")
    facts = json.loads((frames / "manifest.json").read_text())
    facts["shards"]["a"] = "of other pictures"
    (frames / "manifest.json").write_text(json.dumps(facts))
    found = estimated(FrameTable(frames), out)
    assert (found.done_scenes, found.done_clips, sum(found.asked.values())) == (1, 4, 4)


def test_what_is_not_stored_is_not_asked(table: FrameTable, tmp_path: Path) -> None:
    every = estimated(table, tmp_path)
    frames = estimated(table, tmp_path, stored="frames")
    assert sum(frames.asked.values()) == 3 and frames.asked_frames == every.asked_frames
    assert "clips" not in frames.bytes and frames.bytes["frames"] == every.bytes["frames"]
    alone = estimated(table, tmp_path, stored="statistics")
    assert alone.asked == frames.asked and set(alone.bytes) == {"sums"}
    assert 0 < alone.asked_frames < every.asked_frames
    plain = replace(TEACHER, semantic="none")
    assert estimated(table, tmp_path, teacher=plain).asked_frames == 0


def test_the_time_says_what_it_assumes(table: FrameTable, tmp_path: Path) -> None:
    found = estimated(table, tmp_path)
    text = describe_targets(
        [found], 989 * 10**12 * 1800, Pace(device="cpu", per_view=0.5, per_frame=0.1)
    )
    assert "about 1 GPU-hours" in text
    assert "50% of 989 TFLOP/s (H100, bf16), float32 heads too" in text
    seconds = 0.5 * found.views + 0.1 * found.asked_frames
    assert f"about {seconds:.0f} s on one CPU core, measured on one clip: 500 ms a view" in text
    assert "2 scenes, 1 too short for a clip, 8 clips" in text
    assert text.endswith("nothing was written")
    small = replace(found, free=10)
    assert "(only 10 B free)" in describe_targets([small], None, None)
    done = replace(found, asked={}, asked_frames=0)
    assert "none: all is done" in describe_targets([done], 0, None)


def test_the_pace_is_measured_where_a_teacher_is_at_hand(table: FrameTable, tmp_path: Path) -> None:
    pace = measure_pace(table, CLIPS, TEACHER, "train", "cpu")
    assert isinstance(pace, Pace) and pace.per_view > 0 and pace.per_frame > 0
    absent = replace(TEACHER, geometric="vggt", geometric_uri=str(tmp_path / "no"), patch_size=14)
    why = measure_pace(table, CLIPS, absent, "train", "cpu")
    assert isinstance(why, str) and "no" in why
    assert "not measured: " in describe_targets([estimated(table, tmp_path)], 10**15, why)


def test_the_stage_counts_the_published_teachers(
    table: FrameTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path))
    monkeypatch.setattr(target_plan, "require_shards", lambda *_: table.folder)
    monkeypatch.setattr(
        target_plan, "target_splits", lambda plan: (("train", CLIPS, plan.data.stored),)
    )
    monkeypatch.setattr(target_estimate, "free_bytes", lambda _out: None)
    paper = {"teacher.cameras": "dataset", "teacher.semantic": "none", "model.semantic": False}
    text = target_plan.dry_run(recipe="paper", overrides=paper)
    grid_hw = (42 // 14, 56 // 14)
    found = estimated(table, tmp_path, teacher=catalogue.get("paper", paper).teacher)
    total = sum(
        n * vggt_flops(VggtConfig(), context_views=context, target_views=target, grid_hw=grid_hw,
                       heads="none")
        for (context, target, _), n in found.asked.items()
    )  # fmt: skip
    assert f"{total:.2g} FLOPs" in text and "not measured" not in text
    assert "8 clips" in text and "train" in text and "free)" not in text
    small = {"teacher.patch_size": 14, "model.patch_size": 14, "data.source": "packed"}
    text = target_plan.dry_run(recipe="tiny", overrides=small)
    assert "measured on one clip" in text and "FLOPs" not in text
    assert ", packed " in text
    assert not list(tmp_path.iterdir())
