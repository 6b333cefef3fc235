"""What a stage returns, and the record of how long each one took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flows.settings import Settings
from spa3r import storage

TIMINGS = "timings.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageResult:
    """The outcome of one stage."""

    stage: str
    line: str
    """One line for a person."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Plain data: places, counts, hashes, scores."""
    reused: bool = False
    """Nothing had to be done."""
    picture: str | None = None
    """A PNG worth showing beside the facts."""


@contextmanager
def timed(settings: Settings, stage: str) -> Iterator[dict[str, bool]]:
    """Keeps the seconds of a stage that did work; set ["reused"] to keep the old record."""
    outcome = {"reused": False}
    start = time.monotonic()
    yield outcome
    if not outcome["reused"]:
        seconds = read_timings(settings) | {stage: round(time.monotonic() - start, 1)}
        storage.write_json(settings.home / TIMINGS, seconds)


def read_timings(settings: Settings) -> dict[str, float]:
    """Seconds by stage, of the last time each one did work."""
    path = settings.home / TIMINGS
    return storage.read_json(path) if path.exists() else {}


def say(done: str, *, reused: bool) -> str:
    """The stage's line, with what a second run wants to hear in front."""
    return f"re-used: {done}" if reused else done
