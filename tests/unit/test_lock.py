"""The lock of a folder: where its file system has locks, and where it has none."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from spa3r.errors import TrainingError
from spa3r.lock import locked_folder, owner_of


def test_the_owner_is_named_while_it_holds(tmp_path: Path):
    folder = tmp_path / "run"
    assert owner_of(folder) == ""
    with locked_folder(folder, TrainingError) as me:
        assert owner_of(folder) == me and f"process {os.getpid()} on " in me
        with (
            pytest.raises(TrainingError, match=f"run: {me} is writing there") as caught,
            locked_folder(folder, TrainingError),
        ):
            pytest.fail("both hold it")
        assert "\n" not in str(caught.value)
    assert owner_of(folder) == ""


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with locked_folder(tmp_path / "run", TrainingError) as me:
        assert owner_of(tmp_path / "run") == me
    assert "let one process at a time write" in caplog.text


def test_any_other_error_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with (
        pytest.raises(TrainingError, match=r"cannot be locked \(Input/output error\)") as caught,
        locked_folder(tmp_path / "run", TrainingError),
    ):
        pytest.fail("it is not held")
    assert "\n" not in str(caught.value)
