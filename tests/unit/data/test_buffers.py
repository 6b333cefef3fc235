"""Memory is used again once nobody holds it, never before."""

import threading

import pytest
import torch

from spa3r.data import buffers
from spa3r.data.buffers import Buffers

PARTS = [torch.full((300, 1000), float(n)) for n in range(3)]


def test_memory_comes_back_when_nobody_holds_it() -> None:
    pool = Buffers()
    first = pool.stack(PARTS)
    assert torch.equal(first, torch.stack(PARTS))
    place, part = first.data_ptr(), first[1]
    del first
    second = pool.stack(PARTS[:2])  # a view still holds the first
    assert second.data_ptr() != place and bool((part == 1).all())
    del part, second
    assert pool.stack(PARTS).data_ptr() == place and pool.kept > 0


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "_MOST_KEPT", 10 << 20)
    pool = Buffers()
    held = [pool.take(size << 20) for size in (4, 3, 5, 2)]
    held.clear()
    assert pool.kept <= 10 << 20
    assert pool.take(1 << 20).nbytes == 1 << 20  # not in memory of twice its size


def test_threads_never_share_memory() -> None:
    pool, wrong = Buffers(), []

    def work(value: float) -> None:
        for _ in range(40):
            mine = pool.stack([torch.full((300, 1000), value)] * 2)
            if not bool((mine == value).all()):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
