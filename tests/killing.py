"""Stages that are killed and started again: what the tests of ingest and of targets share."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPO


def files_of(folder: Path) -> dict[str, bytes]:
    """By path below the folder."""
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def published(folder: Path) -> dict[str, bytes]:
    """What lies under a final name, but for the parts that a stage puts its files together from."""
    files = files_of(folder) if folder.exists() else {}
    return {n: data for n, data in files.items() if not n.endswith((".tmp", ".part"))}


def finish(child: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and stderr."""
    _, errors = child.communicate(timeout=60)
    return child.returncode, errors


@dataclass(frozen=True)
class Stage:
    """A stage as its own process: `python -m module source out workers`, which prints "ready"."""

    module: str
    source: Path
    expected: dict[str, bytes]
    """Files of a run that nothing disturbs."""
    moments: tuple[float, float]
    """Seconds after "ready" between which a kill is drawn."""

    @classmethod
    def measure(
        cls, module: str, source: Path, run: Callable[[Path], object], calm: Path, slack: float = 0
    ) -> "Stage":
        """Runs the stage here twice, the second time by the clock.

        Args:
            run: the stage in this process, into a folder.
            slack: seconds that a process of its own loses at the start.
        """
        run(calm.with_name("warm"))  # not timed: imports and first calls
        begin = time.perf_counter()
        run(calm)
        return cls(module, source, files_of(calm), (0, time.perf_counter() - begin + slack))

    def start(self, out: Path, workers: int = 1, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", self.module, self.source, out, workers, *more]
        child = subprocess.Popen(
            [str(part) for part in command],
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert child.stdout and child.stdout.readline() == "ready\n"
        return child

    def check_rerun(self, out: Path, workers: int = 1) -> None:
        """A run that nothing disturbs ends well and with the expected files, whatever was there."""
        assert finish(self.start(out, workers)) == (0, "")
        assert files_of(out) == self.expected

    def check_kills(self, out: Path, kills: int, seed: int) -> None:
        """Kills runs at seeded moments; in between, nothing half-written has a final name."""
        draw = random.Random(seed)
        landed = 0
        for _ in range(kills):
            child = self.start(out)
            time.sleep(draw.uniform(*self.moments))
            landed += child.poll() is None
            os.kill(child.pid, signal.SIGKILL)
            finish(child)
            for name, data in published(out).items():
                assert data == self.expected[name], f"{name} differs after a kill"
            if published(out) == self.expected:  # finished before the kill: begin anew
                shutil.rmtree(out)
        assert landed, "no kill came before the end; the data set is too small"
        self.check_rerun(out)

    def check_workers_die(self, out: Path) -> None:
        """Kills a run with two workers as soon as they write; none of them lives on."""
        child = self.start(out, workers=2)
        give_up = time.monotonic() + 60
        while not (out.exists() and any(out.iterdir())) and time.monotonic() < give_up:
            time.sleep(0.002)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        # All of its workers hold its stderr open: end of file means that the last one is gone.
        child.communicate(timeout=30)
        self.check_rerun(out, workers=2)
