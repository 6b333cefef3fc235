import numpy as np
import pytest

from spa3r.eval.bootstrap import paired_interval


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
