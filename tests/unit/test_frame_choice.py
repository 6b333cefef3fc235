"""Few of many frames: windows, the sharpest in them, and what sees the most, against an oracle."""

from collections.abc import Sequence

import numpy as np
import pytest

from spa3r import frame_choice
from spa3r.frame_choice import MAX_POINTS, cover, coverage, seen_voxels, sharpest, uniform
from tests.frames_maker import SIDES, pose, render

RNG = np.random.default_rng(0)

# --- uniform and sharpest -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "target", "expected"),
    [
        (0, 3, []),
        (1, 1, [0]),
        (3, 5, [0, 1, 2]),
        (10, 1, [0]),
        (10, 2, [0, 9]),
        (10, 4, [0, 3, 6, 9]),
        (9, 4, [0, 3, 5, 8]),
        (300, 8, [0, 43, 85, 128, 171, 214, 256, 299]),
    ],
)
def test_uniform_is_how_language_models_sample_videos(count, target, expected):
    assert uniform(count, target).tolist() == expected


def test_uniform_never_takes_a_frame_twice():
    for count in range(1, 60):
        for target in range(1, 70):
            chosen = uniform(count, target)
            assert len(chosen) == min(count, target) and (np.diff(chosen) > 0).all()
            assert chosen[0] == 0 and (target == 1 or chosen[-1] == count - 1)


def test_each_window_gives_its_sharpest():
    scores = np.array([1.0, 5, 2, 2, 9, 8, 7])  # windows [0, 2), [2, 4), [4, 7)
    assert sharpest(scores, 3).tolist() == [1, 2, 4]
    assert sharpest(scores, 1).tolist() == [4]
    assert sharpest(scores, 7).tolist() == sharpest(scores, 9).tolist() == list(range(7))
    assert sharpest(np.array([]), 2).tolist() == []


def test_unusable_frames_are_taken_only_where_the_whole_window_is():
    scores = np.array([-np.inf, 0.0, -np.inf, -np.inf, 3.0, -np.inf])
    assert sharpest(scores, 3).tolist() == [1, 2, 4]


def test_a_sharpness_that_is_no_number_is_a_mistake_of_the_caller():
    with pytest.raises(AssertionError, match="NaN"):
        sharpest(np.array([1.0, np.nan]), 1)


# --- coverage -------------------------------------------------------------------------------------


def oracle(seen: Sequence[np.ndarray], target: int) -> list[int]:
    """The same choice in the plainest way: every gain counted every time."""
    left, covered, chosen = list(range(len(seen))), set(), []
    while left and len(chosen) < target:
        gains = [len(set(seen[i].tolist()) - covered) for i in left]
        if max(gains) == 0:
            break
        best = left.pop(gains.index(max(gains)))
        covered |= set(seen[best].tolist())
        chosen.append(best)
    if left and len(chosen) < target:
        chosen += [left[i] for i in uniform(len(left), target - len(chosen))]
    return sorted(chosen)


@pytest.mark.parametrize("seed", range(40))
def test_the_lazy_choice_is_the_greedy_one(seed: int):
    """Few voxels and frames of few: many ties, and gains that reach zero."""
    rng = np.random.default_rng(seed)
    frames, voxels = rng.integers(1, 40), rng.integers(1, 60)
    spread = int(rng.integers(1, 20))
    seen = [
        np.unique(rng.integers(0, voxels, rng.integers(0, spread))).astype(np.int64) << 20
        for _ in range(frames)
    ]
    for target in (1, 2, 5, frames, frames + 3):
        found = cover(seen, int(target))
        assert found.tolist() == oracle(seen, int(target))
        assert len(found) == min(frames, target) and (np.diff(found) > 0).all()


def test_no_choice_of_one_frame_more_could_add_more():
    """By hand: 0 sees four; then 3 adds three, although 1 sees as many as 0."""
    seen = [np.array(ids) for ids in ([1, 2, 3, 4], [1, 2, 3, 5], [4, 5], [6, 7, 8])]
    assert cover(seen, 1).tolist() == [0]
    assert cover(seen, 2).tolist() == [0, 3]
    assert cover(seen, 3).tolist() == [0, 1, 3]


def test_what_adds_nothing_is_spread_over_the_frames_left():
    seen = [np.array([1, 2])] + [np.array([1])] * 9
    assert cover(seen, 4).tolist() == [0, 1, 5, 9]
    assert cover([np.array([], np.int64)] * 5, 3).tolist() == [0, 2, 4]


def test_the_order_of_the_frames_does_not_matter_where_none_are_equal():
    seen = [RNG.choice(4000, 300 + 7 * i, replace=False) for i in range(30)]
    chosen = {frozenset(seen[i].tolist()) for i in cover(seen, 9)}
    order = RNG.permutation(30)
    shuffled = [seen[i] for i in order]
    assert {frozenset(shuffled[i].tolist()) for i in cover(shuffled, 9)} == chosen
    assert cover(seen, 9).tolist() == cover(seen, 9).tolist()


def test_voxels_lie_where_the_points_do():
    """A wall at z = 2 m seen through a known K, moved by the pose: cells counted by hand."""
    K = np.array([[4.0, 0, 2], [0, 4, 1], [0, 0, 1]])
    depth = np.full((2, 4), 2.0)
    depth[1, 3] = 0  # not measured
    world_from_camera = np.eye(4)
    world_from_camera[:3, 3] = (0, 0, 100)
    cells = {(i, j, 204) for i in (-2, -1, 0, 1) for j in (-1, 0)} - {(1, 0, 204)}
    half = 1 << 20
    ids = sorted(((i + half) << 42) | ((j + half) << 21) | (k + half) for i, j, k in cells)
    found = seen_voxels(world_from_camera, K, depth, voxel_m=0.5)
    assert found.dtype == np.int64 and found.tolist() == ids


def test_coverage_looks_at_new_places_first():
    """Nine frames of one corner and one of the opposite: the odd one is among the first two."""
    poses = [pose(0, 0) for _ in range(10)]
    turn = np.diag([-1.0, 1, -1, 1])
    poses[6] = poses[6] @ turn
    views = [render(one, (32, 24)) for one in poses]
    arrays = (np.stack(poses), np.stack([v[3] for v in views]))
    depth = np.stack([v[1] for v in views]) / 1000
    assert 6 in coverage(*arrays, depth, 2)
    assert len(coverage(*arrays, depth, 5)) == 5
    everything = set(seen_voxels(poses[0], views[0][3], depth[0]).tolist())
    centres = (np.array([[i >> 42, (i >> 21) & 0x1FFFFF, i & 0x1FFFFF] for i in everything])
               - (1 << 20) + 0.5) * frame_choice.VOXEL_M  # fmt: skip
    assert (centres > -0.2).all() and (centres < SIDES + 0.2).all()


@pytest.mark.parametrize(
    ("translation", "value", "focal"),
    [(1e300, 1.0, 20.0), (np.nan, 1.0, 20.0), (0.0, np.inf, 20.0), (0.0, np.nan, 20.0),
     (0.0, 1e300, 20.0), (0.0, 1.0, 0.0), (0.0, 1.0, 1e-320), (-np.inf, 1.0, 20.0)],
)  # fmt: skip
def test_wild_numbers_neither_fail_nor_warn(translation: float, value: float, focal: float):
    world_from_camera = np.eye(4)
    world_from_camera[0, 3] = translation
    K = np.array([[focal, 0, 2], [0, focal, 2], [0, 0, 1]])
    with np.errstate(all="raise"):
        found = seen_voxels(world_from_camera, K, np.full((4, 4), value))
    assert (found >= 0).all() and len(found) <= 16
    if not np.isfinite(value):
        assert len(found) == 0


def test_large_depth_maps_are_thinned():
    depth = RNG.uniform(1, 400, (120, 160))
    K = np.array([[100.0, 0, 80], [0, 100, 60], [0, 0, 1]])
    assert MAX_POINTS / 2 < len(seen_voxels(np.eye(4), K, depth)) <= MAX_POINTS


def test_few_gains_are_counted_again(monkeypatch: pytest.MonkeyPatch):
    """Of five thousand frames on a walk: the plain way counts 300 times all that are left."""
    centres = np.cumsum(RNG.normal(0, 20, 5000)).astype(np.int64)
    seen = [np.unique(c + RNG.integers(0, 3000, 400)) for c in centres]
    count, counted = np.count_nonzero, []
    monkeypatch.setattr(np, "count_nonzero", lambda a: counted.append(1) or count(a))
    assert len(cover(seen, 300)) == 300
    assert 300 <= len(counted) < 0.1 * 300 * 5000


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(AssertionError, match="world_from_camera_F44"):
        coverage(np.zeros((2, 4, 4)), np.zeros((3, 3, 3)), np.zeros((3, 4, 4)), 1)
    with pytest.raises(AssertionError, match="K_F33"):
        coverage(np.zeros((3, 4, 4)), np.zeros((3, 3)), np.zeros((3, 4, 4)), 1)
