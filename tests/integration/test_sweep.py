"""A sweep over recipes on generated rooms: stopped or killed, continued, drawn; one that fails."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest

from flows.data_stages import write_room_dataset
from flows.ingest_stage import ingest
from flows.settings import Settings
from spa3r import cli
from spa3r.models.spa3r import Spa3RModel
from spa3r.recipes import catalogue
from tests.conftest import REPO

pytestmark = pytest.mark.timeout(300)
CHANGES = {"ingest.width": 112, "train.validate_every": 0}
SET = [word for name, value in CHANGES.items() for word in ("--set", f"{name}={value}")]
SWEEP = ["sweep", "--table", "7", "--base", "debug", *SET]


@dataclass(frozen=True)
class Ended:
    """What a shell sees of a command."""

    code: int
    out: str
    errors: str

    @property
    def last(self) -> str:
        return self.errors.splitlines()[-1]


def set_up(home: Path, environment: pytest.MonkeyPatch) -> None:
    """Two rooms to train on and two held out, ingested, in a home that this process now has."""
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME"):
        environment.delenv(name, raising=False)
    for name, value in (("HOME", str(home)), ("WORKERS", "1"), ("TRAIN_WORKERS", "0")):
        environment.setenv(f"SPA3R_{name}", value)
    rooms = {"train_rooms": 2, "val_rooms": 2, "width": 112, "height": 84, "frames": 12}
    write_room_dataset(str(home / "rooms"), **rooms)
    ingest(str(home / "rooms"), dataset="rooms", recipe="debug", overrides=CHANGES)


def spa3r(capsys: Any, caplog: Any, *arguments: str) -> Ended:
    caplog.clear()
    capsys.readouterr()
    with caplog.at_level("INFO"):
        code = cli.main(list(arguments))
    shown = capsys.readouterr()
    return Ended(code, shown.out, caplog.text + shown.err)


def comparison(home: Path, pattern: str) -> dict[str, Any]:
    (path,) = home.glob(f"reports/{pattern}/comparison.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as environment:
        set_up(home, environment)
        yield home


def test_a_stopped_sweep_continues_and_ends_with_the_comparison(
    home: Path, capsys: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, sent = Spa3RModel.encode, []

    def terminated(model: Spa3RModel, *arguments: Any) -> Any:
        if model.config.camera == "plucker" and not sent:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # heard by the run, which is asked in each step
        return encode(model, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Spa3RModel, "encode", terminated)
        stopped = spa3r(capsys, caplog, *SWEEP)
    assert stopped.code == 1 and "stopped at step 1 of 12" in stopped.last, stopped.errors
    assert "sweep: debug, evaluate: " in stopped.errors and not list(home.glob("reports/sweep*"))

    done = spa3r(capsys, caplog, *SWEEP)
    assert done.code == 0, done.errors
    for again in ("debug, targets", "debug, pretrain", "debug, evaluate", "debug-plucker, targets"):
        assert f"sweep: {again}: re-used" in done.errors
    assert "sweep: debug-plucker, pretrain: 12 steps" in done.errors
    assert len(list(home.glob("targets/rooms-*"))) == 2, "train and val, shared by both recipes"
    assert "debug-plucker" in done.out and "comparison.html" in done.out.splitlines()[-1]
    check_comparison(comparison(home, "sweep-table7-debug-*"))


def check_comparison(found: dict[str, Any]) -> None:
    first, second = found["lines"]
    assert (first["recipe"], second["recipe"]) == ("debug", "debug-plucker")
    assert first["row"]["scenes"] == 2 and second["changed"] == ["model.camera = plucker"]
    for metric in ("geo/r2", "sem/r2", "depth/abs_rel"):
        moved = second["row"]["scores"][metric] - first["row"]["scores"][metric]
        interval = second["row"]["differences"][metric]
        assert interval["mean"] == pytest.approx(moved, abs=1e-6)
        assert interval["low"] <= interval["mean"] <= interval["high"]
    assert first["seconds"] > 0 and second["steps"] == 12
    assert "only 2 held-out scenes" in found["remarks"][0]


def test_mlflow_has_the_page_in_a_run_of_its_own(home: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    (experiment,) = (e for e in client.search_experiments() if e.name == "spa3r")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {"debug", "debug-plucker", "sweep-table7-debug"} <= set(runs)
    sweep = runs["sweep-table7-debug"]
    assert client.get_registered_model("spa3r-encoder").aliases == {}, "no candidate by a sweep"
    assert sweep.info.status == "FINISHED" and sweep.data.tags["target_hash"]
    kept = {a.path for a in client.list_artifacts(sweep.info.run_id, "sweep")}
    assert kept == {"sweep/comparison.html", "sweep/comparison.json"}


def test_failures_are_named_and_other_measures_of_r2_are_made_the_same(
    home: Path, capsys: Any, caplog: Any
) -> None:
    plan = catalogue.get("debug-mask75", CHANGES)
    where = Settings.from_environment().targets("rooms", plan, "train")
    Path(where).write_text("in the way")
    names = "debug,debug-mask75,debug-mask25"
    done = spa3r(capsys, caplog, "sweep", "--recipes", names, *SET)
    assert done.code == 1
    assert done.last.startswith("spa3r: 1 of 3 recipes failed: debug-mask75 (")
    assert where in done.last
    first, failed, other = comparison(home, "sweep-recipes-*")["lines"]
    assert failed["row"] is None and where in failed["error"]
    # Its training clips are others, so its features are standardised otherwise: scored again.
    assert other["row"]["controls"] == first["row"]["controls"] and not other["row"]["note"]
    own = next(home.glob("reports/debug-mask25-*[!s]-????????/field.json"))
    alone = json.loads(own.read_text())["report"]["mean"]["model"]["geo/r2"]
    assert other["row"]["scores"]["geo/r2"] != alone


@pytest.mark.soak
def test_a_killed_sweep_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, caplog: Any
) -> None:
    set_up(tmp_path, monkeypatch)
    command = [sys.executable, "-m", "spa3r.cli", *SWEEP]
    child = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True)
    said = []
    assert child.stderr is not None
    for line in child.stderr:
        said.append(line)
        if "recipe 2 of 2" in line:
            os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "".join(said)
    done = spa3r(capsys, caplog, *SWEEP)
    assert done.code == 0 and "sweep: debug, evaluate: re-used" in done.errors, done.errors
    check_comparison(comparison(tmp_path, "sweep-table7-debug-*"))
