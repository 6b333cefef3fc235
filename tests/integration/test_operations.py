"""The `sh tested` blocks of docs/operations.md, run verbatim and in order on generated rooms.

`spa3r` lines run in this process, all others in bash, in one folder and one environment. A line
must end with 0 unless its comment says "# exit 1". A block `text output` that follows shows lines
of what was printed, "..." standing for anything. Where a walk begins with damage, the damage is
done here, and only then.
"""

import contextlib
import io
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from spa3r import cli
from spa3r.train import champion, registry
from tests.documents import LABELLED, REPO, TESTED, Block, blocks

pytestmark = pytest.mark.timeout(300)
OURS = {"SPA3R_WORKERS": "1", "SPA3R_TRAIN_WORKERS": "0", "SPA3R_GPU": "0"}


@dataclass
class Shell:
    """A folder and an environment that outlive a command."""

    folder: Path
    variables: dict[str, str]
    printed: list[str] = field(default_factory=list)
    """Lines of the last block."""

    def run(self, line: str) -> int:
        """Runs one line and keeps what it prints; returns how it ended."""
        if line.startswith("export "):
            self._export(line)
            return 0
        if line.startswith("spa3r "):
            code, text = self._spa3r(line)
        else:
            done = self._bash(line)
            code, text = done.returncode, done.stdout + done.stderr
        self.printed += re.split(r"[\r\n]+", text)
        return code

    def _bash(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.variables, capture_output=True,
            text=True, timeout=120,
        )  # fmt: skip

    def _words(self, text: str) -> list[str]:
        """As bash expands them: comments, quotes, variables, patterns."""
        return self._bash(f"printf '%s\\0' {text}").stdout.split("\0")[:-1]

    def _export(self, line: str) -> None:
        for word in self._words(line.removeprefix("export ")):
            name, _, value = word.partition("=")
            self.variables[name] = value

    def _spa3r(self, line: str) -> tuple[int, str]:
        text = io.StringIO()
        handler, root = logging.StreamHandler(text), logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        before = dict(os.environ)
        os.environ.clear()
        os.environ.update(self.variables)
        try:
            with (
                contextlib.chdir(self.folder),
                contextlib.redirect_stdout(text),
                contextlib.redirect_stderr(text),
            ):
                code = cli.main(self._words(line)[1:])
        finally:
            os.environ.clear()
            os.environ.update(before)
            root.removeHandler(handler)
            root.setLevel(level)
        return code, text.getvalue()


def run_block(shell: Shell, block: Block) -> None:
    """All lines of a block, each of which must end as the page says."""
    shell.printed = []
    for line in block.commands():
        said = re.search(r"# exit (\d+)", line)
        code, expected = shell.run(line), int(said[1]) if said else 0
        shown = "\n".join(shell.printed)
        assert code == expected, f"{block.place}: `{line}` ended with {code}\n{shown}"


def check_output(shell: Shell, block: Block) -> None:
    """Every line of the block was printed, in that order."""
    rest = iter(shell.printed)
    for line in block.text.splitlines():
        pattern = ".*".join(re.escape(part) for part in line.split("..."))
        found = any(re.fullmatch(pattern, printed.rstrip()) for printed in rest)
        shown = "\n".join(shell.printed)
        assert found, (
            f"{block.place}: nothing printed like\n{line}\nafter the lines above in\n{shown}"
        )


# --- what has happened when a walk begins ---------------------------------------------------------

KILLED = """
import os, signal
from flows.settings import Settings
from flows.train_stage import places_of
from spa3r.recipes import catalogue
from spa3r.train import checkpoint_files
from spa3r.train.pretrain import pretrain

settings, recipe = Settings.from_environment(), catalogue.get("debug", {"train.seed": 2})
write = checkpoint_files.write

def write_and_die(*arguments, **options):
    write(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)

checkpoint_files.write = write_and_die
pretrain(recipe, places_of(settings, "rooms", recipe), settings.run("rooms", recipe))
"""


def kill_a_run(shell: Shell) -> None:
    """Its process is killed when the first checkpoint is complete."""
    child = subprocess.run(
        [sys.executable, "-c", KILLED], cwd=shell.folder, capture_output=True, text=True,
        env=shell.variables | {"PYTHONPATH": str(REPO)}, timeout=120,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr


def break_a_scan_and_a_target(shell: Shell) -> None:
    """A new scan that is none, and NaN in a stored clip."""
    home = shell.folder / "spa3r-home"
    scan = home / "rooms/scans/scene0005_00/scene0005_00.sens"
    scan.parent.mkdir()
    scan.write_bytes(b"no scan at all")
    (targets,) = home.glob("targets/rooms-train-*/scene0001_00.clips.tar")
    place = pq.read_table(targets.with_name("scene0001_00.clips.parquet")).to_pylist()[0]
    with targets.open("r+b") as file:
        file.seek(place["offset"] + place["size"] // 2)
        file.write(b"\xff" * 64)  # NaN in float16


def promote_twice(shell: Shell) -> None:
    """Version 2 was promoted in place of version 1; the gate is not asked, its verdict is given."""
    client = MlflowClient(f"sqlite:///{shell.folder}/spa3r-home/mlflow.db")
    for number, before in (("1", ""), ("2", "1")):
        version = registry.find_version(client, number)
        assert version is not None
        verdict = champion.Verdict(
            outcome="promoted", reason="given by the test", guards_passed=True, guards_reason="",
            dataset="rooms", target_hash="", against=before, margins={}, evidence={},
        )  # fmt: skip
        champion.promote(client, version, verdict)


SITUATIONS: dict[str, Callable[[Shell], None]] = {
    "A run that dies at night": kill_a_run,
    "A bad scene": break_a_scan_and_a_target,
    "Rolling back": promote_twice,
}


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    others = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "RAY_ADDRESS")
    variables = {
        name: value
        for name, value in os.environ.items()
        if name not in others and not name.startswith("SPA3R_")
    }
    yield Shell(tmp_path_factory.mktemp("operations"), variables | OURS)


WALKS = [
    (page.name, section)
    for page in LABELLED
    for section in dict.fromkeys(b.section for b in blocks(page) if b.label == TESTED)
]


@pytest.mark.parametrize(("page", "section"), WALKS, ids=lambda text: text)
def test_the_walk_goes_as_the_page_says(shell: Shell, page: str, section: str) -> None:
    """Each walk stands on the ones before it: run the whole file."""
    if section in SITUATIONS:
        SITUATIONS[section](shell)
    (path,) = (path for path in LABELLED if path.name == page)
    for block in (b for b in blocks(path) if b.section == section):
        if block.label == TESTED:
            run_block(shell, block)
        elif block.label == "text output":
            check_output(shell, block)
