"""Progress of long work: a bar with rate and time left on a terminal, log lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

logger = logging.getLogger("spa3r.progress")
LOG_SECONDS = 10.0


class Meter:
    """Counts finished units of one stage. `advance` may carry a short note (e.g. the loss)."""

    def __init__(self, stage: str, total: int, unit: str, *, done: int = 0) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.done = done
        self._first = done
        self._start = self._last_log = time.monotonic()

    @property
    def rate(self) -> float:
        """Units per second since the start, skipped ones not counted."""
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Records finished units."""
        self.done += count
        self._show(note)

    def _show(self, note: str) -> None:
        now = time.monotonic()
        if now - self._last_log < LOG_SECONDS and self.done < self.total:
            return
        self._last_log = now
        left = (self.total - self.done) / self.rate if self.rate > 0 else float("nan")
        logger.info(
            "%s: %d/%d %s, %.1f %s/s, %.0f s left%s",
            self.stage, self.done, self.total, self.unit, self.rate, self.unit, left,
            f", {note}" if note else "",
        )  # fmt: skip


class _BarMeter(Meter):
    def __init__(self, bar: Progress, stage: str, total: int, unit: str, *, done: int = 0) -> None:
        super().__init__(stage, total, unit, done=done)
        self._bar = bar
        self._task = bar.add_task(stage, total=total, completed=done, rate="", note="")

    def _show(self, note: str) -> None:
        rate = f"{self.rate:.1f} {self.unit}/s"
        self._bar.update(self._task, completed=self.done, rate=rate, note=note)


@contextmanager
def meter(stage: str, total: int, unit: str, *, done: int = 0) -> Iterator[Meter]:
    """A Meter shown as a bar on a terminal and as a log line every ten seconds elsewhere."""
    if not sys.stderr.isatty():
        yield Meter(stage, total, unit, done=done)
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _BarMeter(bar, stage, total, unit, done=done)
