"""Asking a server whether it is there, with and without a login."""

import base64
import http.server
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spa3r.errors import ServiceError
from spa3r.train.servers import existing_store, mlflow_store, require_mlflow

LOGIN = "Basic " + base64.b64encode(b"lab:hunter/2").decode()


class Healthy(http.server.BaseHTTPRequestHandler):
    """Answers a health route, to those who log in."""

    def do_GET(self) -> None:
        allowed = self.path == "/health" and self.headers["Authorization"] == LOGIN
        self.send_response(200 if allowed else 401)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_login_is_sent_as_one(port: int) -> None:
    require_mlflow(f"http://lab:hunter%2F2@127.0.0.1:{port}/")
    with pytest.raises(Exception, match="401"):
        require_mlflow(f"http://127.0.0.1:{port}")


def test_what_listens_there_must_be_a_database() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        uri = mlflow_store(f"postgresql://u:hunter2@127.0.0.1:{server.server_address[1]}/mlflow")
        with pytest.raises(ServiceError, match=r"u:\*\*\*@127.*does not answer") as caught:
            require_mlflow(uri)
        server.shutdown()
        thread.join()
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


def test_files_always_answer() -> None:
    require_mlflow("sqlite:////nowhere/mlflow.db")


def test_plain_postgresql_names_the_installed_driver() -> None:
    import psycopg2

    assert psycopg2.__version__
    assert mlflow_store("postgresql://u:p@h/m") == "postgresql+psycopg2://u:p@h/m"
    for uri in ("postgresql+psycopg2://u:p@h/m", "sqlite:////a/mlflow.db", "https://h:5000"):
        assert mlflow_store(uri) == uri


def test_a_store_to_read_from_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path))
    for uri in (None, f"sqlite:///{tmp_path}/mlflow.db", f"sqlite:///{tmp_path}/mlflow.db?a=1"):
        with pytest.raises(ServiceError, match=r"no registry at .*mlflow\.db: set MLFLOW_TRACK"):
            existing_store(uri)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mlflow.db").touch()
    assert existing_store(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert existing_store("http://h:5000") == "http://h:5000"
    monkeypatch.delenv("SPA3R_HOME")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ServiceError, match=f"no registry at {tmp_path}/spa3r-home/mlflow.db"):
        existing_store(None)
