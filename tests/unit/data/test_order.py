"""The order of batches: a pure function of the index, whatever is read and by whom."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from spa3r.data.clips import Clip, draw_clips
from spa3r.data.order import BatchOrder, Curriculum, RunOrder, build_order
from spa3r.errors import ConfigError
from tests.box_rooms import BoxRooms, box_recipe
from tests.unit.data.test_clips import FRAMES, SPEC, digest

GRID = (3, 4)


@dataclass
class Source:
    """Clips without targets; those of scene c have another grid."""

    clips: Sequence[Clip]

    def grid_hw(self, clip: Clip) -> tuple[int, int]:
        return (4, 3) if clip.scene == "c" else GRID

    def load(self, clips: Sequence[Clip]) -> Any: ...


class Sharded(Source):
    """The same in shards of one kind of clip each."""

    def __init__(self, clips: Sequence[Clip], size: int) -> None:
        super().__init__(clips)
        kinds = sorted({(c.num_views, c.num_context) for c in clips})
        of_kind = [[c for c in clips if (c.num_views, c.num_context) == k] for k in kinds]
        self.shards = [same[i : i + size] for same in of_kind for i in range(0, len(same), size)]


def batch_order(clips: Sequence[Clip], views: int = 16, seed: int = 3) -> BatchOrder:
    return BatchOrder(clips, views, seed, lambda _: GRID)


def curriculum(
    clips: Sequence[Clip], stages: tuple[float, ...], total: int, seed: int = 3
) -> Curriculum:
    class OneGrid(Source):
        def grid_hw(self, clip: Clip) -> tuple[int, int]:
            return GRID

    return Curriculum(OneGrid(clips), 16, seed, stages=stages, total=total)


def _clips() -> list[Clip]:
    return [c for scene in "abc" for c in draw_clips("box", scene, FRAMES, SPEC)]


def test_the_order_of_today_stays() -> None:
    """As it was before there were schedules and grids: runs that go on must keep fitting."""
    clips = _clips()
    for each in (batch_order(clips), curriculum(clips, (0.25,), 50)):  # one stage takes every clip
        assert digest(c for i in range(100) for c in each.batch(i)) == "074a2ff743910126"


def test_every_clip_once_an_epoch() -> None:
    clips = _clips()
    order = batch_order(clips)
    for epoch in range(3):
        first = epoch * order.batches_per_epoch
        batches = [order.batch(first + i) for i in range(order.batches_per_epoch)]
        assert Counter(c.id for b in batches for c in b) == Counter(c.id for c in clips)
        for batch in batches:
            assert len({clip.num_views for clip in batch}) == 1
            assert sum(clip.num_views for clip in batch) <= 16


def test_order_is_a_function_of_the_index() -> None:
    clips = _clips()
    order = batch_order(clips)
    total = 3 * order.batches_per_epoch
    forward = [order.batch(i) for i in range(total)]
    fresh = batch_order(clips)
    assert [fresh.batch(i) for i in reversed(range(total))] == forward[::-1]
    epoch = order.batches_per_epoch
    assert forward[:epoch] != forward[epoch : 2 * epoch]
    assert [batch_order(clips, seed=4).batch(i) for i in range(epoch)] != forward[:epoch]


def test_orders_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="no clips"):
        batch_order([])
    with pytest.raises(ConfigError, match="8 views exceeds the budget of 7"):
        batch_order(_clips(), views=7)


def test_a_batch_has_one_grid() -> None:
    source = Source(_clips())
    order = BatchOrder(source.clips, 16, 3, source.grid_hw)
    batches = [order.batch(i) for i in range(order.batches_per_epoch)]
    assert Counter(c.id for b in batches for c in b) == Counter(c.id for c in source.clips)
    for batch in batches:
        assert len({(c.num_views, source.grid_hw(c)) for c in batch}) == 1


# --- shards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 6, 7, 30])
def test_runs_are_neighbours_and_every_clip_comes_once(size: int) -> None:
    source = Sharded(_clips(), size)
    order = RunOrder(source.shards, 16, 3)
    epochs = []
    for epoch in range(4):
        first = epoch * order.batches_per_epoch
        batches = [order.batch(first + i) for i in range(order.batches_per_epoch)]
        assert Counter(c.id for b in batches for c in b) == Counter(c.id for c in source.clips)
        for batch in batches:
            shard = next(list(s) for s in source.shards if batch[0] in s)
            begin = shard.index(batch[0])
            assert batch == tuple(shard[begin : begin + len(batch)])
            assert 0 < sum(clip.num_views for clip in batch) <= 16
        epochs.append(batches)
    assert len({tuple(map(digest, batches)) for batches in epochs}) == 4
    if size >= 6:  # their borders move, so other clips meet
        assert len({frozenset(map(digest, batches)) for batches in epochs}) > 1
    fresh = RunOrder(source.shards, 16, 3)
    last = 4 * order.batches_per_epoch - 1
    assert fresh.batch(last) == epochs[3][-1]


def test_a_schedule_takes_whole_shards() -> None:
    source = Sharded(_scheduled(), 4)
    order = Curriculum(source, 16, 3, stages=STAGES, total=60)
    for index in range(60):
        fitting = _fitting(list(source.clips), _stage_of(index, 60))
        assert {clip.id for clip in order.batch(index)} <= set(fitting)


def test_a_recipe_s_order_knows_its_steps() -> None:
    recipe = box_recipe(clips__mask_schedule=(0.25, 0.5), train__steps=10)
    recipe = replace(recipe, train=replace(recipe.train, batches_per_step=2))
    order = build_order(BoxRooms(recipe, rooms=2), recipe)
    shares = [[c.is_target.count(True) / c.num_views for c in order.batch(i)] for i in range(20)]
    assert max(max(s) for s in shares[:10]) < 0.5 <= min(min(s) for s in shares[10:])


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


@pytest.mark.parametrize("total", [90, 91, 92, 200])
def test_batches_of_a_schedule_against_the_oracle(total: int) -> None:
    clips = _scheduled()
    order = curriculum(clips, STAGES, total)
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
    falling = curriculum(_scheduled(), STAGES[::-1], 60, seed=0)
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
    order = curriculum(clips, STAGES, 60)
    forward = [order.batch(i) for i in range(60)]
    resumed = curriculum(clips, STAGES, 60)
    assert [resumed.batch(i) for i in range(33, 60)] == forward[33:]
    assert [resumed.batch(i) for i in reversed(range(60))] == forward[::-1]
    # Two workers of half as many steps share the same batches.
    assert [resumed.batch(2 * i + r) for i in range(30) for r in (0, 1)] == forward
    assert resumed.batch(61) in [order.batch(i) for i in range(40, 90)]  # past the end: last stage


def test_a_repeated_ratio_does_not_repeat_its_order() -> None:
    order = curriculum(_clips(), (0.5, 0.5), 40)
    assert [order.batch(i) for i in range(20)] != [order.batch(i) for i in range(20, 40)]


def test_targets_drawn_without_the_schedule_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no clip for stage 1 .* ratio 0\.25.*spa3r targets"):
        curriculum(_clips(), (0.25, 0.5), 10)
