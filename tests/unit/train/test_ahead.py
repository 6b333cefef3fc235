"""Reading ahead: in order, bounded, and with the caller's errors."""

import threading

import pytest

from spa3r.errors import ShardError
from spa3r.train.ahead import load_ahead


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_order_is_that_of_the_indices(threads: int) -> None:
    barrier = threading.Event()

    def fetch(index: int) -> int:
        if index % 3 == 0 and threads > 1:
            barrier.wait(0.002)  # later ones come first
        return index * index

    with load_ahead(fetch, iter(range(20)), threads) as found:
        assert list(found) == [i * i for i in range(20)]


def test_two_batches_a_thread_are_ahead_and_no_more() -> None:
    begun, enough = [], threading.Semaphore(0)

    def fetch(index: int) -> int:
        begun.append(index)
        enough.release()
        return index

    with load_ahead(fetch, range(50), 2) as found:
        for _ in range(4):
            assert enough.acquire(timeout=10), "fetched before anyone asks"
        assert sorted(begun) == [0, 1, 2, 3]
        assert next(found) == 0
        assert enough.acquire(timeout=10) and sorted(begun) == [0, 1, 2, 3, 4]
    assert threading.active_count() >= 1 and not [
        t for t in threading.enumerate() if t.name.startswith("load")
    ]


def test_in_line_nothing_is_fetched_before_it_is_asked_for() -> None:
    begun: list[int] = []
    with load_ahead(begun.append, range(9), 0) as found:
        assert begun == []
        next(found)
        assert begun == [0]


def test_an_error_comes_where_its_batch_would() -> None:
    def fetch(index: int) -> int:
        if index == 3:
            raise ShardError("a.tar: damaged")
        return index

    with (
        pytest.raises(ShardError, match=r"a\.tar"),
        load_ahead(fetch, range(9), 2) as found,
    ):
        for expected in range(4):
            assert next(found) == expected
