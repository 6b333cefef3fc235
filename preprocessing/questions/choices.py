"""Deterministic draws: the same spec, scene and family give the same candidates in one order."""

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import numpy as np

T = TypeVar("T")

MAX_JUDGED: Final = 1000
"""Candidates of one family about one scene, at most; of more a random choice is judged."""


def generator(*names: object) -> np.random.Generator:
    """Random numbers that belong to these names."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def shuffled(rng: np.random.Generator, items: Sequence[T]) -> list[T]:
    """All of them, in random order."""
    return [items[i] for i in rng.permutation(len(items))]


def ordered_choices(
    rng: np.random.Generator, items: Sequence[T], size: int
) -> Iterator[tuple[T, ...]]:
    """Different ordered choices of `size` items, in random order; MAX_JUDGED at most."""
    if math.perm(len(items), size) <= MAX_JUDGED:
        yield from shuffled(rng, list(itertools.permutations(items, size)))
        return
    drawn: set[tuple[int, ...]] = set()
    for _ in range(MAX_JUDGED):
        places = tuple(rng.choice(len(items), size, replace=False).tolist())
        if places not in drawn:
            drawn.add(places)
            yield tuple(items[i] for i in places)
