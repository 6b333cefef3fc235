import math
from functools import cache

import numpy as np
import pytest

from spa3r.eval.bootstrap import RESAMPLES, Interval, expanded_tail, paired_interval


def test_a_constant_difference_has_no_width() -> None:
    interval = paired_interval([0.5, 0.7, 0.9], [0.25, 0.45, 0.65])
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_interval_matches_the_normal_one_on_many_scenes() -> None:
    difference = np.random.default_rng(1).normal(0.2, 0.1, 400)
    interval = paired_interval(list(difference), [0.0] * 400)
    half = 1.96 * difference.std() / 20
    assert interval.low == pytest.approx(difference.mean() - half, abs=0.001)
    assert interval.high == pytest.approx(difference.mean() + half, abs=0.001)


def test_pairing_removes_what_scenes_share() -> None:
    rng = np.random.default_rng(2)
    hardness = rng.normal(0, 1, 12)
    interval = paired_interval(list(hardness + 0.1), list(hardness + rng.normal(0, 0.01, 12)))
    assert 0.08 < interval.low < interval.high < 0.12


def test_the_seed_decides() -> None:
    ours, zeros = list(np.random.default_rng(0).random(30)), [0.0] * 30
    assert paired_interval(ours, zeros, seed=3) == paired_interval(ours, zeros, seed=3)
    assert paired_interval(ours, zeros, seed=3) != paired_interval(ours, zeros, seed=4)


def test_unpaired_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="paired"):
        paired_interval([1.0], [])


def test_one_scene_bounds_nothing() -> None:
    assert paired_interval([0.5], [0.25]) == Interval(mean=0.25, low=-math.inf, high=math.inf)


@cache
def null_means(scenes: int) -> np.ndarray:
    """Resampled means of 2000 experiments in which nothing is better than anything."""
    rng = np.random.default_rng(5)
    weights_RS = rng.multinomial(scenes, [1 / scenes] * scenes, 1500) / scenes
    return weights_RS @ rng.normal(size=(scenes, 2000))


@pytest.mark.parametrize("scenes", [8, 16])
def test_few_scenes_do_not_pass_more_often_than_they_may(scenes: int) -> None:
    tail = expanded_tail(scenes)
    low, high = np.quantile(null_means(scenes), (tail, 1 - tail), axis=0)
    assert 0.01 < (low > 0).mean() <= 0.035 and 0.01 < (high < 0).mean() <= 0.035
    plain = np.quantile(null_means(scenes), 0.025, axis=0)
    assert (plain > 0).mean() > 0.035, "this cannot fail"


def test_the_bounds_are_at_the_expanded_tail() -> None:
    difference_S = np.random.default_rng(3).normal(size=8)
    found = paired_interval(list(difference_S), [0.0] * 8)
    drawn = np.random.default_rng(1).integers(0, 8, (20 * RESAMPLES, 8))
    tail = expanded_tail(8)  # 0.00574: Phi(-sqrt(8 / 7) * 2.3646), t of 7 degrees of freedom
    assert tail == pytest.approx(0.005738, abs=1e-6)
    expected = np.quantile(difference_S[drawn].mean(axis=1), (tail, 1 - tail))
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.04)
