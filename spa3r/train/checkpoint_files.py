"""Checkpoints as files, at any fsspec URL: complete or none, readable without this project.

<url>/step-<n>/ holds safetensors files and state.json, which is written last and names the others
with their SHA-256. A folder with it is a checkpoint; one without is what a killed save left.
"""

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from spa3r import storage
from spa3r.errors import ConfigError, ShardError, TrainingError, WeightsError

log = logging.getLogger(__name__)

SCHEMA: Final = 2
STATE: Final = "state.json"
_NAME: Final = re.compile(r"step-[0-9]{8}")
_KEYS: Final = {"schema", "step", "identity", "score", "files"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What state.json says."""

    folder: str
    step: int
    identity: Mapping[str, Any]
    score: float | None
    """Of the validation at its step; None: there was none."""
    files: Mapping[str, Mapping[str, Any]]
    """"bytes" and "sha256" by name."""


def folder_of(url: str, step: int) -> str:
    """Where the checkpoint of a step lies."""
    return storage.join(url, f"step-{step:08d}")


def folders(url: str) -> list[str]:
    """Folders of complete and of half-written checkpoints, by step."""
    return [f for f in storage.list_folders(url) if _NAME.fullmatch(f.rpartition("/")[2])]


def complete(url: str) -> list[str]:
    """Folders of complete checkpoints, oldest first."""
    found = folders(url)
    states = storage.read_many([storage.join(folder, STATE) for folder in found])
    return [folder for folder, state in zip(found, states, strict=True) if state is not None]


def newest_step(url: str) -> int:
    """Optimizer steps of the newest complete checkpoint; 0: there is none."""
    found = complete(url)
    return int(found[-1].rpartition("-")[2]) if found else 0


def read_state(folder: str) -> Checkpoint:
    """state.json of a checkpoint.

    Raises:
        WeightsError: it is damaged.
        TrainingError: it is of another version of this project.
    """
    where = storage.join(folder, STATE)
    try:
        found = storage.read_json(where)
    except ShardError as error:
        raise WeightsError(str(error)) from error
    if not isinstance(found, dict) or "schema" not in found:
        raise WeightsError(f"{where}: not the state of a checkpoint")
    if found["schema"] != SCHEMA:
        raise TrainingError(
            f"{where} has schema {found['schema']}, this version reads {SCHEMA}: delete"
            f" {folder.rpartition('/')[0]} to start over, or use the version that wrote it"
        )
    if not _is_whole(found):
        raise WeightsError(f"{where}: not the state of a checkpoint")
    del found["schema"]
    return Checkpoint(folder=folder, **found)


def _is_whole(found: dict[str, Any]) -> bool:
    return (
        set(found) == _KEYS
        and isinstance(found["step"], int)
        and isinstance(found["score"], int | float | None)
        and all(isinstance(found[key], dict) for key in ("identity", "files"))
        and all(isinstance(said, dict) and "sha256" in said for said in found["files"].values())
    )


def read_all(checkpoint: Checkpoint) -> dict[str, dict[str, Tensor]]:
    """Every file of a checkpoint, by name. Raises WeightsError as `read_tensors`."""
    return {name: read_tensors(checkpoint, name) for name in checkpoint.files}


def read_tensors(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    """One file of a checkpoint. Raises WeightsError if it is missing or damaged."""
    where = storage.join(checkpoint.folder, name)
    if name not in checkpoint.files:
        raise WeightsError(f"{where}: not named in {STATE}")
    try:
        data = storage.read_bytes(where)
    except FileNotFoundError as error:
        raise WeightsError(f"{where}: missing") from error
    if _sha256(data) != checkpoint.files[name]["sha256"]:
        raise WeightsError(f"{where}: damaged, its bytes are not those that were written")
    try:
        return load(data)
    except SafetensorError as error:
        raise WeightsError(f"{where}: not a safetensors file ({error})") from error


def write(folder: str, tables: dict[str, dict[str, Tensor]], said: Mapping[str, Any]) -> Checkpoint:
    """Writes a checkpoint; `tables` (by file name) is emptied on the way, to free the memory.

    Args:
        said: step, identity and score.

    Raises:
        TrainingError: it cannot be written; nothing of it is left that looks complete.
    """
    files: dict[str, dict[str, Any]] = {}
    try:
        remove(folder)  # a damaged one: it was not restored from, and its step is reached again
        for name in sorted(tables):
            data = save(tables.pop(name))
            storage.write_bytes(storage.join(folder, name), data)
            files[name] = {"bytes": len(data), "sha256": _sha256(data)}
        state = {"schema": SCHEMA, **said, "files": files}
        storage.write_json(storage.join(folder, STATE), state)
    except (ConfigError, OSError) as error:
        remove(folder)  # on a full disk others need the space
        raise TrainingError(
            f"{error}; the checkpoints before it are whole: start again to continue from them"
        ) from error
    return Checkpoint(folder=folder, files=files, **said)


def remove(folder: str) -> None:
    """Deletes a checkpoint, its completion mark first, or what is left of one.

    With a warning where that cannot be done: a new process tries again.
    """
    try:
        storage.remove(storage.join(folder, STATE))
        storage.remove_leftovers(folder)
        for name in storage.list_names(folder):
            storage.remove(storage.join(folder, name))
        if storage.is_local(folder) and Path(folder).is_dir():
            Path(folder).rmdir()
    except OSError as error:
        log.warning("%s: not removed (%s)", folder, error)


def remove_half_written(url: str) -> list[str]:
    """Deletes what killed saves left; returns the folders. Only where nobody writes meanwhile."""
    whole = set(complete(url))
    halves = [folder for folder in folders(url) if folder not in whole]
    for folder in halves:
        remove(folder)
    return halves


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
