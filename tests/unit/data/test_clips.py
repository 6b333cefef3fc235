"""Clips: the partition, the draw, and the order of batches."""

import json
from collections import Counter
from pathlib import Path

import pytest

from spa3r.config import ClipSpec
from spa3r.data.clips import Clip, draw_clips, num_context
from spa3r.data.order import BatchOrder
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
