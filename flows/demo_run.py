"""What `spa3r demo` does around the flow: check the server, run, and say where everything is."""

import os
import sys
from typing import Any

from flows.settings import Settings
from spa3r.errors import ServiceError
from spa3r.recipes import catalogue, vlm_catalogue
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
    *,
    train_rooms: int,
    val_rooms: int,
    recipe: str,
    overrides: dict[str, Any] | None = None,
    vlm: str = "",
) -> None:
    """Runs the demo flow and prints where its results are and how to open them.

    Args:
        vlm: tuning recipe; "": the one that is named after the recipe, else `vlm-tiny`.

    Raises:
        ConfigError: no such recipe or setting. ServiceError: Prefect or MLflow does not answer.
    """
    settings = Settings.from_environment()
    catalogue.get(recipe, overrides)  # a slip should not show after minutes of making rooms
    vlm = vlm or (own if (own := f"vlm-{recipe}") in vlm_catalogue.TUNE_RECIPES else "vlm-tiny")
    vlm_catalogue.get(vlm)
    settings.prepare_environment()
    # The stages print their own lines, and an error is said once, by the command.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    require_prefect_server()
    from flows.demo import demo

    require_mlflow(mlflow_store(settings.mlflow_uri))
    print(f"spa3r demo: everything goes to {settings.home}", file=sys.stderr)
    results: Any = demo(train_rooms, val_rooms, recipe, overrides, vlm)
    print("\n" + summary(settings, results))


def summary(settings: Settings, results: list[dict[str, Any]]) -> str:
    """The last screen of the demo: one line a stage, then the table, places and commands."""
    width = max(len(r["stage"]) for r in results)
    lines = [f"  {r['stage']:<{width}}  {r['line']}" for r in results]
    facts = {r["stage"]: r["facts"] for r in results}
    return "\n".join(["Stages", *lines, "", *_table(facts), "Open", *_places(settings, facts)])


def _table(facts: dict[str, Any]) -> list[str]:
    """Of Spa3-VLM: every task, the model beside its controls."""
    return ["Answers about unseen rooms, 0 to 100", facts["evaluate-vlm"]["table"], ""]


def _places(settings: Settings, facts: dict[str, Any]) -> list[str]:
    mlflow, prefect_home = redacted(settings.mlflow_uri), settings.prefect_database.parent
    encoder, vlm = facts["pretrain"]["model"], facts["tune"]["model"]
    seen, unseen = (
        f"{settings.rooms}/scans/scene{number:04d}_00" for number in (0, facts["rooms"]["rooms"])
    )
    rows = [
        ("encoder report", facts["evaluate"]["report"], []),
        ("VLM report", facts["evaluate-vlm"]["report"],
         [f"xdg-open {facts['evaluate-vlm']['report']}"]),
        ("encoder", encoder,
         [f".venv/bin/spa3r encode {seen} -o scene.safetensors",
          f".venv/bin/spa3r view scene.safetensors --encoder {encoder}"]),
        ("Spa3-VLM", vlm,
         [f'.venv/bin/spa3r ask {unseen} "How many chairs are in this room?"',
          ".venv/bin/spa3r chat"]),
        ("MLflow", mlflow, [f".venv/bin/mlflow ui --backend-store-uri {mlflow} --host 127.0.0.1"]),
        ("Prefect", str(settings.prefect_database),
         [f"PREFECT_HOME={prefect_home} .venv/bin/prefect server start --host 127.0.0.1"]),
    ]  # fmt: skip
    width = max(len(name) for name, _, _ in rows)
    return [
        line
        for name, place, commands in rows
        for line in (
            f"  {name:<{width}}  {place}",
            *(f"  {'':<{width}}  {command}" for command in commands),
        )
    ]
