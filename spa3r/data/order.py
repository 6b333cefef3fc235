"""The order of the training data: a pure function of (clips, budget, seed, stages, batch number).

Nothing is remembered between batches, so a resumed run, another worker count, another number of
loader threads or random access see the same sequence. Step s of G micro-batches consists of the
batches s * G .. s * G + G - 1, whoever computes them.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import numpy as np

from spa3r.config import Recipe
from spa3r.data.batch import Sequential, TargetSource
from spa3r.data.clips import Clip, num_context
from spa3r.errors import ConfigError


class DataOrder(Protocol):
    """An endless sequence of batches of clips that agree in views, context and grid."""

    def batch(self, index: int) -> tuple[Clip, ...]:
        """Clips of the batch with this number, counted from 0 over all epochs and workers."""
        ...


class BatchOrder:
    """Epochs of batches of clips that agree in view count, context count and grid.

    In each epoch every clip comes exactly once: the clips of each group are permuted and cut into
    batches of views_per_batch // n clips (the last may be smaller), then the batches of all groups
    are permuted.

    Args:
        grid_hw: rows and columns of patches of a clip's views (TargetSource.grid_hw).

    Raises:
        ConfigError: no clips, or a clip with more views than views_per_batch.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        views_per_batch: int,
        seed: int | str,
        grid_hw: Callable[[Clip], tuple[int, int]],
    ) -> None:
        groups: dict[tuple[int, int, tuple[int, int]], list[int]] = defaultdict(list)
        for position, clip in enumerate(clips):
            groups[clip.num_views, clip.num_context, grid_hw(clip)].append(position)
        _check_budget([n for n, _, _ in groups], views_per_batch)
        self._clips, self._seed = tuple(clips), seed
        self._groups = [(views_per_batch // key[0], groups[key]) for key in sorted(groups)]
        self.batches_per_epoch = sum(-(-len(group) // size) for size, group in self._groups)
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def batch(self, index: int) -> tuple[Clip, ...]:
        """See DataOrder."""
        epoch, position = divmod(index, self.batches_per_epoch)
        return tuple(self._clips[c] for c in self._epoch(epoch)[position])

    def _draw_epoch(self, epoch: int) -> list[list[int]]:
        rng = _generator(self._seed, epoch)
        batches: list[list[int]] = []
        for size, group in self._groups:
            shuffled = rng.permutation(group).tolist()
            batches += [shuffled[i : i + size] for i in range(0, len(shuffled), size)]
        return [batches[i] for i in rng.permutation(len(batches))]


class RunOrder:
    """Epochs of runs of neighbouring clips of one shard: a batch is one range of bytes.

    In each epoch every clip comes exactly once: every shard is cut into runs of views_per_batch //
    n clips, of which the first and the last are shorter, at places that differ from epoch to epoch;
    then the runs of all shards are permuted.

    Raises:
        ConfigError: no clips, or a clip with more views than views_per_batch.
    """

    def __init__(
        self, shards: Sequence[Sequence[Clip]], views_per_batch: int, seed: int | str
    ) -> None:
        self._shards = [tuple(shard) for shard in shards if shard]
        _check_budget([shard[0].num_views for shard in self._shards], views_per_batch)
        self._seed = seed
        self._sizes = [views_per_batch // shard[0].num_views for shard in self._shards]
        self.batches_per_epoch = sum(
            _num_runs(len(shard), size)
            for shard, size in zip(self._shards, self._sizes, strict=True)
        )
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def batch(self, index: int) -> tuple[Clip, ...]:
        """See DataOrder."""
        epoch, position = divmod(index, self.batches_per_epoch)
        shard, begin, end = self._epoch(epoch)[position]
        return self._shards[shard][begin:end]

    def _draw_epoch(self, epoch: int) -> list[tuple[int, int, int]]:
        """(shard, begin, end) of every run."""
        rng = _generator(self._seed, epoch)
        runs: list[tuple[int, int, int]] = []
        for number, (shard, size) in enumerate(zip(self._shards, self._sizes, strict=True)):
            cuts = _cut(len(shard), size, rng)
            runs += [(number, begin, end) for begin, end in pairwise(cuts)]
        return [runs[i] for i in rng.permutation(len(runs))]


def _num_runs(clips: int, size: int) -> int:
    """One more than fit when full, so that their borders can move: the same in every epoch."""
    return clips if size == 1 else clips // size + 1


def _cut(clips: int, size: int, rng: np.random.Generator) -> list[int]:
    """Borders of `_num_runs` runs of 1..size clips, all but the first and the last full."""
    inner = _num_runs(clips, size) - 2
    if inner < 0:
        return [0, clips]
    low, high = max(1, clips - (inner + 1) * size), min(size, clips - inner * size - 1)
    first = int(rng.integers(low, high + 1))
    return [0, *(first + i * size for i in range(inner + 1)), clips]


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
        source: TargetSource,
        views_per_batch: int,
        seed: int,
        *,
        stages: Sequence[float],
        total: int,
    ) -> None:
        self._total = total
        if len(stages) == 1:
            self._orders = [_order(source, lambda _: True, views_per_batch, seed)]
            return
        self._orders = []
        for stage, ratio in enumerate(stages):

            def fits(clip: Clip, ratio: float = ratio) -> bool:
                return clip.num_context == num_context(clip.num_views, ratio)

            if not any(fits(clip) for clip in source.clips):
                raise ConfigError(
                    f"no clip for stage {stage + 1} of the mask schedule, ratio {ratio}: the"
                    " targets were drawn without it; run `spa3r targets` with this"
                    " clips.mask_schedule"
                )
            # Stages that share clips must not repeat each other's order.
            self._orders.append(_order(source, fits, views_per_batch, f"{seed}/stage {stage}"))

    def batch(self, index: int) -> tuple[Clip, ...]:
        """See DataOrder; counted over all stages."""
        num_stages = len(self._orders)
        stage = min(index * num_stages // self._total, num_stages - 1)
        first = -(-stage * self._total // num_stages)  # of this stage
        return self._orders[stage].batch(index - first)


def build_order(source: TargetSource, recipe: Recipe) -> DataOrder:
    """The order in which a recipe trains on a source.

    Raises:
        ConfigError: as Curriculum.
    """
    train = recipe.train
    return Curriculum(
        source,
        train.views_per_batch,
        train.seed,
        stages=recipe.clips.stages,
        total=train.steps * train.batches_per_step,
    )


def _order(
    source: TargetSource, fits: Callable[[Clip], bool], views_per_batch: int, seed: int | str
) -> BatchOrder | RunOrder:
    """Of the clips that fit; of whole shards where the source has some: they hold one kind."""
    if isinstance(source, Sequential):
        shards = [shard for shard in source.shards if shard and fits(shard[0])]
        return RunOrder(shards, views_per_batch, seed)
    clips = [clip for clip in source.clips if fits(clip)]
    return BatchOrder(clips, views_per_batch, seed, source.grid_hw)


def _check_budget(view_counts: Sequence[int], views_per_batch: int) -> None:
    if not view_counts:
        raise ConfigError("no clips to train on; check the targets' manifest")
    if (most := max(view_counts)) > views_per_batch:
        raise ConfigError(
            f"a clip of {most} views exceeds the budget of {views_per_batch} views a batch"
        )


def _generator(seed: int | str, epoch: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
