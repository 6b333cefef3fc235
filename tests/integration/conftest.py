"""An S3 server for the tests that ask for `bucket`, and the gate before it."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.s3_server import Gate, make_bucket, proxy, s3_server, use_s3

_NAMES = count()


@pytest.fixture(scope="session")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
def gate(server: int) -> Iterator[Gate]:
    """What stands between the tests and the server, which answers under s3:// from now on."""
    gate = Gate()
    with proxy(server, gate) as port, use_s3(port):
        yield gate


@pytest.fixture
def bucket(gate: Gate) -> str:
    url = make_bucket(f"bucket-{next(_NAMES)}")
    gate.seen.clear()
    return url


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch):
    """Retries as configured, waits a hundredth as long."""
    from botocore.retries.standard import ExponentialBackoff

    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.005)
    monkeypatch.setattr(ExponentialBackoff, "_compute_exponential_backoff", lambda *_: 0.005,
                        raising=False)  # fmt: skip
