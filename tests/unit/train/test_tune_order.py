"""The order of tuning: every conversation once an epoch, batches of similar length in a budget."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from spa3r.errors import ConfigError
from spa3r.plain import override
from spa3r.train.tune import settled_config
from spa3r.train.tune_order import LengthOrder
from spa3r.tune_config import TuneConfig

LENGTHS = np.random.default_rng(3).integers(20, 400, 700)
BUDGET = 1000


def order(seed: int = 0, lengths: np.ndarray = LENGTHS) -> LengthOrder:
    return LengthOrder(lambda epoch: np.arange(len(lengths)), lengths, BUDGET, seed)


def epochs(found: LengthOrder, count: int) -> list[list[tuple[int, ...]]]:
    starts = [0, *(found.batches_in(n) for n in range(1, count + 1))]
    return [[found.batch(i) for i in range(*ends)] for ends in pairwise(starts)]


def test_every_conversation_comes_once_an_epoch_within_the_budget() -> None:
    for batches in epochs(order(), 3):
        assert sorted(row for batch in batches for row in batch) == list(range(len(LENGTHS)))
        assert all(len(batch) * LENGTHS[list(batch)].max() <= BUDGET for batch in batches)


def test_batches_hold_conversations_of_similar_length() -> None:
    (batches,) = epochs(order(), 1)
    padded = sum(len(batch) * LENGTHS[list(batch)].max() for batch in batches)
    assert LENGTHS.sum() > 0.95 * padded
    longest = [LENGTHS[list(batch)].max() for batch in batches]
    assert longest != sorted(longest), "long and short ones take turns"


def test_the_order_depends_on_number_and_seed_alone() -> None:
    ahead, again = order(), order()
    assert again.batch(900) == ahead.batch(900), "asked for at random"
    assert [again.batch(i) for i in range(30)] == [ahead.batch(i) for i in range(30)]
    one, two = epochs(order(), 2)
    assert set(one) != set(two), "another epoch has other batches"
    assert [order(seed=1).batch(i) for i in range(30)] != [again.batch(i) for i in range(30)]


def test_threads_that_ask_at_once_see_the_one_order() -> None:
    """Loaders ask for the first batches at the same time, when no epoch was looked at yet."""
    rows, arrived = np.arange(len(LENGTHS)), threading.Event()

    def slow(epoch: int) -> np.ndarray:
        arrived.wait(0.02)
        return rows

    expected = order()
    for _ in range(3):
        found = LengthOrder(slow, LENGTHS, BUDGET, 0)
        with ThreadPoolExecutor(4) as pool:
            batches = list(pool.map(found.batch, range(0, 800, 20)))
        assert batches == [expected.batch(i) for i in range(0, 800, 20)]


def test_epochs_may_have_other_conversations() -> None:
    """As of a set with weight one half; the second epoch has fewer batches."""
    halves = [np.arange(0, 700, 2), np.arange(1, 200, 2)]
    found = LengthOrder(lambda epoch: halves[epoch % 2], LENGTHS, BUDGET, 0)
    one, two = epochs(found, 2)
    assert sorted(row for batch in one for row in batch) == halves[0].tolist()
    assert sorted(row for batch in two for row in batch) == halves[1].tolist()
    assert found.batches_in(1.5) == len(one) + round(len(two) / 2)


def test_what_cannot_be_ordered_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"exceeds train.tokens_per_batch 1000"):
        order(lengths=np.array([3, 1001]))
    with pytest.raises(ConfigError, match="no conversation to train on"):
        order(lengths=np.array([], int))


def test_steps_and_warm_up_follow_from_epochs() -> None:
    found = order()
    batches = found.batches_in(2)
    config = settled_config(TuneConfig(epochs=2, batches_per_step=8), found)
    assert config.steps == -(-batches // 8) and config.warmup_steps == round(0.03 * config.steps)
    said = settled_config(override(config, {"steps": 40, "warmup_steps": 7}), found)
    assert (said.steps, said.warmup_steps) == (40, 7)
    assert settled_config(TuneConfig(steps=1, warmup_share=0.9), found).warmup_steps == 0
