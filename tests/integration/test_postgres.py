"""MLflow and Prefect on a real PostgreSQL, as a cluster has them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from flows import judge_stages
from flows.lineage import lineage
from spa3r.errors import ServiceError
from spa3r.hub import Spa3REncoder
from spa3r.train import registry, tracking
from tests.conftest import REPO
from tests.postgres_server import PASSWORD, find_postgres, postgres_server
from tests.registered import Registry, field_report, register_untrained

PROGRAMS = find_postgres()
pytestmark = pytest.mark.skipif(
    PROGRAMS is None, reason="no PostgreSQL here: apt-get install postgresql"
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    assert PROGRAMS is not None
    with postgres_server(PROGRAMS, ["mlflow", "prefect"]) as address:
        yield address


@pytest.fixture
def store(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The registry of this process is the one on PostgreSQL."""
    uri = f"postgresql://{server}/mlflow"
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    return Registry(tmp_path, tracking.connect(uri))


RUN_FLOW = "from flows.rollback import rollback; rollback()"


def test_versions_are_tracked_promoted_traced_and_rolled_back(store: Registry, server: str) -> None:
    uri = os.environ["MLFLOW_TRACKING_URI"]
    for number, margin in (("1", 0.2), ("2", 0.3)):
        assert register_untrained(uri, store.folder, int(number)) == number
        store.candidate(number, field_report(margin))
        result = judge_stages.promote()
        assert result.facts["promoted"] and store.champion() == number, result.line
    assert "in place of version 1: geometric R2 +0.100" in result.line
    run = store.client.get_run(store.version("2").run_id)
    assert run.info.status == "FINISHED" and run.data.params["model.width"]
    assert run.info.artifact_uri.startswith(f"file://{store.folder}/files/")

    found = lineage("models:/spa3r-encoder@champion")
    assert found.startswith("version    spa3r-encoder version 2 (candidate, champion)\n")
    assert "verdict    promoted at " in found and "not recorded: run" in found.splitlines()[-1]
    loaded = Spa3REncoder.from_pretrained("models:/spa3r-encoder@champion")
    assert loaded.hash == Spa3REncoder.from_pretrained(store.folder / "encoder2").hash

    _run_flow(server, store.folder)
    assert store.champion() == "1"
    assert registry.find_by_hash(store.client, store.version("1").tags["encoder_hash"])
    assert not [p.name for p in Path.cwd().iterdir() if p.name.startswith("mlruns")]


def _run_flow(server: str, folder: Path) -> None:
    """Prefect's own server on PostgreSQL runs a flow that moves the champion."""
    env = os.environ | {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{server}/prefect",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "150",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN_FLOW], env=env, cwd=REPO, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with psycopg2.connect(f"postgresql://{server}/prefect") as connection:
        rows = connection.cursor()
        rows.execute("select f.name, r.state_type from flow_run r join flow f on f.id = r.flow_id")
        assert rows.fetchall() == [("rollback", "COMPLETED")]
    connection.close()
    assert not (folder / "prefect" / "prefect.db").exists(), "it used SQLite"


def test_a_wrong_password_is_one_line_without_it(server: str) -> None:
    wrong = server.replace(PASSWORD, "letmein")
    with pytest.raises(ServiceError, match="password authentication failed") as caught:
        tracking.connect(f"postgresql://{wrong}/mlflow")
    text = str(caught.value)
    assert "letmein" not in text and "\n" not in text
