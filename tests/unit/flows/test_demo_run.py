"""Around the demo flow: a server that is away, and the last screen."""

import http.server
import threading
from pathlib import Path
from typing import Any

import pytest

from flows.demo_run import require_prefect_server, summary
from flows.settings import Settings
from spa3r.errors import ServiceError
from tests.ports import free_port


def test_without_a_server_of_the_user_prefect_starts_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    require_prefect_server()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:{port}/api", "127.0.0.1:{port}"])
def test_a_server_that_is_away_is_named_with_the_cure(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = uri.format(port=free_port())
    monkeypatch.setenv("PREFECT_API_URL", uri)
    with pytest.raises(ServiceError) as caught:
        require_prefect_server()
    text = str(caught.value)
    assert uri in text and "prefect server start" in text and "\n" not in text


class Healthy(http.server.BaseHTTPRequestHandler):
    """Answers as a Prefect server's health route does, and nothing else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_server_that_answers_is_taken(slash: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api{slash}")
        require_prefect_server()
        server.shutdown()
        thread.join()


RESULTS: list[dict[str, Any]] = [
    {"stage": "rooms", "line": "64 + 12 rooms", "facts": {"rooms": 64}},
    {"stage": "ingest", "line": "re-used: 5 scenes", "facts": {}},
    {"stage": "pretrain", "line": "12 steps", "facts": {"model": "models:/x@candidate"}},
    {"stage": "evaluate", "line": "R2 0.5", "facts": {"report": "/r/report.html"}},
    {"stage": "tune", "line": "120 steps", "facts": {"model": "models:/v@candidate"}},
    {"stage": "evaluate-vlm", "line": "vsi-bench 47.1",
     "facts": {"report": "/s/report.html", "table": "  overall  47.1"}},
    {"stage": "promote-vlm", "line": "not promoted", "facts": {}},
]  # fmt: skip


def test_the_last_screen_names_every_place_and_command(tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = Settings(
        home=home,
        shards_root="",
        targets_root="",
        workers=1,
        train_workers=0,
        gpu=False,
        mlflow_uri=f"sqlite:///{home}/mlflow.db",
    )
    text = summary(settings, RESULTS)
    for needed in (
        "ingest        re-used: 5 scenes", "pretrain      12 steps", "/r/report.html",
        "xdg-open /s/report.html", "models:/x@candidate", "models:/v@candidate",
        "  overall  47.1", "promote-vlm   not promoted", "spa3r chat",
        f'spa3r ask {home}/rooms/scans/scene0064_00 "How many chairs', "spa3r encode",
        f"mlflow ui --backend-store-uri sqlite:///{home}",
        str(settings.prefect_database), "prefect server start",
    ):  # fmt: skip
        assert needed in text, needed


def test_the_last_screen_shows_no_password(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path, shards_root="", targets_root="", workers=1, train_workers=0, gpu=False,
        mlflow_uri="postgresql://lab:hunter2@db/mlflow",
    )  # fmt: skip
    text = summary(settings, RESULTS)
    assert "postgresql://lab:***@db/mlflow" in text and "hunter2" not in text
