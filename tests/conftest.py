"""Fixtures shared by all tests: the reference material and one thread per process."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
for variable in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"):
    os.environ.setdefault(variable, "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")  # noise in short runs
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = Path(__file__).resolve().parents[1]


def shared_folder() -> Path:
    """The reference material: SPA3R_SHARED, or ../shared beside the repository."""
    return Path(os.environ.get("SPA3R_SHARED", REPO.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if not folder.is_dir():
        pytest.skip(f"no reference material at {folder} (set SPA3R_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def environment_of_its_own() -> Iterator[None]:
    """No test sees variables of an earlier one: MLflow exports the server it was last told of."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def golden_names() -> list[str]:
    """Every golden/<name>.json with a <name>.safetensors beside it; empty where absent."""
    folder = shared_folder() / "golden"
    return sorted(p.stem for p in folder.glob("*.json") if p.with_suffix(".safetensors").exists())
