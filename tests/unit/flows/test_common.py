"""Retries of named errors only, and the artifact that a stage leaves in Prefect."""

import sqlite3
from typing import Any

import aiohttp
import pytest
import requests
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_LOGGING_LEVEL, temporary_settings
from prefect.states import Completed, exception_to_crashed_state, exception_to_failed_state
from prefect.testing.utilities import prefect_test_harness
from prefect.utilities.asyncutils import run_coro_as_sync
from sqlalchemy.exc import OperationalError

from flows.common import is_transient, publish, stage_task
from flows.stage import StageResult
from spa3r.errors import ConfigError, ServiceError, ShardError

RUN: Any = None  # is_transient looks at the state alone


@pytest.fixture(scope="module")
def server():
    """A Prefect server of its own in a temporary folder."""
    with (
        temporary_settings({PREFECT_LOGGING_LEVEL: "CRITICAL"}),
        prefect_test_harness(server_startup_timeout=120),
    ):
        yield


def failed(error: BaseException) -> Any:
    return run_coro_as_sync(exception_to_failed_state(error))


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(), TimeoutError("x"), BlockingIOError("x"),
     requests.exceptions.ConnectionError("x"), requests.exceptions.ReadTimeout("x"),
     requests.exceptions.ConnectTimeout("x"), aiohttp.ClientConnectionError("x"),
     aiohttp.ServerDisconnectedError(),
     OperationalError("insert", {}, sqlite3.OperationalError("database is locked"))],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_network_faults_are_worth_a_second_try(error: Exception) -> None:
    assert is_transient(None, RUN, failed(error))


@pytest.mark.parametrize(
    "error",
    [ConfigError("x"), ShardError("x"), ServiceError("x"), ValueError("x"), FileNotFoundError("x"),
     MemoryError("x"), requests.exceptions.HTTPError("x")],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_everything_else_is_final(error: Exception) -> None:
    assert not is_transient(None, RUN, failed(error))


def test_an_interrupted_or_a_completed_run_is_final() -> None:
    crashed = run_coro_as_sync(exception_to_crashed_state(KeyboardInterrupt()))
    assert not is_transient(None, RUN, crashed)
    assert not is_transient(None, RUN, Completed(data=1))


def test_prefect_retries_as_is_transient_says(server: None) -> None:
    calls: list[str] = []

    def flaky() -> StageResult:
        calls.append("flaky")
        if len(calls) < 3:
            raise ConnectionResetError("away for a moment")
        return StageResult(stage="flaky", line="came back")

    def wrong() -> StageResult:
        calls.append("wrong")
        raise ShardError("nothing there; run `spa3r ingest`")

    @flow
    def both() -> str:
        line = stage_task(flaky).with_options(retry_delay_seconds=0)().line
        stage_task(wrong).with_options(retry_delay_seconds=0)()
        return line

    with pytest.raises(ShardError, match="run `spa3r ingest`"):
        both()
    assert calls == ["flaky", "flaky", "flaky", "wrong"]


def test_publish_keeps_a_table(server: None) -> None:
    result = StageResult(
        stage="ingest", line="5 scenes",
        facts={"scenes": 5, "dropped": {"blur": 1}, "shards": "ftp://lab:hunter2@host/shards"},
    )  # fmt: skip

    @flow
    def one() -> dict[str, Any]:
        return publish(result)

    assert one()["facts"]["dropped"] == {"blur": 1}
    with get_client(sync_client=True) as client:
        kept = {a.key: a for a in client.read_artifacts()}
    table = kept["spa3r-ingest"]
    assert table.type == "table" and table.description == "5 scenes"
    assert "ftp://lab:***@host/shards" in str(table.data) and "hunter2" not in str(table.data)
    assert '"scenes"' in str(table.data) and '"5"' in str(table.data)
