"""What a stage returns, and the record of how long each one took."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.settings import Settings
from spa3r import storage


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


@contextmanager
def timed(settings: Settings, stage: str, made: str) -> Iterator[dict[str, bool]]:
    """Keeps the seconds of a stage that did work; set ["reused"] to keep the old record.

    A stage that ended with an error and is started again adds to its earlier seconds. Those of a
    process that was killed outright are not known.

    Args:
        made: name of the folder the stage makes, which no other data or recipe has.
    """
    record = _record(settings, stage, made)
    before = storage.read_json(record) if record.exists() else None
    resumed = before is not None and not before["finished"]
    outcome, finished, start = {"reused": False}, False, time.monotonic()
    try:
        yield outcome
        finished = True
    finally:
        seconds = time.monotonic() - start
        # A failure beside a finished record may have been one before any work.
        worth = not outcome["reused"] if finished else before is None
        if resumed or worth:
            seconds += before["seconds"] if before and resumed else 0
            storage.write_json(record, {"finished": finished, "seconds": round(seconds, 1)})


def read_timings(settings: Settings, made: Mapping[str, str]) -> dict[str, float]:
    """Seconds of the finished stages, in the given order. See `timed` for made, by stage."""
    records = {stage: _record(settings, stage, name) for stage, name in made.items()}
    read = {stage: storage.read_json(path) for stage, path in records.items() if path.exists()}
    return {stage: kept["seconds"] for stage, kept in read.items() if kept["finished"]}


def _record(settings: Settings, stage: str, made: str) -> Path:
    return settings.home / "timings" / f"{stage}-{made}.json"


def say(done: str, *, reused: bool) -> str:
    """The stage's line, with what a second run wants to hear in front."""
    return storage.redacted(f"re-used: {done}" if reused else done)
