"""How fast a run goes, what it waits for, and how much memory it takes."""

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch

from spa3r.train.world import World

_GIB: Final = 2**30


class Throughput:
    """Counts over a window of steps, of one worker until they are read."""

    def __init__(self, world: World, *, teachers: bool, peak: float | None) -> None:
        """
        Args:
            teachers: whether there are teachers in the loop, to be timed apart.
            peak: FLOP/s of one device; None: unknown.
        """
        self._world, self._teachers, self._peak = world, teachers, peak
        self._reset()

    def _reset(self) -> None:
        self._counts: Counter[str] = Counter()
        self._flops = 0
        self._waited = self._paused = 0.0
        self._taught = _Stopwatch(self._world.device)
        self._since = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the block as time spent waiting for data."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the block: it is not training."""
        begin = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begin

    @contextmanager
    def teaching(self) -> Iterator[None]:
        """Counts the block as work of the teachers, on a GPU by its own clock."""
        self._taught.start()
        yield
        self._taught.stop()

    def add(self, counts: Mapping[str, int], flops: int) -> None:
        """Counts one micro-batch.

        Args:
            counts: what is read as "<name>_per_second"; the same names in every call and rank.
            flops: of the model's forward and backward.
        """
        self._counts.update(counts)
        self._flops += flops

    def read(self) -> dict[str, float]:
        """The window's meters over all ranks; begins a new one. Every rank must call."""
        taught = self._taught.seconds() if self._teachers else 0.0
        elapsed = time.perf_counter() - self._since - self._paused
        mine = [self._flops, self._waited, taught, elapsed, *self._counts.values()]
        ranks_WN = torch.stack(
            self._world.gather(
                torch.tensor([_memory(self._world.device), *mine], dtype=torch.float64)
            )
        )
        flops, waited, taught, seconds, *counts = ranks_WN[:, 1:].sum(0).tolist()
        wall = seconds / self._world.size
        names = [f"{name}_per_second" for name in self._counts]
        line = {
            **{name: count / wall for name, count in zip(names, counts, strict=True)},
            "data_wait_share": waited / seconds,
            "memory_gib": ranks_WN[:, 0].max().item() / _GIB,
        }
        if self._teachers:
            line["teacher_share"] = taught / seconds
        if self._peak is not None:
            line["peak_share"] = flops / (seconds * self._peak)
        self._reset()
        return line


class _Stopwatch:
    """Seconds between starts and stops, on a GPU as its stream sees them: no start waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._laps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._begin = self._seconds = 0.0

    def start(self) -> None:
        if self._cuda:
            events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._laps.append((events[0], events[1]))
            events[0].record()
        self._begin = time.perf_counter()

    def stop(self) -> None:
        if self._cuda:
            self._laps[-1][1].record()
        else:
            self._seconds += time.perf_counter() - self._begin

    def seconds(self) -> float:
        """Waits for the device."""
        if self._cuda and self._laps:
            self._laps[-1][1].synchronize()
            return sum(begin.elapsed_time(end) for begin, end in self._laps) / 1000
        return self._seconds


def _memory(device: torch.device) -> int:
    """Most bytes taken so far: by tensors on a GPU, by this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
