"""The order of the training data: a pure function of (clips, budget, seed, batch number).

Nothing is remembered between batches, so a resumed run, another worker count or random access see
the same sequence. With W workers and A accumulation steps, worker r takes the batch numbers
`step * W * A + micro * W + r`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from spa3r.data.clips import Clip
from spa3r.errors import ConfigError


class BatchOrder:
    """Epochs of batches of clips that agree in view and context count.

    In each epoch every clip comes exactly once: the clips of each view count are permuted and cut
    into batches of views_per_batch // n clips (the last may be smaller), then the batches of all
    view counts are permuted.

    Raises:
        ConfigError: no clips, or a clip with more views than views_per_batch.
    """

    def __init__(self, clips: Sequence[Clip], views_per_batch: int, seed: int) -> None:
        if not clips:
            raise ConfigError("no clips to train on; check the targets' manifest")
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, clip in enumerate(clips):
            groups[clip.num_views, clip.num_context].append(position)
        if (most := max(groups)[0]) > views_per_batch:
            raise ConfigError(
                f"a clip of {most} views exceeds the budget of {views_per_batch} views a batch"
            )
        self._clips, self._seed = tuple(clips), seed
        self._groups = [(views_per_batch // n, groups[n, c]) for n, c in sorted(groups)]
        self.batches_per_epoch = sum(-(-len(group) // size) for size, group in self._groups)
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def batch(self, index: int) -> tuple[Clip, ...]:
        """Clips of the batch with this number, counted from 0 over all epochs and workers."""
        epoch, position = divmod(index, self.batches_per_epoch)
        return tuple(self._clips[c] for c in self._epoch(epoch)[position])

    def _draw_epoch(self, epoch: int) -> list[list[int]]:
        digest = hashlib.sha256(f"{self._seed}/{epoch}".encode()).digest()
        rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
        batches: list[list[int]] = []
        for size, group in self._groups:
            shuffled = rng.permutation(group).tolist()
            batches += [shuffled[i : i + size] for i in range(0, len(shuffled), size)]
        return [batches[i] for i in rng.permutation(len(batches))]
