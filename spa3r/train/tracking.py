"""MLflow: what a run measured, and the registry of encoders. The only importer of mlflow besides
the model file that MLflow itself runs (spa3r/train/pyfunc.py).

The default store is one SQLite file with its artifacts beside it; on a cluster it is a server. A
version is identified by the hash of its encoder folder, so registering twice gives one version.
Aliases: `candidate` is the newest version, `champion` the one that passed the gate.
"""

import hashlib
import logging
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlflow
import mlflow.artifacts
import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException

from spa3r import storage
from spa3r.config import Recipe, config_hash, to_dict
from spa3r.errors import ServiceError, WeightsError

logger = logging.getLogger(__name__)

ENCODER_NAME: Final = "spa3r-encoder"
CANDIDATE: Final = "candidate"
CHAMPION: Final = "champion"
EXPERIMENT: Final = "spa3r"
_PYFUNC: Final = Path(__file__).with_name("pyfunc.py")
_RUN_KEY: Final = "spa3r.run_key"
_HASH_TAG: Final = "encoder_hash"
_TIMEOUT_SECONDS: Final = 5
# Metric names carry no units, so runs carry them as tags.
UNITS: Final = {
    "train/lr": "1",
    "train/grad_norm": "1",
    "train/views_per_second": "views/s, all workers",
    "train/data_wait_share": "share of wall clock, 0..1",
    "train/depth_prob": "smooth L1 of depth in clip units",
}


def connect(uri: str) -> MlflowClient:
    """Makes `uri` the process's tracking server and registry, once it is known to answer.

    Args:
        uri: "sqlite:////abs/path/mlflow.db" (created if absent) or "http://host:port".

    Raises:
        ServiceError: it does not answer.
    """
    require_server(uri)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    _quieten()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            client.create_experiment(EXPERIMENT, artifact_location=_artifacts_beside(uri))
    except MlflowException as error:
        raise _unreachable(uri, error) from error
    return client


def _quieten() -> None:
    """Leaves out what MLflow says of work that goes as it should."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # It warns that a model without a signature takes any input; this one must.
    logging.getLogger("mlflow.pyfunc").setLevel(logging.ERROR)
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)


def require_server(uri: str) -> None:
    """Raises ServiceError when an http(s) tracking server does not answer; files always do."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_TIMEOUT_SECONDS).close()
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise _unreachable(uri, error) from error


def _unreachable(uri: str, error: Exception) -> ServiceError:
    return ServiceError(
        f"MLflow at {uri} does not answer ({str(error).splitlines()[0]}); start one with `mlflow"
        " server --host 127.0.0.1 --port 5000`, or unset MLFLOW_TRACKING_URI for the built-in one"
    )


def _artifacts_beside(uri: str) -> str | None:
    """MLflow's own default for SQLite is ./mlruns of whoever happens to run."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()


# --- runs -----------------------------------------------------------------------------------------


class Tracker:
    """One MLflow run. Metrics of a step that it already has are not logged again."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        history = client.get_metric_history(run_id, "train/total")
        self._last_step = max((metric.step for metric in history), default=-1)
        self._waiting: list[Mapping[str, Any]] = []

    def log_line(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl (spa3r/train/loop.py).

        A server that is away for a while does not stop a run: lines wait for the next call.
        """
        self._waiting.append(line)
        try:
            while self._waiting:
                self._log_step(self._waiting[0])
                self._waiting.pop(0)
        except MlflowException as error:
            reason = str(error).splitlines()[0]
            logger.warning("MLflow takes no metrics now (%s); training goes on", reason)

    def _log_step(self, line: Mapping[str, Any]) -> None:
        step = int(line["step"])
        if step > self._last_step:
            values = {f"train/{name}": x for name, x in line.items() if name != "step"}
            self.log_metrics(values, step=step)
            self._last_step = step

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Numbers by name; the names' units stand in the run's tags."""
        now = time.time_ns() // 1_000_000
        metrics = [Metric(name, float(x), now, step) for name, x in values.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copies a file or a whole folder into the run."""
        if Path(path).is_dir():
            self.client.log_artifacts(self.run_id, str(path), folder)
        else:
            self.client.log_artifact(self.run_id, str(path), folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self.client.set_tag(self.run_id, name, value)


@contextmanager
def track(uri: str, recipe: Recipe, hashes: Mapping[str, str]) -> Iterator[Tracker]:
    """The MLflow run of one recipe on one set of data; a run that was killed is taken up again.

    Logs every setting as a parameter, the recipe as recipe.json, and the hashes as tags.

    Args:
        hashes: e.g. {"data_hash": ..., "target_hash": ...}; with the recipe, the run's identity.

    Raises:
        ServiceError: the server does not answer.
    """
    client = connect(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None, "connect creates it"
    key = config_hash(recipe, dict(hashes))
    query = f"tags.`{_RUN_KEY}` = '{key}'"
    found = client.search_runs([experiment.experiment_id], filter_string=query, max_results=1)
    if found:
        run_id = found[0].info.run_id
        client.set_terminated(run_id, "RUNNING")
    else:
        run_id = _new_run(client, experiment.experiment_id, recipe, {_RUN_KEY: key, **hashes})
    status = "FAILED"
    try:
        yield Tracker(client, run_id)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)


def _new_run(
    client: MlflowClient, experiment_id: str, recipe: Recipe, tags: Mapping[str, str]
) -> str:
    units = {f"unit.{name}": unit for name, unit in UNITS.items()}
    run = client.create_run(
        experiment_id,
        run_name=recipe.name,
        tags={**tags, **units, "recipe": recipe.name, "code_version": code_version()},
    )
    settings = to_dict(recipe)
    client.log_batch(run.info.run_id, params=[Param(k, str(v)) for k, v in _flat(settings)])
    client.log_dict(run.info.run_id, settings, "recipe.json")
    return run.info.run_id


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def code_version() -> str:
    """`git describe` of the checkout this package runs from, "unknown" outside of one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


# --- registry -------------------------------------------------------------------------------------


def encoder_hash(folder: str | Path) -> str:
    """16 hex digits over the files of an encoder folder: the identity of a version."""
    files = [storage.join(folder, name) for name in ("config.json", "model.safetensors")]
    missing = [url for url in files if not storage.exists(url)]
    if missing:
        raise WeightsError(f"{missing[0]} is missing: {folder} is not an encoder")
    text = "".join(storage.sha256(url) for url in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def register_encoder(
    tracker: Tracker, folder: str | Path, *, name: str = ENCODER_NAME
) -> tuple[str, bool]:
    """Registers an encoder folder as a version with alias `candidate`.

    Returns:
        The version's number, and whether this very encoder was there already.
    """
    client, digest = tracker.client, encoder_hash(folder)
    known = find_by_hash(client, digest, name=name)
    if known is not None:
        client.set_registered_model_alias(name, CANDIDATE, known.version)
        logger.info("%s version %s is this very encoder, re-used", name, known.version)
        return known.version, True
    with mlflow.start_run(run_id=tracker.run_id):
        info = mlflow.pyfunc.log_model(
            name="encoder",
            python_model=str(_PYFUNC),
            artifacts={"encoder": str(folder)},
            # Named, because guessing them would load the model and ask the network.
            pip_requirements=["spa3r-platform"],
        )
    version = mlflow.register_model(info.model_uri, name, tags={
        **_version_tags(folder), _HASH_TAG: digest, "code_version": code_version(),
    })  # fmt: skip
    client.set_registered_model_alias(name, CANDIDATE, version.version)
    return str(version.version), False


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    return list(client.search_model_versions(f"name = '{name}'"))


def _version_tags(folder: str | Path) -> dict[str, str]:
    card = storage.read_json(storage.join(folder, "config.json"))
    provenance = card["provenance"]
    tags = {key: str(provenance[key]) for key in ("recipe", "data_hash", "target_hash", "steps")}
    for role, reference in card["references"].items():
        prefix = "teacher" if role == "geometric" else f"{role}_teacher"
        tags |= {f"{prefix}_{key}": str(value) for key, value in reference.items()}
    return tags


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """One version of a registered encoder, and the run that made it."""

    name: str
    version: str
    run_id: str
    tags: dict[str, str]


def find(client: MlflowClient, alias: str, *, name: str = ENCODER_NAME) -> Registered | None:
    """The version with that alias, None where no version has it."""
    try:
        found = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return _registered(found)


def require(client: MlflowClient, alias: str, *, name: str = ENCODER_NAME) -> Registered:
    """The version with that alias. Raises WeightsError where no version has it."""
    found = find(client, alias, name=name)
    if found is None:
        raise WeightsError(f"{name} has no version with alias {alias}: run `spa3r pretrain`")
    return found


def find_by_hash(
    client: MlflowClient, digest: str, *, name: str = ENCODER_NAME
) -> Registered | None:
    """The version made of the encoder folder with that `encoder_hash`, None where there is none."""
    for version in _versions(client, name):
        if version.tags.get(_HASH_TAG) == digest:
            return _registered(version)
    return None


def _registered(version: ModelVersion) -> Registered:
    return Registered(
        name=version.name,
        version=str(version.version),
        run_id=str(version.run_id),
        tags=dict(version.tags),
    )


def run_artifact(client: MlflowClient, run_id: str, path: str) -> Path | None:
    """Local copy of a run's artifact; None where the run has no such file."""
    folder, _, _ = path.rpartition("/")
    if path not in {item.path for item in client.list_artifacts(run_id, folder)}:
        return None
    return Path(client.download_artifacts(run_id, path))


def resolve(uri: str) -> Path:
    """Local encoder folder of "models:/<name>@<alias>" or "models:/<name>/<version>".

    Uses the process's tracking server (`connect`, or MLFLOW_TRACKING_URI).

    Raises:
        WeightsError: no such version. ServiceError: the server does not answer.
    """
    server = mlflow.get_tracking_uri()
    require_server(server)
    try:
        folder = mlflow.artifacts.download_artifacts(artifact_uri=uri)
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{uri} is not in the registry {server}: {reason}") from error
    found = sorted(Path(folder).glob("artifacts/*/config.json"))
    if not found:
        raise WeightsError(f"{uri} in {server} holds no encoder")
    return found[0].parent


def promote(client: MlflowClient, *, passed: bool, reason: str, name: str = ENCODER_NAME) -> str:
    """Tags the candidate with the gate's verdict; if it passed, alias `champion` moves to it.

    Returns:
        One line: what was done and why.

    Raises:
        WeightsError: there is no candidate.
    """
    candidate = require(client, CANDIDATE, name=name)
    version = candidate.version
    client.set_model_version_tag(name, version, "field_gate", "passed" if passed else "failed")
    client.set_model_version_tag(name, version, "field_gate_reason", reason)
    before = find(client, CHAMPION, name=name)
    if not passed:
        stays = f"champion stays at version {before.version}" if before else "there is no champion"
        return f"{name} version {version} not promoted, {stays}: {reason}"
    client.set_registered_model_alias(name, CHAMPION, version)
    return f"{name} version {version} is champion: {reason}"
