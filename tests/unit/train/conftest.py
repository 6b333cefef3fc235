"""Processes that train together, and a disk that is soon full."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.train.workers import Workers


class SmallDisk:
    """A file system of 4 MiB."""

    def __init__(self, path: Path) -> None:
        self.run, self._ballast = path / "run", path / "ballast"
        self.run.mkdir()

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as f, pytest.raises(OSError, match="No space"):
            while f.write(bytes(1024)):
                pass

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield SmallDisk(disk)
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="session")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """They start when the first test calls them."""
    found = Workers(tmp_path_factory.mktemp("workers"))
    yield found
    found.close()
