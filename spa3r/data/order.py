"""The order of the training data: a pure function of (clips, budget, seed, stages, batch number).

Nothing is remembered between batches, so a resumed run, another worker count or random access see
the same sequence. With W workers and A accumulation steps, worker r takes the batch numbers
`step * W * A + micro * W + r`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from spa3r.data.clips import Clip, num_context
from spa3r.errors import ConfigError


class BatchOrder:
    """Epochs of batches of clips that agree in view and context count.

    In each epoch every clip comes exactly once: the clips of each view count are permuted and cut
    into batches of views_per_batch // n clips (the last may be smaller), then the batches of all
    view counts are permuted.

    Raises:
        ConfigError: no clips, or a clip with more views than views_per_batch.
    """

    def __init__(self, clips: Sequence[Clip], views_per_batch: int, seed: int | str) -> None:
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


class Curriculum:
    """Stages of the training, each with a mask ratio and with epochs of its own.

    Of `total` batches, batch i is in stage floor(i * S / total); numbers past the end are in the
    last stage. A stage takes the clips with as many context views as its ratio gives them; a clip
    may serve several stages. With one stage every clip is taken, whatever its partition.

    Args:
        stages: mask ratios in the order of training (ClipSpec.stages).
        total: batches of the whole training, over all workers.

    Raises:
        ConfigError: a stage without clips, or as BatchOrder.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        views_per_batch: int,
        seed: int,
        *,
        stages: Sequence[float],
        total: int,
    ) -> None:
        self._total = total
        if len(stages) == 1:
            self._orders = [BatchOrder(clips, views_per_batch, seed)]
            return
        self._orders = []
        for stage, ratio in enumerate(stages):
            fitting = [c for c in clips if c.num_context == num_context(c.num_views, ratio)]
            if not fitting:
                raise ConfigError(
                    f"no clip for stage {stage + 1} of the mask schedule, ratio {ratio}: the"
                    " targets were drawn without it; run `spa3r targets` with this"
                    " clips.mask_schedule"
                )
            # Stages that share clips must not repeat each other's order.
            self._orders.append(BatchOrder(fitting, views_per_batch, f"{seed}/stage {stage}"))

    def batch(self, index: int) -> tuple[Clip, ...]:
        """Clips of the batch with this number, counted from 0 over all stages and workers."""
        num_stages = len(self._orders)
        stage = min(index * num_stages // self._total, num_stages - 1)
        first = -(-stage * self._total // num_stages)  # of this stage
        return self._orders[stage].batch(index - first)
