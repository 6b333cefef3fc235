"""The registry of models in MLflow: versions, where they came from, and their evaluations.

A version is identified by the hash of its folder (encoder_hash, or vlm_hash: see vlm_registry.py),
so registering twice gives one version.
Aliases: `candidate` is the newest version, `champion` the one that passed the gate
(spa3r/train/champion.py).
"""

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import mlflow
import mlflow.artifacts
import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from spa3r import storage
from spa3r.errors import ConfigError, WeightsError
from spa3r.train.origin import LINEAGE, Origin, lineage_of
from spa3r.train.provenance import environment, provenance_tags
from spa3r.train.servers import existing_store, require_mlflow
from spa3r.train.tracking import Tracker, answering, connect

logger = logging.getLogger(__name__)

ENCODER_NAME: Final = "spa3r-encoder"
CANDIDATE: Final = "candidate"
CHAMPION: Final = "champion"
_PYFUNC: Final = Path(__file__).with_name("pyfunc.py")
ENCODER_HASH: Final = "encoder_hash"
VLM_HASH: Final = "vlm_hash"
_NOT_THERE: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@answering()
def register_encoder(
    tracker: Tracker,
    folder: str | Path,
    origin: Origin | None = None,
    *,
    name: str = ENCODER_NAME,
    candidate: bool = True,
) -> tuple[str, bool]:
    """Registers an encoder folder as a version, with alias `candidate` unless told otherwise.

    The version's tags say what it came from; lineage.json, recipe.json and the packages it was
    trained with become artifacts of its run, in `lineage/<encoder_hash>`.

    Args:
        origin: where the run's inputs and outputs lie; None: not known, nor what trained it.

    Returns:
        The version's number, and whether this very encoder was there already.
    """
    record = lineage_of(folder, origin or Origin())
    model = Model(
        kind="encoder", folder=folder, record=record, pyfunc=_PYFUNC, hash_tag=ENCODER_HASH,
        tags=lambda: provenance_tags(folder) | _lineage_tags(record),
    )  # fmt: skip
    return register(tracker, model, name=name, candidate=candidate)


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What is registered."""

    kind: str
    """Name of its artifact, and of its entry in the lineage record."""
    folder: str | Path
    record: Mapping[str, Any]
    """Its lineage: the hash that identifies it is record[kind]["hash"]."""
    pyfunc: Path
    """The file that MLflow runs to load it."""
    hash_tag: str
    """The tag with that hash."""
    tags: Callable[[], dict[str, str]]
    """Of a new version, besides the hash."""


@answering()
def register(
    tracker: Tracker, model: Model, *, name: str, candidate: bool = True
) -> tuple[str, bool]:
    """Registers a folder as a version; see `register_encoder`."""
    client, digest = tracker.client, model.record[model.kind]["hash"]
    known = find_by_hash(client, digest, name=name, tag=model.hash_tag)
    if known is not None:
        if candidate:
            client.set_registered_model_alias(name, CANDIDATE, known.version)
        logger.info("%s version %s is this very %s, re-used", name, known.version, model.kind)
        return known.version, True
    _log_lineage(tracker, model.record, f"lineage/{digest}")
    with mlflow.start_run(run_id=tracker.run_id, log_system_metrics=False):
        info = mlflow.pyfunc.log_model(
            name=model.kind,
            python_model=str(model.pyfunc),
            artifacts={model.kind: str(model.folder)},
            # Named, because guessing them would load the model and ask the network.
            pip_requirements=["spa3r-platform"],
        )
    tags = model.tags() | {model.hash_tag: digest}
    version = mlflow.register_model(info.model_uri, name, tags=tags)
    if candidate:
        client.set_registered_model_alias(name, CANDIDATE, version.version)
    return str(version.version), False


def _log_lineage(tracker: Tracker, record: Mapping[str, Any], folder: str) -> None:
    client, run_id = tracker.client, tracker.run_id
    client.log_dict(run_id, dict(record), f"{folder}/{LINEAGE}")
    client.log_dict(run_id, record["recipe"]["settings"] or {}, f"{folder}/recipe.json")
    packages = environment()
    if not record["environment"]:
        logger.warning("%s: the packages that trained it are not recorded", folder)
        return
    if packages.facts() != record["environment"]:
        logger.warning("%s: trained with other packages than these; their hash is recorded, their"
                       " list is not", record["run"]["folder"])  # fmt: skip
        return
    client.log_text(run_id, packages.installed, f"{folder}/installed.txt")
    if packages.lock is not None:
        client.log_text(run_id, packages.lock, f"{folder}/requirements.lock")


def _lineage_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """Places and hashes by which versions are searched; the record itself is an artifact."""
    parent = record["parent"] or {"name": "", "hash": ""}
    tags = {
        "targets": record["targets"][0]["folder"],
        "shards": record["shards"]["folder"],
        "parent": parent["name"],
        "parent_hash": parent["hash"],
    }
    return run_tags(record) | {name: value for name, value in tags.items() if value}


def run_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """Of a record's run, code and packages."""
    tags = {
        **record["code"],
        **record["environment"],
        "run_folder": record["run"]["folder"],
        "checkpoints": record["run"]["checkpoints"],
    }
    codes = dict.fromkeys(life["code"]["code_hash"] for life in record.get("lives", []))
    if len(codes) > 1:
        tags["code_hashes"] = ",".join(codes)  # in the order in which they trained it
    differs = tags.pop("environment_differs", "")  # a list as long as the lock would not fit
    tags["environment_differs"] = f"{len(differs.split(', '))} packages" if differs else ""
    return {name: value for name, value in tags.items() if value}


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    return list(client.search_model_versions(f"name = '{name}'"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """One version of a registered model, and the run that made it."""

    name: str
    version: str
    run_id: str
    aliases: tuple[str, ...]
    tags: dict[str, str]

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"

    @property
    def hashes(self) -> dict[str, str]:
        """Those that identify it: of an encoder's folder; of a Spa3-VLM's, and of its encoder's."""
        return {key: self.tags[key] for key in (VLM_HASH, ENCODER_HASH) if key in self.tags}

    @property
    def encoder_hash(self) -> str:
        """Of an encoder, or of the one that a Spa3-VLM depends on. Raises WeightsError for a
        version that something else has registered."""
        if ENCODER_HASH not in self.tags:
            raise WeightsError(
                f"{self} has no tag {ENCODER_HASH}: `spa3r pretrain` registers encoders"
            )
        return self.tags[ENCODER_HASH]


@answering()
def find(client: MlflowClient, alias: str, *, name: str = ENCODER_NAME) -> Registered | None:
    """The version with that alias, None where no version has it."""
    try:
        found = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in _NOT_THERE:
            return None
        raise
    return _registered(found)


def require(client: MlflowClient, alias: str, *, name: str = ENCODER_NAME) -> Registered:
    """The version with that alias. Raises WeightsError where no version has it."""
    found = find(client, alias, name=name)
    if found is None:
        is_encoder = name == ENCODER_NAME
        make = "pretrain" if is_encoder else "tune"
        cure = make if alias != CHAMPION else "promote" if is_encoder else f"promote {name}"
        raise WeightsError(f"{name} has no version with alias {alias}: run `spa3r {cure}`")
    return found


@answering()
def find_version(
    client: MlflowClient, version: str, *, name: str = ENCODER_NAME
) -> Registered | None:
    """The version with that number, None where there is none."""
    try:
        return _registered(client.get_model_version(name, version))
    except MlflowException as error:
        if error.error_code in _NOT_THERE:
            return None
        raise


def named(client: MlflowClient, uri: str) -> Registered:
    """The version of "models:/<name>@<alias>" or "models:/<name>/<version>".

    Raises:
        WeightsError: there is none. ConfigError: the URI is of neither form.
    """
    form = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if form is None:
        raise ConfigError(f"{uri}: write models:/<name>@<alias> or models:/<name>/<version>")
    name, alias, version = form.groups()
    found = find(client, alias, name=name) if alias else find_version(client, version, name=name)
    if found is None:
        raise WeightsError(f"{uri} is not in the registry: it has no such version")
    return found


@answering()
def run_facts(client: MlflowClient, run_id: str) -> dict[str, str] | None:
    """Status, name and start of a version's run; None where the run was deleted."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in _NOT_THERE:
            return None
        raise
    if run.info.lifecycle_stage != "active":
        return None
    start = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    return {
        "status": run.info.status,
        "name": run.info.run_name or "",
        "start": start.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


@answering()
def find_by_hash(
    client: MlflowClient, digest: str, *, name: str = ENCODER_NAME, tag: str = ENCODER_HASH
) -> Registered | None:
    """The version made of the folder with that hash, None where there is none."""
    for version in _versions(client, name):
        if version.tags.get(tag) == digest:  # a search leaves out their aliases
            return _registered(client.get_model_version(name, str(version.version)))
    return None


def _registered(version: ModelVersion) -> Registered:
    return Registered(
        name=version.name,
        version=str(version.version),
        run_id=str(version.run_id),
        aliases=tuple(sorted(version.aliases)),
        tags=dict(version.tags),
    )


@answering()
def run_artifact(client: MlflowClient, run_id: str, path: str) -> Path | None:
    """Local copy of a run's artifact; None where the run has no such file."""
    folder, _, _ = path.rpartition("/")
    try:
        there = {item.path for item in client.list_artifacts(run_id, folder)}
    except MlflowException as error:
        if error.error_code in _NOT_THERE:
            return None
        raise
    if path not in there:
        return None
    return Path(client.download_artifacts(run_id, path))


@answering()
def resolve(uri: str) -> Path:
    """Local folder of the model "models:/<name>@<alias>" or "models:/<name>/<version>".

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
        raise WeightsError(f"{uri} in {storage.redacted(server)} holds no model of ours")
    return found[0].parent


@answering()
def tag(client: MlflowClient, version: Registered, tags: Mapping[str, str]) -> None:
    """Sets tags of a version."""
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
