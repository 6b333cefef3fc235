"""MLflow: what a run measured, and the registry of encoders. The only importer of mlflow besides
the model file that MLflow itself runs (spa3r/train/pyfunc.py).

The default store is one SQLite file with its artifacts beside it; on a cluster it is a server. A
version is identified by the hash of its encoder folder, so registering twice gives one version.
Aliases: `candidate` is the newest version, `champion` the one that passed the gate.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mlflow
import mlflow.artifacts
import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from spa3r import storage
from spa3r.config import Recipe
from spa3r.errors import ServiceError, WeightsError
from spa3r.plain import config_hash, to_dict
from spa3r.train.provenance import code_version, encoder_hash, provenance_tags
from spa3r.train.servers import existing_store, mlflow_is_away, mlflow_store, require_mlflow
from spa3r.train.units import unit_of

logger = logging.getLogger(__name__)

ENCODER_NAME: Final = "spa3r-encoder"
CANDIDATE: Final = "candidate"
CHAMPION: Final = "champion"
EXPERIMENT: Final = "spa3r"
_PYFUNC: Final = Path(__file__).with_name("pyfunc.py")
_RUN_KEY: Final = "spa3r.run_key"
_HASH_TAG: Final = "encoder_hash"
# MLflow's own errors, its database's and, for artifacts, its HTTP client's.
_AWAY: Final = (MlflowException, SQLAlchemyError, RequestException)


def connect(uri: str) -> MlflowClient:
    """Makes `uri` the process's tracking server and registry, once it is known to answer.

    Args:
        uri: "sqlite:////abs/path/mlflow.db" (created if absent), "postgresql://user:password@
            host:port/name" or "http://host:port".

    Raises:
        ServiceError: it does not answer. ConfigError: another kind of URI.
    """
    uri = mlflow_store(uri)
    require_mlflow(uri)
    _quieten()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.get_experiment_by_name(EXPERIMENT)  # the first question makes a new store's tables
    except (*_AWAY, OSError) as error:
        raise mlflow_is_away(uri, error) from error
    return client


def _quieten() -> None:
    """Leaves out what MLflow says of work that goes as it should."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # It warns that a model without a signature takes any input; this one must.
    logging.getLogger("mlflow.pyfunc").setLevel(logging.ERROR)
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)


@contextmanager
def _answering() -> Iterator[None]:
    """A server that goes away in the block (or, as decorator, the function): one ServiceError."""
    try:
        yield
    except _AWAY as error:
        raise mlflow_is_away(mlflow.get_tracking_uri(), error) from error


# --- runs -----------------------------------------------------------------------------------------


class Tracker:
    """One MLflow run. Metrics of a step that it already has are not logged again."""

    @_answering()
    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        history = client.get_metric_history(run_id, "train/total")
        self._last_step = max((metric.step for metric in history), default=-1)
        self._waiting: list[Mapping[str, Any]] = []
        self._with_unit: set[str] = set()

    def log_line(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl (spa3r/train/loop.py).

        A server that is away for a while does not stop a run: lines wait for the next call.
        """
        self._waiting.append(line)
        try:
            while self._waiting:
                self._log_step(self._waiting[0])
                self._waiting.pop(0)
        except ServiceError as error:
            logger.warning("training goes on, its metrics wait: %s", error)

    def _log_step(self, line: Mapping[str, Any]) -> None:
        step = int(line["step"])
        if step > self._last_step:
            values = {f"train/{name}": x for name, x in line.items() if name != "step"}
            self.log_metrics(values, step=step)
            self._last_step = step

    @_answering()
    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Numbers by name (spa3r/train/units.py); their units go into tags "unit.<name>"."""
        now = time.time_ns() // 1_000_000
        metrics = [Metric(name, float(x), now, step) for name, x in values.items()]
        new = sorted(set(values) - self._with_unit)
        units = [RunTag(f"unit.{name}", unit_of(name)) for name in new]
        self.client.log_batch(self.run_id, metrics=metrics, tags=units)
        self._with_unit.update(new)

    @_answering()
    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copies a file or a whole folder into the run."""
        if Path(path).is_dir():
            self.client.log_artifacts(self.run_id, str(path), folder)
        else:
            self.client.log_artifact(self.run_id, str(path), folder)


@contextmanager
def track(
    uri: str, recipe: Recipe, hashes: Mapping[str, str], *, artifacts: Path | None = None
) -> Iterator[Tracker]:
    """The MLflow run of one recipe on one set of data; a run that was killed is taken up again.

    Logs every setting as a parameter, the recipe as recipe.json, and the hashes as tags.

    Args:
        hashes: e.g. {"data_hash": ..., "target_hash": ...}; with the recipe, the run's identity.
        artifacts: folder for the files of a PostgreSQL store, which has no place of its own.

    Raises:
        ServiceError: the server does not answer. ConfigError: see `connect`.
    """
    client = connect(uri)
    with _answering():
        run_id = _begin(client, recipe, hashes, _artifact_location(uri, artifacts))
        tracker = Tracker(client, run_id)
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    finally:
        _end(client, run_id, status)


def _artifact_location(uri: str, artifacts: Path | None) -> str | None:
    """None: the server knows. MLflow's own default for a database is ./mlruns of whoever runs."""
    if uri.startswith("sqlite:///"):
        artifacts = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    elif not uri.startswith("postgresql"):
        return None
    return artifacts.absolute().as_uri() if artifacts else None


def _begin(
    client: MlflowClient, recipe: Recipe, hashes: Mapping[str, str], location: str | None
) -> str:
    """The run of this recipe and these hashes, running again or new."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = (
        client.create_experiment(EXPERIMENT, artifact_location=location)
        if experiment is None
        else experiment.experiment_id
    )
    key = config_hash(recipe, dict(hashes))
    query = f"tags.`{_RUN_KEY}` = '{key}'"
    found = client.search_runs([experiment_id], filter_string=query, max_results=1)
    if not found:
        return _new_run(client, experiment_id, recipe, {_RUN_KEY: key, **hashes})
    client.set_terminated(found[0].info.run_id, "RUNNING")
    return found[0].info.run_id


def _end(client: MlflowClient, run_id: str, status: str) -> None:
    """Never an error of its own: it would hide the one that ended the run."""
    try:
        client.set_terminated(run_id, status)
    except _AWAY as error:
        logger.warning(
            "run %s stays open: %s", run_id, mlflow_is_away(mlflow.get_tracking_uri(), error)
        )


def _new_run(
    client: MlflowClient, experiment_id: str, recipe: Recipe, tags: Mapping[str, str]
) -> str:
    run = client.create_run(
        experiment_id,
        run_name=recipe.name,
        tags={**tags, "recipe": recipe.name, "code_version": code_version()},
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


# --- registry -------------------------------------------------------------------------------------


@_answering()
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
        **provenance_tags(folder), _HASH_TAG: digest, "code_version": code_version(),
    })  # fmt: skip
    client.set_registered_model_alias(name, CANDIDATE, version.version)
    return str(version.version), False


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    return list(client.search_model_versions(f"name = '{name}'"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """One version of a registered encoder, and the run that made it."""

    name: str
    version: str
    run_id: str
    tags: dict[str, str]


@_answering()
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


@_answering()
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


@_answering()
def run_artifact(client: MlflowClient, run_id: str, path: str) -> Path | None:
    """Local copy of a run's artifact; None where the run has no such file."""
    folder, _, _ = path.rpartition("/")
    if path not in {item.path for item in client.list_artifacts(run_id, folder)}:
        return None
    return Path(client.download_artifacts(run_id, path))


@_answering()
def resolve(uri: str) -> Path:
    """Local encoder folder of "models:/<name>@<alias>" or "models:/<name>/<version>".

    Uses the process's tracking server (`connect`, mlflow.set_tracking_uri, MLFLOW_TRACKING_URI);
    where it has none, connects it to the database in SPA3R_HOME. Creates no store.

    Raises:
        WeightsError: no such version. ServiceError: no store is there, or it does not answer.
    """
    server = existing_store(mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None)
    if mlflow.is_tracking_uri_set():
        require_mlflow(server)
    else:
        connect(server)
    try:
        folder = mlflow.artifacts.download_artifacts(artifact_uri=uri)
    except MlflowException as error:
        reason, server = storage.redacted(str(error).splitlines()[0]), storage.redacted(server)
        raise WeightsError(f"{uri} is not in the registry {server}: {reason}") from error
    found = sorted(Path(folder).glob("artifacts/*/config.json"))
    if not found:
        raise WeightsError(f"{uri} in {storage.redacted(server)} holds no encoder")
    return found[0].parent


@_answering()
def promote(
    client: MlflowClient,
    *,
    passed: bool,
    reason: str,
    dataset: str,
    target_hash: str,
    name: str = ENCODER_NAME,
) -> str:
    """Tags the candidate with the gate's verdict; if it passed, alias `champion` moves to it.

    Args:
        dataset, target_hash: of the held-out targets that the verdict was decided on.

    Returns:
        One line: what was done and why.

    Raises:
        WeightsError: there is no candidate.
    """
    candidate = require(client, CANDIDATE, name=name)
    version = candidate.version
    verdict = {
        "field_gate": "passed" if passed else "failed",
        "field_gate_reason": reason,
        "field_gate_dataset": dataset,
        "field_gate_target_hash": target_hash,
    }
    for tag, value in verdict.items():
        client.set_model_version_tag(name, version, tag, value)
    before = find(client, CHAMPION, name=name)
    if not passed:
        stays = f"champion stays at version {before.version}" if before else "there is no champion"
        return f"{name} version {version} not promoted, {stays}: {reason}"
    client.set_registered_model_alias(name, CHAMPION, version)
    return f"{name} version {version} is champion: {reason}"
