"""What `spa3r demo` does around the flow: check the server, run, and say where everything is."""

import os
import sys
from typing import Any

from flows.settings import Settings
from spa3r.errors import ServiceError
from spa3r.recipes import catalogue
from spa3r.storage import redacted
from spa3r.train.servers import NO_ANSWER, mlflow_store, probe, require_mlflow


def require_prefect_server() -> None:
    """Raises ServiceError when PREFECT_API_URL names a server that does not answer."""
    uri = os.environ.get("PREFECT_API_URL")
    if not uri:
        return  # Prefect starts its own, on loopback, for the length of the run
    try:
        probe(f"{uri.rstrip('/')}/health")
    except NO_ANSWER as error:
        raise ServiceError(
            f"Prefect server {redacted(uri)} (PREFECT_API_URL) does not answer"
            f" ({redacted(str(error))}); start one with `prefect server start --host 127.0.0.1`,"
            " or unset PREFECT_API_URL"
        ) from error


def run_demo(
    *, train_rooms: int, val_rooms: int, recipe: str, overrides: dict[str, Any] | None = None
) -> None:
    """Runs the demo flow and prints where its results are and how to open them.

    Raises:
        ConfigError: no such recipe or setting. ServiceError: Prefect or MLflow does not answer.
    """
    settings = Settings.from_environment()
    catalogue.get(recipe, overrides)  # a slip should not show after minutes of making rooms
    settings.prepare_environment()
    # The stages print their own lines, and an error is said once, by the command.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    require_prefect_server()
    from flows.demo import demo

    require_mlflow(mlflow_store(settings.mlflow_uri))
    print(f"spa3r demo: everything goes to {settings.home}", file=sys.stderr)
    results: Any = demo(train_rooms, val_rooms, recipe, overrides)
    print("\n" + summary(settings, results))


def summary(settings: Settings, results: list[dict[str, Any]]) -> str:
    """The last screen of the demo: one line a stage, then places and commands."""
    width = max(len(r["stage"]) for r in results)
    lines = [f"  {r['stage']:<{width}}  {r['line']}" for r in results]
    facts = {name: value for r in results for name, value in r["facts"].items()}
    mlflow = redacted(settings.mlflow_uri)
    prefect_home = settings.prefect_database.parent
    return "\n".join(
        [
            "Stages",
            *lines,
            "",
            "Open",
            f"  report          {facts['report']}",
            f"                  xdg-open {facts['report']}",
            f"  encoder         {facts['model']}",
            f"                  .venv/bin/spa3r encode {settings.rooms}/scans/scene0000_00"
            " -o scene.safetensors",
            f"                  .venv/bin/spa3r view scene.safetensors --encoder {facts['model']}",
            f"  MLflow          {mlflow}",
            f"                  .venv/bin/mlflow ui --backend-store-uri {mlflow} --host 127.0.0.1",
            f"  Prefect         {settings.prefect_database}",
            f"                  PREFECT_HOME={prefect_home} .venv/bin/prefect server start"
            " --host 127.0.0.1",
        ]
    )
