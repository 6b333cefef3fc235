"""From a run to a registered encoder that loads anywhere; a server that is not there."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import mlflow
import numpy as np
import pytest
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from flows import train_stage
from spa3r import storage
from spa3r.errors import ConfigError, ServiceError, StoppedError, TrainingError, WeightsError
from spa3r.hub import Spa3REncoder
from spa3r.recipes import catalogue
from spa3r.scene_commands import load_encoder
from spa3r.train import pretrain as pretraining
from spa3r.train import registry, tracking
from spa3r.train.job import Job
from spa3r.train.lineage import trace
from spa3r.train.lives import lives_of
from spa3r.train.loop import TrainResult
from spa3r.train.origin import Origin
from spa3r.train.pretrain import pretrain
from tests.box_rooms import BoxRooms, box_recipe
from tests.scan_arrays import scan_arrays

RECIPE = box_recipe(train__steps=4)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def uri(home: Path) -> str:
    return f"sqlite:///{home}/store/mlflow.db"


@pytest.fixture(scope="module")
def encoder(home: Path, uri: str) -> Path:
    """Trained, tracked and registered as version 1."""
    rooms = BoxRooms(RECIPE, rooms=3)
    with tracking.track(uri, RECIPE, {"data_hash": "d", "target_hash": "t"}) as tracker:
        done = pretrain(RECIPE, rooms, home / "run", on_line=tracker.log_line)
        origin = Origin(run=str(home / "run"))
        assert registry.register_encoder(tracker, done.encoder, origin) == ("1", False)
    return done.encoder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may depend on the working directory, or write into it."""
    monkeypatch.chdir(tmp_path)


def test_the_run_holds_settings_metrics_with_units_and_hashes(uri: str, encoder: Path):
    client = tracking.connect(uri)
    version = registry.find(client, "candidate")
    assert version is not None and version.version == "1"
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.steps"] == "4"
    assert run.data.tags["data_hash"] == "d"
    assert run.data.tags["unit.train/views_per_second"].startswith("views/s")
    assert "train/geo/l1" in run.data.metrics
    assert all(run.data.tags.get(f"unit.{name}") for name in run.data.metrics)
    history = client.get_metric_history(version.run_id, "train/total")
    assert [m.step for m in history] == [1, 2, 3, 4]
    assert run.info.artifact_uri.startswith("file://") and "/store/mlartifacts/" in (
        run.info.artifact_uri
    )
    for tag in ("recipe", "recipe_hash", "target_hash", "teacher_kind", "teacher_hash",
                "teacher_licence", "teacher_variant", "licences", "datasets", "code_version",
                "code_dirty", "code_hash", "environment", "environment_hash", "encoder_hash",
                "run_folder"):  # fmt: skip
        assert version.tags[tag]
    assert not list(Path.cwd().iterdir()), "something was written into the working directory"


def test_registering_the_same_encoder_again_gives_the_same_version_and_run(uri, encoder: Path):
    with tracking.track(uri, RECIPE, {"data_hash": "d", "target_hash": "t"}) as tracker:
        tracker.log_line({"step": 4, "total": 99.0})  # already there
        tracker.log_line({"step": 5, "total": 1.0})
        assert registry.register_encoder(tracker, encoder) == ("1", True)
    client = tracking.connect(uri)
    version = registry.find(client, "candidate")
    assert version is not None and version.run_id == tracker.run_id
    history = client.get_metric_history(tracker.run_id, "train/total")
    assert [m.step for m in history] == [1, 2, 3, 4, 5]


def test_validation_is_logged_beside_training_and_apart_from_the_evaluation(uri: str):
    recipe = box_recipe(train__steps=6)
    lines = [{"step": s, "total": 1.0 / s} for s in (1, 2, 3)]
    lines[1] |= {"field/model/geo/r2": 0.25, "field/wrong_camera/geo/r2": 0.125}
    for _ in range(2):  # a run that is taken up again sees its lines once more
        with tracking.track(uri, recipe, {"data_hash": "validated"}) as tracker:
            for line in lines:
                tracker.log_line(line)
    client, run = tracker.client, tracker.run_id
    for name, steps in (("train/total", [1, 2, 3]), ("validation/model/geo/r2", [2])):
        assert [m.step for m in client.get_metric_history(run, name)] == steps
    data = client.get_run(run).data
    assert data.metrics["validation/wrong_camera/geo/r2"] == 0.125
    assert data.tags["unit.validation/model/geo/r2"] and "field/model/geo/r2" not in data.metrics


def test_the_machine_is_watched_while_the_run_lasts(uri: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.02")
    published = threading.Event()
    publish = SystemMetricsMonitor.publish_metrics

    def noted(self: SystemMetricsMonitor, metrics: dict[str, float]) -> None:
        publish(self, metrics)
        published.set()

    monkeypatch.setattr(SystemMetricsMonitor, "publish_metrics", noted)
    with tracking.track(uri, RECIPE, {"data_hash": "watched"}) as tracker:
        assert "SystemMetricsMonitor" not in {thread.name for thread in threading.enumerate()}
        tracker.begin()
        assert published.wait(60)
    found = tracker.client.get_run(tracker.run_id).data.metrics
    assert found["system/system_memory_usage_megabytes"] > 0
    assert "system/cpu_utilization_percentage" in found
    assert "SystemMetricsMonitor" not in {thread.name for thread in threading.enumerate()}


def test_a_start_that_is_refused_leaves_the_run_as_it_is(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    manifest = {"data_hash": "stage", "target_hash": "stage"}
    storage.write_json(tmp_path / "targets" / "manifest.json", manifest)
    places = SimpleNamespace(targets=str(tmp_path / "targets"))
    monkeypatch.setattr(train_stage, "places_of", lambda *_: places)
    rooms, real = BoxRooms(RECIPE, rooms=2), pretraining.pretrain
    monkeypatch.setattr(
        pretraining, "pretrain", lambda plan, _places, *a, **k: real(plan, rooms, *a, **k)
    )
    monkeypatch.setattr(catalogue, "get", lambda *_: RECIPE)
    client = tracking.connect(uri)

    def status() -> str:
        found = [experiment.experiment_id for experiment in client.search_experiments()]
        (run,) = client.search_runs(found, filter_string="tags.target_hash = 'stage'")
        return run.info.status

    def stopped(_job: Job) -> TrainResult:
        assert status() == "RUNNING"
        monkeypatch.setattr(train_stage, "launcher", lambda _: pytest.fail)
        with pytest.raises(TrainingError, match="is writing there; wait"):
            train_stage.pretrain()
        assert status() == "RUNNING"
        return TrainResult(step=1, finished=False)

    for _ in range(2):  # a new run, and one that is taken up again
        monkeypatch.setattr(train_stage, "launcher", lambda _: stopped)
        with pytest.raises(StoppedError):
            train_stage.pretrain()
        assert status() == "KILLED"
    (lives,) = tmp_path.rglob("lives.json")
    assert len(lives_of(lives.parent)) == 1 and lives_of(lives.parent)[0]["after"] == 0


def test_lineage_lies_in_the_run_with_the_packages(uri: str, home: Path, encoder: Path):
    client = tracking.connect(uri)
    version = registry.named(client, "models:/spa3r-encoder/1")
    folder = f"lineage/{version.tags['encoder_hash']}"
    files = {a.path.rpartition("/")[2] for a in client.list_artifacts(version.run_id, folder)}
    assert files == {"lineage.json", "recipe.json", "requirements.lock", "installed.txt"}
    record = json.loads((home / "run" / "lineage.json").read_text())
    found = trace(client, "models:/spa3r-encoder/1")
    assert found.links[0].what.startswith("spa3r-encoder version 1 (candidate)")
    assert [link.state for link in found.links if link.part in ("version", "tracked", "run")] == [
        "same"
    ] * 3
    assert record["encoder"]["folder"] == str(encoder)
    assert trace(client, str(encoder)).links[0] == found.links[0]
    client.delete_run(version.run_id)
    try:
        assert trace(client, "models:/spa3r-encoder/1").broken["gone"] == ["tracked"]
    finally:
        client.restore_run(version.run_id)
    for wrong in ("models:/spa3r-encoder@nobody", "models:/spa3r-encoder/7", "models:/no/1"):
        with pytest.raises(WeightsError, match="has no such version"):
            trace(client, wrong)


SCRIPT = """
import json, sys
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/spa3r-encoder@candidate")
arrays = dict(np.load(sys.argv[2]))
found = model.predict(arrays)
print(json.dumps({name: [list(x.shape), float(np.abs(x).astype(float).sum())]
                  for name, x in found.items()}))
for given in (arrays["images"], [sys.argv[3]], {"pictures": 1}, sys.argv[4]):
    try:
        model.predict(given)
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_pyfunc_predicts_in_another_process_and_directory(uri, encoder: Path, tmp_path: Path):
    arrays = scan_arrays()
    np.savez(tmp_path / "scan.npz", **arrays)
    cv2.imwrite(str(tmp_path / "photo.png"), arrays["images"][0])
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "1.jpg"), arrays["images"][0])
    (tmp_path / "cwd").mkdir()
    arguments = [uri, tmp_path / "scan.npz", tmp_path / "photo.png", tmp_path / "photos"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        cwd=tmp_path / "cwd", capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *refusals = done.stdout.strip().splitlines()
    scene = Spa3REncoder.from_pretrained(encoder).encode(**arrays)
    found = json.loads(first)
    assert found["latents"][0] == list(scene.latents_LD.shape)
    assert found["latents"][1] == pytest.approx(float(scene.latents_LD.double().abs().sum()))
    need = "TeacherError photos without depth need a VGGT-taught encoder"
    assert refusals[0].startswith(need) and refusals[1].startswith(need)
    assert refusals[2].startswith("ConfigError cannot encode dict")
    assert refusals[3].startswith(need)
    assert not list((tmp_path / "cwd").iterdir())


def test_from_pretrained_takes_a_registry_uri(uri: str, encoder: Path):
    tracking.connect(uri)
    loaded = Spa3REncoder.from_pretrained("models:/spa3r-encoder@candidate")
    assert loaded.hash == Spa3REncoder.from_pretrained(encoder).hash
    with pytest.raises(WeightsError, match="not in the registry"):
        Spa3REncoder.from_pretrained("models:/spa3r-encoder@nobody")


@pytest.fixture
def untold(uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that nobody told of a registry."""
    from mlflow.tracking._model_registry import utils as registry
    from mlflow.tracking._tracking_service import utils as service

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "SPA3R_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(service, "_tracking_uri", None)
    monkeypatch.setattr(registry, "_registry_uri", None)
    yield
    monkeypatch.undo()
    tracking.connect(uri)


NAME = "models:/spa3r-encoder@candidate"


@pytest.mark.parametrize("load", [Spa3REncoder.from_pretrained, load_encoder])
def test_a_registry_that_nobody_named_is_the_one_at_home(
    load: Callable[[str], Spa3REncoder], untold: None, home: Path, encoder: Path, tmp_path: Path
):  # fmt: skip
    (tmp_path / "spa3r-home").symlink_to(home / "store")
    assert load(NAME).hash == Spa3REncoder.from_pretrained(encoder).hash
    assert [path.name for path in tmp_path.iterdir()] == ["spa3r-home"]


@pytest.mark.parametrize("load", [Spa3REncoder.from_pretrained, load_encoder])
def test_looking_for_a_registry_creates_none(
    load: Callable[[str], Spa3REncoder], untold: None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    with pytest.raises(ServiceError, match=r"no registry at .*/spa3r-home/mlflow\.db: set MLFLOW"):
        load(NAME)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(ServiceError, match=r"no registry at .*/none\.db: set MLFLOW"):
        load(NAME)
    assert list(tmp_path.iterdir()) == []


def test_no_pickle_is_registered(home: Path, encoder: Path):
    stored = [p for p in (home / "store" / "mlartifacts").rglob("*") if p.is_file()]
    assert any(p.name == "model.safetensors" for p in stored)
    assert not [p for p in stored if p.suffix in (".pkl", ".pt", ".pickle", ".bin")]


def test_an_unreachable_server_is_one_line_and_soon(encoder: Path, uri: str):
    begin = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        tracking.connect("http://127.0.0.1:9")
    assert time.monotonic() - begin < 10
    text = str(caught.value)
    assert "http://127.0.0.1:9" in text and "mlflow server" in text and "\n" not in text
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:9"):
        Spa3REncoder.from_pretrained("models:/spa3r-encoder@candidate")
    mlflow.set_tracking_uri(uri)


def test_a_damaged_or_impossible_database_is_one_line(uri: str, tmp_path: Path):
    damaged = tmp_path / "mlflow.db"
    damaged.write_text("not a database")
    for path in (damaged, damaged / "below" / "mlflow.db"):
        with pytest.raises(ServiceError) as caught:
            tracking.connect(f"sqlite:///{path}")
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    mlflow.set_tracking_uri(uri)


def test_a_server_that_goes_away_does_not_stop_a_run(uri: str, monkeypatch: pytest.MonkeyPatch):
    from mlflow.exceptions import MlflowException

    recipe = box_recipe(train__steps=5)
    with tracking.track(uri, recipe, {"data_hash": "away"}) as tracker:
        send = tracker.client.log_batch

        def away(*_args, **_kwargs):
            raise MlflowException("connection refused\nlong story")

        monkeypatch.setattr(tracker.client, "log_batch", away)
        tracker.log_line({"step": 1, "total": 1.0})
        tracker.log_line({"step": 2, "total": 0.5})
        monkeypatch.setattr(tracker.client, "log_batch", send)
        tracker.log_line({"step": 3, "total": 0.25})
    history = tracker.client.get_metric_history(tracker.run_id, "train/total")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5), (3, 0.25)]


def test_a_server_that_goes_away_is_one_line_wherever_it_is_asked(
    uri: str, encoder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    from mlflow.exceptions import MlflowException

    def away(*_args, **_kwargs):
        raise MlflowException("connection refused\nlong story")

    with (
        pytest.raises(ServiceError) as caught,
        tracking.track(uri, RECIPE, {"data_hash": "gone"}) as tracker,
    ):
        for name in ("log_batch", "search_model_versions", "set_terminated"):
            monkeypatch.setattr(tracker.client, name, away)
        with pytest.raises(ServiceError, match="does not answer"):
            tracker.log_metrics({"field/model/geo/r2": 0.5})
        registry.register_encoder(tracker, encoder)
    text = str(caught.value)
    assert uri in text and "connection refused" in text and "\n" not in text
    assert f"run {tracker.run_id} stays open" in caplog.text


def test_the_end_of_a_run_does_not_hide_what_ended_it(uri: str, monkeypatch: pytest.MonkeyPatch):
    from mlflow.exceptions import MlflowException

    def away(*_args, **_kwargs):
        raise MlflowException("connection refused")

    with (
        pytest.raises(ZeroDivisionError),
        tracking.track(uri, RECIPE, {"data_hash": "hidden"}) as tracker,
    ):
        monkeypatch.setattr(tracker.client, "set_terminated", away)
        raise ZeroDivisionError


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg2", "http"])
def test_an_unreachable_store_says_so_soon_and_without_its_password(scheme: str):
    begin = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        tracking.connect(f"{scheme}://lab:hunter2@127.0.0.1:9/mlflow")
    text = str(caught.value)
    assert "lab:***@127.0.0.1:9/mlflow" in text and "hunter2" not in text and "\n" not in text
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("uri", ["mysql://lab:hunter2@host/mlflow", "/tmp/mlruns", "databricks"])
def test_another_kind_of_store_is_refused_in_one_line(uri: str):
    with pytest.raises(ConfigError, match="write sqlite:////") as caught:
        tracking.connect(uri)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)
