"""Batches in their order, read by threads while the device computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any

from spa3r.train.objective import Pinnable


@contextmanager
def load_ahead(
    fetch: Callable[[int], Any], indices: Iterable[int], threads: int
) -> Iterator[Iterator[Any]]:
    """What `fetch` gives for each index, in order; two for each thread are under way or wait.

    Args:
        threads: 0 fetches in line, when asked.
    """
    if threads == 0:
        yield map(fetch, indices)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="load")
    numbers = iter(indices)
    under_way: deque[Future[Any]] = deque(
        pool.submit(fetch, index) for index in islice(numbers, 2 * threads)
    )

    def in_order() -> Iterator[Any]:
        while under_way:
            found = under_way.popleft().result()
            under_way.extend(pool.submit(fetch, index) for index in islice(numbers, 1))
            yield found

    try:
        yield in_order()
    finally:
        pool.shutdown(cancel_futures=True)


def pinned(fetch: Callable[[int], Any]) -> Callable[[int], Any]:
    """`fetch`, with batches put where a GPU takes them from while it computes."""

    def fetch_pinned(index: int) -> Any:
        found = fetch(index)
        return found.pin() if isinstance(found, Pinnable) else found

    return fetch_pinned
