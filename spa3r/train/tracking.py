"""MLflow runs: settings, hashes and what was measured, of the run and of the machine under it.

The default store is one SQLite file with its artifacts beside it; on a cluster it is a server.
Encoders are registered in spa3r/train/registry.py.
"""

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.environment_variables import (
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
)
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from spa3r.errors import ServiceError, StoppedError
from spa3r.plain import config_hash, to_dict
from spa3r.train.identity import AnyRecipe, binding
from spa3r.train.provenance import code_facts
from spa3r.train.servers import mlflow_is_away, mlflow_store, require_mlflow
from spa3r.train.units import unit_of

logger = logging.getLogger(__name__)

EXPERIMENT: Final = "spa3r"
_RUN_KEY: Final = "spa3r.run_key"
# MLflow's own errors, its database's and, for artifacts, its HTTP client's.
AWAY: Final = (MlflowException, SQLAlchemyError, RequestException)


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
    except (*AWAY, OSError) as error:
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
def answering() -> Iterator[None]:
    """A server that goes away in the block (or, as decorator, the function): one ServiceError."""
    try:
        yield
    except AWAY as error:
        raise mlflow_is_away(mlflow.get_tracking_uri(), error) from error


class Tracker:
    """One MLflow run. Metrics of a step that it already has are not logged again."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        self._last_step: dict[str, int] = {}
        self._waiting: list[Mapping[str, Any]] = []
        self._with_unit: set[str] = set()

    def begin(self) -> None:
        """Training begins, or goes on. Nothing to do for a run that is finished."""

    def log_line(self, line: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl (spa3r/train/loop.py): of training, of validation, or of both.

        Validation during training goes under "validation/", because "field/" is what `evaluate`
        finds of the finished encoder. A server that is away for a while does not stop a run: lines
        wait for the next call.
        """
        self._waiting.append(line)
        try:
            self.begin()
            while self._waiting:
                self._log_step(self._waiting[0])
                self._waiting.pop(0)
        except ServiceError as error:
            logger.warning("training goes on, its metrics wait: %s", error)

    def _log_step(self, line: Mapping[str, Any]) -> None:
        step, groups = int(line["step"]), {}
        for name, value in line.items():
            if name != "step":
                field, _, rest = name.partition("/")
                is_validation = field in ("field", "validation")
                group, rest = ("validation", rest) if is_validation else ("train", name)
                groups.setdefault(group, {})[f"{group}/{rest}"] = value
        for group, values in groups.items():
            if step > self._newest(group, values):
                self.log_metrics(values, step=step)
                self._last_step[group] = step

    @answering()
    def _newest(self, group: str, names: Collection[str]) -> int:
        """The newest step of a group that the run has, -1 where it has none."""
        if group not in self._last_step:
            name = f"{group}/total" if f"{group}/total" in names else min(names)
            history = self.client.get_metric_history(self.run_id, name)
            self._last_step[group] = max((metric.step for metric in history), default=-1)
        return self._last_step[group]

    @answering()
    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Numbers by name (spa3r/train/units.py); their units go into tags "unit.<name>"."""
        now = time.time_ns() // 1_000_000
        metrics = [Metric(name, float(x), now, step) for name, x in values.items()]
        new = sorted(set(values) - self._with_unit)
        units = [RunTag(f"unit.{name}", unit_of(name)) for name in new]
        self.client.log_batch(self.run_id, metrics=metrics, tags=units)
        self._with_unit.update(new)

    @answering()
    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copies a file or a whole folder into the run."""
        if Path(path).is_dir():
            self.client.log_artifacts(self.run_id, str(path), folder)
        else:
            self.client.log_artifact(self.run_id, str(path), folder)


@contextmanager
def track(
    uri: str,
    recipe: AnyRecipe,
    hashes: Mapping[str, str],
    *,
    artifacts: Path | None = None,
) -> Iterator[Tracker]:
    """The MLflow run of one recipe on one set of data; a run that was killed is taken up again.

    Logs every setting as a parameter, the recipe as recipe.json, and the hashes as tags. A run that
    is there already stays as it is until `Tracker.begin` or the first line: a start that is refused
    because another process trains must not touch its record. It ends as FINISHED, as KILLED where
    it was asked to stop (StoppedError), else as FAILED.

    Args:
        hashes: e.g. {"data_hash": ..., "target_hash": ...}; with the recipe, the run's identity.
        artifacts: folder for the files of a PostgreSQL store, which has no place of its own.

    Raises:
        ServiceError: the server does not answer. ConfigError: see `connect`.
    """
    client = connect(uri)
    with answering():
        run_id, new = _find_or_make(client, recipe, hashes, _artifact_location(uri, artifacts))
    tracker, status = _Training(client, run_id, new=new), "FAILED"
    try:
        with tracker.watch:
            yield tracker
        status = "FINISHED"
    except StoppedError:
        status = "KILLED"
        raise
    finally:
        if new or tracker.begun or status == "FINISHED":
            _end(client, run_id, status)


class _Training(Tracker):
    """The run of the process that trains, or means to."""

    def __init__(self, client: MlflowClient, run_id: str, *, new: bool) -> None:
        super().__init__(client, run_id)
        self.new, self.begun, self.watch = new, False, ExitStack()

    @answering()
    def begin(self) -> None:
        """Says so in the run, with the code that trains from here on, and watches the machine."""
        if self.begun:
            return
        if not self.new:
            self.client.set_terminated(self.run_id, "RUNNING")
            for key, value in code_facts().items():
                self.client.set_tag(self.run_id, key, value)
        self.watch.enter_context(_watched(self.run_id))
        self.begun = True


@contextmanager
def _watched(run_id: str) -> Iterator[None]:
    """Logs processor, memory, disk, network and GPU of this machine as "system/...", every 10 s.

    MLflow starts its monitor for runs of its fluent interface only. Its variable
    MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false switches this off. Of a cluster this is the machine
    of the driver; the throughput and memory of the workers are in metrics.jsonl.
    """
    wanted = MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
    if wanted.is_set() and not wanted.get():
        yield
        return
    monitor = SystemMetricsMonitor(run_id, resume_logging=True)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _artifact_location(uri: str, artifacts: Path | None) -> str | None:
    """None: the server knows. MLflow's own default for a database is ./mlruns of whoever runs."""
    if uri.startswith("sqlite:///"):
        artifacts = Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    elif not uri.startswith("postgresql"):
        return None
    return artifacts.absolute().as_uri() if artifacts else None


def _find_or_make(
    client: MlflowClient,
    recipe: AnyRecipe,
    hashes: Mapping[str, str],
    location: str | None,
) -> tuple[str, bool]:
    """The run of this recipe and these hashes, and whether it is new."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    experiment_id = (
        client.create_experiment(EXPERIMENT, artifact_location=location)
        if experiment is None
        else experiment.experiment_id
    )
    key = config_hash(binding(recipe), dict(hashes))
    query = f"tags.`{_RUN_KEY}` = '{key}'"
    found = client.search_runs([experiment_id], filter_string=query, max_results=1)
    if not found:
        return _new_run(client, experiment_id, recipe, {_RUN_KEY: key, **hashes}), True
    return found[0].info.run_id, False


def _end(client: MlflowClient, run_id: str, status: str) -> None:
    """Never an error of its own: it would hide the one that ended the run."""
    try:
        client.set_terminated(run_id, status)
    except AWAY as error:
        logger.warning(
            "run %s stays open: %s", run_id, mlflow_is_away(mlflow.get_tracking_uri(), error)
        )


def _new_run(
    client: MlflowClient, experiment_id: str, recipe: AnyRecipe, tags: Mapping[str, str]
) -> str:
    run = client.create_run(
        experiment_id,
        run_name=recipe.name,
        tags={**tags, "recipe": recipe.name, **code_facts()},
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
