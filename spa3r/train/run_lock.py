"""Runs do not mix: one process carries a run on, and one run writes into a checkpoints folder.

The process holds the run folder's lock (spa3r/lock.py). The run's id, drawn once, is left in
<run>/run.json and in <checkpoints>/owner.json, since two run folders may name one bucket.
"""

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from spa3r import storage
from spa3r.errors import TrainingError
from spa3r.lock import locked_folder, owner_of

ID: Final = "run.json"
OWNER: Final = "owner.json"


@contextmanager
def carrying_on(run: Path, checkpoints: str) -> Iterator[str]:
    """Holds a run while the block trains it; yields the line that names this process.

    Raises:
        TrainingError: another process holds the run, or another run the checkpoints folder.
    """
    with locked_folder(run, TrainingError) as me:
        if not storage.exists(run / ID):
            storage.write_json(run / ID, {"id": uuid.uuid4().hex})
        owner = _owner(checkpoints)
        if owner is None:
            host, since = socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds")
            mine = {"run": _id(run), "folder": str(run), "host": host, "since": since}
            storage.write_json(storage.join(checkpoints, OWNER), mine)
        _check_owner(run, checkpoints)
        yield me


def check_holder(run: Path, me: str) -> None:
    """Raises TrainingError once `me` has lost a run. "" never does: nobody else is there.

    Workers may outlive the process that started them, and another one may carry the run on.
    """
    now = owner_of(run) if me else ""
    if now != me:
        raise TrainingError(
            f"{run}: {now or 'nobody'} holds it now, no longer {me} nothing more is saved"
        )


def check_ours(run: Path, checkpoints: str, me: str) -> None:
    """`check_holder`, and that the checkpoints folder still belongs to the run."""
    check_holder(run, me)
    if me:
        _check_owner(run, checkpoints)


def _check_owner(run: Path, checkpoints: str) -> None:
    owner = _owner(checkpoints)
    if owner is None or owner.get("run") != _id(run):
        owner = owner or {}
        raise TrainingError(
            f"{checkpoints} belongs to the run {owner.get('folder')} on {owner.get('host')}, since"
            f" {owner.get('since')}; name another place, or delete {OWNER} there to hand it over"
        )


def _owner(checkpoints: str) -> dict[str, Any] | None:
    """owner.json of a checkpoints folder. Raises ShardError if it is damaged."""
    where = storage.join(checkpoints, OWNER)
    found = storage.read_json(where) if storage.exists(where) else None
    return found if isinstance(found, dict) else None


def _id(run: Path) -> str:
    return str(storage.read_json(run / ID)["id"])
