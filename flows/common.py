"""What every flow adds to a plain stage function: retries, a log line and an artifact."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import aiohttp
import requests
import sqlalchemy.exc
from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State, TaskRun

from flows.stage import StageResult
from spa3r.storage import redacted

# Faults of the network or of a busy database that a second try may not meet; all else is final.
# The HTTP clients (MLflow's, that of object stores) and the database have errors of their own.
TRANSIENT = (
    ConnectionError,
    TimeoutError,
    BlockingIOError,
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    aiohttp.ClientConnectionError,
    sqlalchemy.exc.OperationalError,  # "database is locked"
)


def is_transient(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Retry condition: only the named transient errors are worth a second try."""
    outcome = state.result(raise_on_failure=False)
    return isinstance(outcome, TRANSIENT)


def stage_task(stage: Callable[..., StageResult]) -> Any:
    """The stage as a Prefect task. Results are not cached here: sidecars decide what is done."""
    settings: Any = {"retries": 2, "retry_delay_seconds": [2, 10], "persist_result": False}
    return task(name=stage.__name__, retry_condition_fn=is_transient, **settings)(stage)


def publish(result: StageResult) -> dict[str, Any]:
    """Logs a stage's outcome, keeps it as an artifact and returns it as plain data."""
    logger = get_run_logger()
    logger.log(logging.INFO, "%s", result.line)
    key = f"spa3r-{result.stage}"
    rows = [{"what": name, "value": redacted(str(value))} for name, value in result.facts.items()]
    create_table_artifact(key=key, table=rows, description=result.line)
    return asdict(result)
