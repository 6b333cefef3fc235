"""The order of tuning: batches of conversations of similar length, a pure function of the data, the
seed and the batch number, as that of pre-training (spa3r/data/order.py)."""

import hashlib
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np

from spa3r.errors import ConfigError

POOL: Final = 50
"""So many batches' worth of shuffled conversations are sorted by length together: padding is rare,
and which ones share a batch still changes from epoch to epoch."""


class LengthOrder:
    """Epochs of batches whose longest conversation times their number is within a budget.

    In each epoch every conversation that the epoch has comes exactly once: they are shuffled, each
    pool of them is sorted by length and cut into batches, then all batches are shuffled. Epochs may
    have different numbers of batches. Several threads may ask at a time.
    """

    def __init__(
        self, epoch: Callable[[int], np.ndarray], lengths_N: np.ndarray, budget: int, seed: int
    ) -> None:
        """
        Args:
            epoch: rows of `lengths_N` that an epoch (from 0) has, in any order, some perhaps twice.
            lengths_N: tokens of every conversation.
            budget: tokens of a batch at most, padding included.

        Raises:
            ConfigError: nothing to train on, or a conversation beyond the budget.
        """
        if not len(lengths_N):
            raise ConfigError("no conversation to train on; change mixture")
        if (longest := int(lengths_N.max())) > budget:
            raise ConfigError(
                f"a conversation of {longest} tokens exceeds train.tokens_per_batch {budget}"
            )
        self._rows_of, self._lengths_N = epoch, lengths_N
        self._budget, self._seed = budget, seed
        self._pool = max(1, POOL * budget // max(1, int(lengths_N.mean())))
        self._starts = [0]  # number of the first batch of each epoch that was looked at
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)
        self._alone = threading.Lock()

    def batch(self, index: int) -> tuple[int, ...]:
        """Rows of the batch with this number, counted from 0 over all epochs and workers."""
        with self._alone:
            while self._starts[-1] <= index:
                self._look_at(len(self._starts) - 1)
            epoch = int(np.searchsorted(self._starts, index, side="right")) - 1
            return self._epoch(epoch)[index - self._starts[epoch]]

    def batches_in(self, epochs: float) -> int:
        """Batches of so many epochs, at least 1; of a part of one its share."""
        whole = int(epochs)
        with self._alone:
            while len(self._starts) < whole + 2:
                self._look_at(len(self._starts) - 1)
        first, behind = self._starts[whole], self._starts[whole + 1]
        return max(1, first + round((epochs - whole) * (behind - first)))

    def _look_at(self, epoch: int) -> None:
        self._starts.append(self._starts[epoch] + len(self._epoch(epoch)))

    def _draw_epoch(self, epoch: int) -> list[tuple[int, ...]]:
        rng = _generator(f"tune/{self._seed}/{epoch}")
        shuffled_N = rng.permutation(self._rows_of(epoch))
        batches: list[tuple[int, ...]] = []
        for start in range(0, len(shuffled_N), self._pool):
            batches += self._cut(shuffled_N[start : start + self._pool])
        return [batches[i] for i in rng.permutation(len(batches))]

    def _cut(self, pool_N: np.ndarray) -> list[tuple[int, ...]]:
        """Longest first, so that the first of a batch says how many fit."""
        sorted_N = pool_N[np.argsort(-self._lengths_N[pool_N], kind="stable")]
        batches, start = [], 0
        while start < len(sorted_N):
            size = self._budget // max(1, int(self._lengths_N[sorted_N[start]]))
            batches.append(tuple(sorted_N[start : start + size].tolist()))
            start += size
        return batches


def blind_draw(share: float, seed: int, epoch: int, conversations: int) -> np.ndarray:
    """(conversations,) bool: which ones an epoch (from 0) shows without images, each with
    probability `share`."""
    return _generator(f"blind/{seed}/{epoch}").random(conversations) < share


def _generator(name: str) -> np.random.Generator:
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
