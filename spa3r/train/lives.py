"""Which code and packages trained a run: one entry for each process that carried it on.

Noted when a process begins to train, under the run's lock: code changes between two starts, and
what registers the encoder days later may be other code again.
"""

import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from spa3r import storage
from spa3r.errors import TrainingError
from spa3r.train.provenance import code_facts, environment

LIVES: Final = "lives.json"


def note_life(run: Path, after: int) -> None:
    """Adds this process to <run>/lives.json. Only the run's holder may call it.

    Args:
        after: optimizer steps of the checkpoint that it continues from; 0: from scratch.

    Raises:
        TrainingError: the file is damaged in its form. ShardError: it is no JSON.
    """
    life = {
        "after": after,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "code": code_facts(),
        "environment": environment().facts(),
    }
    storage.write_json(run / LIVES, [*_read(run), life])


def lives_of(run: str | Path) -> list[dict[str, Any]]:
    """The processes whose steps are in the run's weights, oldest first; [] where none is noted.

    What a process did after the checkpoint that the next one continued from was done again.
    """
    found: list[dict[str, Any]] = []
    for life in _read(run):
        while found and found[-1]["after"] >= life["after"]:
            found.pop()
        found.append(life)
    return found


def stretches(
    lives: Sequence[dict[str, Any]], part: str, steps: int
) -> list[tuple[dict[str, str], int, int]]:
    """Facts of a part ("code", "environment"), and the first and last step made with them."""
    found: list[tuple[dict[str, str], int, int]] = []
    for number, life in enumerate(lives):
        last = lives[number + 1]["after"] if number + 1 < len(lives) else steps
        if found and found[-1][0] == life[part]:
            found[-1] = (life[part], found[-1][1], last)
        else:
            found.append((life[part], life["after"] + 1, last))
    return found


def _read(run: str | Path) -> list[dict[str, Any]]:
    url = storage.join(run, LIVES)
    found = storage.read_json(url) if storage.exists(url) else []
    whole = isinstance(found, list) and all(
        isinstance(one, dict) and {"after", "code", "environment"} <= one.keys() for one in found
    )
    if not whole:
        raise TrainingError(f"{url}: not a list of processes; delete it, the run goes on without")
    return found
