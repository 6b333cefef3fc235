"""Clips: the partition, the draw, and the order of batches."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from spa3r.config import ClipSpec
from spa3r.data.clips import Clip, draw_clips, num_context
from spa3r.data.order import BatchOrder, Curriculum
from spa3r.errors import ConfigError, SceneError

SPEC = ClipSpec(view_counts=(4, 6, 8), gap=(1, 3), clips_per_scene=20, mirror=True)
FRAMES = tuple(range(0, 60, 2))


def test_context_counts_of_the_paper(shared: Path) -> None:
    """The published table, where the released code does not wrap around (surprises.json)."""
    checked = 0
    for path in sorted((shared / "golden").glob("spa3r_*.json")):
        table = json.loads(path.read_text()).get("measured", {}).get("context_views_by_n_views", {})
        for ratio, counts in table.items():
            for views, context in counts.items():
                if int(int(views) * (1 - float(ratio))) >= 1:
                    assert num_context(int(views), float(ratio)) == context, (ratio, views)
                    checked += 1
    if not checked:
        pytest.skip("no table of context counts in the reference material")


def test_clips_are_what_the_spec_says() -> None:
    clips = draw_clips("box", "a", FRAMES, SPEC)
    assert len(clips) == 20 == len({clip.id for clip in clips})
    for clip in clips:
        assert clip.num_views in SPEC.view_counts
        assert clip.num_context == num_context(clip.num_views, 0.5)
        assert not clip.is_target[0]
        steps = [(b - a) // 2 for a, b in zip(clip.frames, clip.frames[1:], strict=False)]
        assert all(1 <= step <= 3 for step in steps)
        assert set(clip.frames) <= set(FRAMES)
    assert {clip.mirror for clip in clips} == {True, False}
    assert {clip.num_views for clip in clips} == {4, 6, 8}


def test_the_draw_depends_on_its_scene_alone() -> None:
    assert draw_clips("box", "a", FRAMES, SPEC) == draw_clips("box", "a", FRAMES, SPEC)
    others = [draw_clips("box", "b", FRAMES, SPEC), draw_clips("pit", "a", FRAMES, SPEC)]
    views = [[c.frames for c in clips] for clips in (draw_clips("box", "a", FRAMES, SPEC), *others)]
    assert views[0] != views[1] and views[0] != views[2]


def _digest(clips: Iterable[Clip]) -> str:
    return hashlib.sha256(" ".join(clip.id for clip in clips).encode()).hexdigest()[:16]


def test_the_draw_and_the_order_of_today_stay() -> None:
    """Ids as they were before there were schedules: stored targets must keep fitting."""
    clips = _clips()
    assert clips[0].id == "a-c24d920fe12d" and _digest(clips) == "cdae1a913f5a9beb"
    order = BatchOrder(clips, views_per_batch=16, seed=3)
    single = Curriculum(clips, 16, seed=3, stages=(0.25,), total=50)
    for each in (order, single):  # one stage takes every clip, whatever its partition
        assert _digest(c for i in range(100) for c in each.batch(i)) == "074a2ff743910126"


def test_short_scenes() -> None:
    clips = draw_clips("box", "a", FRAMES[:4], SPEC)
    assert {clip.frames for clip in clips} == {FRAMES[:4]}
    # 3 partitions with view 0 in the context, plain and mirrored.
    assert len(clips) == 6
    with pytest.raises(SceneError, match="scene a: 3 usable frames, but a clip needs at least 4"):
        draw_clips("box", "a", FRAMES[:3], SPEC)


def _clips() -> list[Clip]:
    return [c for scene in "abc" for c in draw_clips("box", scene, FRAMES, SPEC)]


def test_every_clip_once_an_epoch() -> None:
    clips = _clips()
    order = BatchOrder(clips, views_per_batch=16, seed=3)
    for epoch in range(3):
        first = epoch * order.batches_per_epoch
        batches = [order.batch(first + i) for i in range(order.batches_per_epoch)]
        assert Counter(c.id for b in batches for c in b) == Counter(c.id for c in clips)
        for batch in batches:
            assert len({clip.num_views for clip in batch}) == 1
            assert sum(clip.num_views for clip in batch) <= 16


def test_order_is_a_function_of_the_index() -> None:
    clips = _clips()
    order = BatchOrder(clips, views_per_batch=16, seed=3)
    total = 3 * order.batches_per_epoch
    forward = [order.batch(i) for i in range(total)]
    fresh = BatchOrder(clips, views_per_batch=16, seed=3)
    assert [fresh.batch(i) for i in reversed(range(total))] == forward[::-1]
    epoch = order.batches_per_epoch
    assert forward[:epoch] != forward[epoch : 2 * epoch]
    assert [BatchOrder(clips, 16, seed=4).batch(i) for i in range(epoch)] != forward[:epoch]


def test_orders_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="no clips"):
        BatchOrder([], 24, seed=0)
    with pytest.raises(ConfigError, match="8 views exceeds the budget of 7"):
        BatchOrder(_clips(), 7, seed=0)


# --- the mask schedule ----------------------------------------------------------------------------

STAGES = (0.25, 0.5, 0.75)
SCHEDULED = replace(SPEC, mask_schedule=STAGES)


def _scheduled() -> list[Clip]:
    return [c for scene in "abc" for c in draw_clips("box", scene, FRAMES, SCHEDULED)]


def _stage_of(index: int, total: int) -> int:
    """The slow way: which third of the training the batch begins in."""
    return next(stage for stage in (2, 1, 0) if 3 * index >= stage * total)


def _fitting(clips: list[Clip], stage: int) -> list[str]:
    """Ids of the clips with the stage's number of context views, counted by hand."""
    wanted = {4: (3, 2, 1), 6: (4, 3, 1), 8: (6, 4, 2)}
    return [clip.id for clip in clips if clip.num_context == wanted[clip.num_views][stage]]


def test_stages_take_turns_in_every_scene() -> None:
    for scene in "abc":
        clips = draw_clips("box", scene, FRAMES, SCHEDULED)
        assert len(clips) == 20
        for i, clip in enumerate(clips):
            assert clip.num_context == num_context(clip.num_views, STAGES[i % 3])
    short = draw_clips("box", "a", FRAMES[:4], SCHEDULED)
    assert {clip.num_context for clip in short} == {1, 2, 3}


@pytest.mark.parametrize("total", [90, 91, 92, 200])
def test_batches_of_a_schedule_against_the_oracle(total: int) -> None:
    clips = _scheduled()
    order = Curriculum(clips, 16, seed=3, stages=STAGES, total=total)
    seen: dict[int, list[str]] = {0: [], 1: [], 2: []}
    counts = Counter()
    for index in range(total):
        batch = order.batch(index)
        stage = _stage_of(index, total)
        assert {clip.id for clip in batch} <= set(_fitting(clips, stage))
        assert len({(clip.num_views, clip.num_context) for clip in batch}) == 1
        assert sum(clip.num_views for clip in batch) <= 16
        seen[stage] += [clip.id for clip in batch]
        counts[stage] += 1
    assert max(counts.values()) - min(counts.values()) <= 1
    for stage, ids in seen.items():  # whole epochs from the stage's first batch on
        fitting = _fitting(clips, stage)
        whole = len(ids) // len(fitting)
        assert whole >= 1
        for epoch in range(whole):
            part = ids[epoch * len(fitting) : (epoch + 1) * len(fitting)]
            assert Counter(part) == Counter(fitting)


def test_ratios_over_time_are_those_of_the_schedule() -> None:
    falling = Curriculum(_scheduled(), 16, seed=0, stages=STAGES[::-1], total=60)
    shares = []
    for index in range(60):
        batch = falling.batch(index)
        shares.append(sum(sum(c.is_target) for c in batch) / sum(c.num_views for c in batch))
    # int(n (1 - r)) rounds the context down, so a share may lie above its ratio, by under 1 / n.
    for stage, ratio in enumerate(STAGES[::-1]):
        part = shares[20 * stage : 20 * (stage + 1)]
        assert all(ratio <= share < ratio + 1 / 4 for share in part)
    assert [min(shares[i : i + 20]) for i in (0, 20, 40)] == sorted(STAGES, reverse=True)


def test_a_schedule_that_is_resumed_gives_the_same_batches() -> None:
    clips = _scheduled()
    order = Curriculum(clips, 16, seed=3, stages=STAGES, total=60)
    forward = [order.batch(i) for i in range(60)]
    resumed = Curriculum(clips, 16, seed=3, stages=STAGES, total=60)
    assert [resumed.batch(i) for i in range(33, 60)] == forward[33:]
    assert [resumed.batch(i) for i in reversed(range(60))] == forward[::-1]
    # Two workers of half as many steps share the same batches.
    assert [resumed.batch(2 * i + r) for i in range(30) for r in (0, 1)] == forward
    assert resumed.batch(61) in [order.batch(i) for i in range(40, 90)]  # past the end: last stage


def test_a_repeated_ratio_does_not_repeat_its_order() -> None:
    order = Curriculum(_clips(), 16, seed=3, stages=(0.5, 0.5), total=40)
    assert [order.batch(i) for i in range(20)] != [order.batch(i) for i in range(20, 40)]


def test_targets_drawn_without_the_schedule_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no clip for stage 1 .* ratio 0\.25.*spa3r targets"):
        Curriculum(_clips(), 16, seed=3, stages=(0.25, 0.5), total=10)
    with pytest.raises(ConfigError, match=r"3 mask ratios .* clips_per_scene 2"):
        replace(SCHEDULED, clips_per_scene=2)
