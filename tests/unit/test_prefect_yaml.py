"""prefect.yaml against the flows that it deploys."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

from spa3r.recipes import catalogue, vlm_catalogue

REPO = Path(__file__).resolve().parents[2]
DECLARED: dict[str, Any] = yaml.safe_load((REPO / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = DECLARED["deployments"]
FLOWS = {"ingest", "targets", "pretrain", "questions", "tune", "evaluate", "promote", "rollback",
         "demo", "sweep"}  # fmt: skip


def flow_of(deployment: dict[str, Any]) -> Flow[Any, Any]:
    path, _, name = deployment["entrypoint"].partition(":")
    assert (REPO / path).is_file(), path
    found = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(found, Flow), f"{deployment['entrypoint']} is not a flow"
    return found


def names() -> list[str]:
    return [f"{flow_of(d).name}/{d['name']}" for d in DEPLOYMENTS]


def test_every_flow_is_deployed_here_and_on_the_cluster() -> None:
    expected = {f"{flow}/{place}" for flow in FLOWS for place in ("local", "cluster")}
    found = names()
    assert len(found) == len(set(found)), "a name is declared twice"
    assert set(found) == expected | {"ingest/nightly"}


def test_only_nightly_runs_by_itself() -> None:
    for name, deployment in zip(names(), DEPLOYMENTS, strict=True):
        schedules = deployment.get("schedules", [])
        if name == "ingest/nightly":
            (schedule,) = schedules
            assert len(schedule["cron"].split()) == 5 and schedule["timezone"]
        else:
            assert not schedules, name


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=names())
def test_parameters_fit_the_flow(deployment: dict[str, Any]) -> None:
    flow, given = flow_of(deployment), deployment.get("parameters", {})
    inspect.signature(flow.fn).bind(**given)
    flow.validate_parameters(given)
    assert given.get("recipe", "tiny") in {**catalogue.RECIPES, **vlm_catalogue.TUNE_RECIPES}
    assert deployment["description"].endswith(".")


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=names())
def test_local_and_cluster_have_their_pools(deployment: dict[str, Any]) -> None:
    place = "local" if deployment["name"] == "local" else "cluster"
    assert deployment["work_pool"]["name"] == f"spa3r-{place}"


def test_the_version_is_the_locked_one() -> None:
    assert f"prefect=={DECLARED['prefect-version']}" in (REPO / "requirements.lock").read_text()
