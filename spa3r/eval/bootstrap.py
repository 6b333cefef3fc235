"""Paired bootstrap over scenes: the scene, not the token, is the unit that is drawn again."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
_CHUNK = 500  # resamples drawn at once: bounds memory at thousands of scenes


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """Mean of the per-scene differences and its 95 % percentile interval."""

    mean: float
    low: float
    high: float


def paired_interval(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> Interval:
    """95 % interval of mean(ours - theirs), with scenes resampled with replacement.

    Args:
        ours: one score per scene.
        theirs: the other method's score on the same scenes, in the same order.

    Raises:
        ValueError: the two differ in length or are empty.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"paired scores needed, got {len(ours)} and {len(theirs)}")
    difference_S = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    rng = np.random.Generator(np.random.PCG64(seed))
    means = [
        difference_S[rng.integers(0, len(difference_S), (_CHUNK, len(difference_S)))].mean(axis=1)
        for _ in range(RESAMPLES // _CHUNK)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Interval(mean=float(difference_S.mean()), low=float(low), high=float(high))
