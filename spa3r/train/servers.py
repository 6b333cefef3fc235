"""Whether the servers of a run answer, asked before anything waits for them for minutes."""

import base64
import http.client
import os
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

from spa3r.errors import ConfigError, ServiceError
from spa3r.storage import redacted

TIMEOUT_SECONDS = 5
_HTTP = ("http://", "https://")
_POSTGRES = "postgresql+psycopg2://"
_SQLITE = "sqlite:///"
# http.client has a family of its own: a malformed port or an answer that is not HTTP.
NO_ANSWER = (OSError, ValueError, http.client.HTTPException)


def mlflow_store(uri: str) -> str:
    """A tracking URI as MLflow takes it: plain postgresql:// names the driver that is installed.

    Raises:
        ConfigError: neither SQLite, nor PostgreSQL, nor a server.
    """
    if uri.startswith("postgresql://"):
        uri = _POSTGRES + uri.removeprefix("postgresql://")
    if not uri.startswith((_SQLITE, _POSTGRES, *_HTTP)):
        raise ConfigError(
            f"MLFLOW_TRACKING_URI={redacted(uri)!r}: write sqlite:////abs/path/mlflow.db,"
            " postgresql://USER@HOST:5432/NAME or http://HOST:5000, or unset MLFLOW_TRACKING_URI"
        )
    return uri


def existing_store(uri: str | None) -> str:
    """The store to read from; MLflow itself would create the file of one that is missing.

    Args:
        uri: what the process was told; None: nothing, which means the database in SPA3R_HOME.

    Raises:
        ServiceError: there is no such file.
    """
    if uri is None:  # the same default as flows/settings.py
        home = Path(os.environ.get("SPA3R_HOME", "spa3r-home")).expanduser().resolve()
        uri = f"{_SQLITE}{home}/mlflow.db"
    if uri.startswith(_SQLITE):
        path = uri.removeprefix(_SQLITE).partition("?")[0]
        if not Path(path).is_file():
            raise ServiceError(
                f"no registry at {path}: set MLFLOW_TRACKING_URI, or run where spa3r-home is"
                " (SPA3R_HOME)"
            )
    return uri


def require_mlflow(uri: str) -> None:
    """Raises ServiceError when a tracking server or its database does not answer; files do."""
    if uri.startswith(_POSTGRES):
        _require_database(uri)
    elif uri.startswith(_HTTP):
        try:
            probe(f"{uri.rstrip('/')}/health")
        except NO_ANSWER as error:
            raise mlflow_is_away(uri, error) from error


def _require_database(uri: str) -> None:
    """Logs in once: MLflow itself would try for minutes, also with a wrong password."""
    import psycopg2  # here: the other stores do without it

    try:
        address = f"postgresql://{uri.removeprefix(_POSTGRES)}"
        psycopg2.connect(address, connect_timeout=TIMEOUT_SECONDS).close()
    except psycopg2.Error as error:
        raise mlflow_is_away(uri, error) from error


def mlflow_is_away(uri: str, error: Exception) -> ServiceError:
    """The error to raise, one line with the cure and without a password."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return ServiceError(
        f"MLflow at {redacted(uri)} does not answer ({redacted(reason)}); start one with `mlflow"
        " server --host 127.0.0.1 --port 5000`, or unset MLFLOW_TRACKING_URI for the built-in one"
    )


def probe(url: str) -> None:
    """Asks a server for a page; raises one of NO_ANSWER, whose text holds no password."""
    parts = urlsplit(url)
    # urllib would take the password for a part of the port, and say so.
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    request = urllib.request.Request(bare.geturl())
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
