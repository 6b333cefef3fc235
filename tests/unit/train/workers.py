"""A few processes that train together: torch.distributed over gloo, without Ray.

They are forked from one that has imported torch, and stay for all tests of a session.
"""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from spa3r.train.world import World

MOST = 3
PRELOADED = [__name__, "tests.integration.train_pair", "tests.unit.train.tune_rooms"]
"""What all processes of a session are forked with: there is one server, and the first who asks
settles what it imports."""


def _work(size: int, rank: int, store: str, call: Callable[..., Any], arguments: tuple) -> Any:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    try:
        return call(World.of_group(torch.device("cpu")), *arguments)
    finally:
        distributed.destroy_process_group()


class Workers:
    """Up to MOST processes, each with a rank of its own."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._pools = [ProcessPoolExecutor(1, mp_context=context) for _ in range(MOST)]
        self._folder, self._calls = folder, 0

    def run(self, size: int, call: Callable[..., Any], *arguments: Any) -> list[Any]:
        """`call(world, *arguments)` on `size` ranks; answers, or the first rank's error."""
        self._calls += 1
        store = str(self._folder / f"store{self._calls}")
        futures = [
            pool.submit(_work, size, rank, store, call, arguments)
            for rank, pool in enumerate(self._pools[:size])
        ]
        return [future.result(timeout=120) for future in futures]

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown()
