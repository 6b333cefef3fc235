"""Clips: the partition and the draw."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from spa3r.config import ClipSpec
from spa3r.data.clips import Clip, draw_clips, num_context
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


def digest(clips: Iterable[Clip]) -> str:
    return hashlib.sha256(" ".join(clip.id for clip in clips).encode()).hexdigest()[:16]


def test_the_draw_of_today_stays() -> None:
    """Ids as they were before there were schedules: stored targets must keep fitting."""
    clips = _clips()
    assert clips[0].id == "a-c24d920fe12d" and digest(clips) == "cdae1a913f5a9beb"


def test_short_scenes() -> None:
    clips = draw_clips("box", "a", FRAMES[:4], SPEC)
    assert {clip.frames for clip in clips} == {FRAMES[:4]}
    # 3 partitions with view 0 in the context, plain and mirrored.
    assert len(clips) == 6
    with pytest.raises(SceneError, match="scene a: 3 usable frames, but a clip needs at least 4"):
        draw_clips("box", "a", FRAMES[:3], SPEC)


def _clips() -> list[Clip]:
    return [c for scene in "abc" for c in draw_clips("box", scene, FRAMES, SPEC)]


STAGES = (0.25, 0.5, 0.75)
SCHEDULED = replace(SPEC, mask_schedule=STAGES)


def test_stages_take_turns_in_every_scene() -> None:
    for scene in "abc":
        clips = draw_clips("box", scene, FRAMES, SCHEDULED)
        assert len(clips) == 20
        for i, clip in enumerate(clips):
            assert clip.num_context == num_context(clip.num_views, STAGES[i % 3])
    short = draw_clips("box", "a", FRAMES[:4], SCHEDULED)
    assert {clip.num_context for clip in short} == {1, 2, 3}


def test_more_ratios_than_clips_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 mask ratios .* clips_per_scene 2"):
        replace(SCHEDULED, clips_per_scene=2)
