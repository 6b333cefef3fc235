"""One writer a folder; whoever dies lets go."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from preprocessing.lock import output_lock
from spa3r.errors import ShardError
from tests.conftest import REPO

HOLDER = """
import sys
from preprocessing.lock import output_lock
with output_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_by_name(tmp_path: Path):
    out = str(tmp_path / "out")
    mine = f"out: process {os.getpid()} on .* is writing"
    with output_lock(out):
        with pytest.raises(ShardError, match=mine) as caught, output_lock(out):
            pytest.fail("both hold it")
        assert "\n" not in str(caught.value)
    with output_lock(out):  # it was let go
        pass
    with output_lock(out), output_lock(str(tmp_path / "other")):  # other folders are free
        pass


def test_where_there_are_no_locks_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with output_lock(f"memory://{tmp_path.name}"):
        pass
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "one process at a time" in record.message
    caplog.clear()
    with output_lock(str(tmp_path / "out")):
        assert not caplog.records


def test_an_error_lets_go(tmp_path: Path):
    with pytest.raises(ValueError, match="mine"), output_lock(str(tmp_path / "out")):
        raise ValueError("mine")
    with output_lock(str(tmp_path / "out")):
        pass


def test_a_killed_process_lets_go(tmp_path: Path):
    out = str(tmp_path / "out")
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, out],
        cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout and child.stdout.readline() == "held\n"
        with pytest.raises(ShardError, match=f"process {child.pid} on "), output_lock(out):
            pytest.fail("both hold it")
    finally:
        child.kill()
        child.communicate(timeout=30)
    with output_lock(out):
        pass


def test_errors_of_the_work_inside_are_not_the_locks(tmp_path: Path):
    """A scan that may not be read is no lock that cannot be written."""
    with pytest.raises(PermissionError), output_lock(str(tmp_path / "out")):
        raise PermissionError(13, "Permission denied", "/raw/scan.sens")


def test_a_place_that_cannot_be_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ShardError, match="file") as caught, output_lock(str(tmp_path / "file/out")):
        pytest.fail("there is no such folder")
    assert "\n" not in str(caught.value)


def test_the_folder_itself_stays_untouched(tmp_path: Path):
    with output_lock(str(tmp_path / "out")):
        assert not (tmp_path / "out").exists()
