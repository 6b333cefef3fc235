"""metrics.jsonl: what a run measured, one line per log window, no step twice."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spa3r import storage
from spa3r.train.world import World


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Complete lines of a metrics file, [] where it is absent.

    A line without its newline is one that a killed or a running process has not finished.
    """
    if not path.exists():
        return []
    complete = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in complete if line.strip()]


class MetricsLog:
    """Sums over a window of steps, on the device; one reduction over the world per line."""

    def __init__(self, path: Path, world: World, *, first_step: int) -> None:
        """Cuts the file back to `first_step`: what a killed process did after its last checkpoint
        is done, and logged, again."""
        self._path, self._world = path, world
        self._reset()
        kept = [line for line in read_lines(path) if line["step"] <= first_step]
        if world.rank == 0:
            storage.write_bytes(path, "".join(_text(line) for line in kept).encode())

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = defaultdict(
            lambda: torch.zeros((), device=self._world.device)
        )
        self._batches = self._views = 0
        self._waited = 0.0
        self._since = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the block as time spent waiting for data."""
        begin = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begin

    def add(self, losses: Mapping[str, Tensor], views: int) -> None:
        """Adds one micro-batch. Never waits for the device."""
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value.detach()
        self._batches += 1
        self._views += views

    def write(self, step: int, *, lr: float, grad_norm: Tensor) -> None:
        """Closes the window: means over its micro-batches and all ranks. Every rank must call."""
        elapsed = time.perf_counter() - self._since
        host = [float(self._batches), float(self._views), self._waited, elapsed]
        sums = torch.stack([*self._sums.values(), *torch.tensor(host, device=self._world.device)])
        *losses, batches, views, waited, total_elapsed = self._world.sum(sums).tolist()
        line = {
            "step": step,
            "lr": lr,
            "grad_norm": float(grad_norm),
            "views_per_second": views / elapsed,
            "data_wait_share": waited / total_elapsed,
            **{name: x / batches for name, x in zip(self._sums, losses, strict=True)},
        }
        if self._world.rank == 0:
            with self._path.open("a") as f:
                f.write(_text(line))
        self._reset()


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, sort_keys=True) + "\n"
