"""From a generated room to an answer, by the commands a user types; a killed run goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from spa3r.cli import main
from tests.conftest import REPO
from tests.tiny_vlm import save_tiny_vlm

QUESTION = "How many chairs are there?"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two rooms, as ScanNet releases scans, and a model."""
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path / "home"))
    rooms = ("rooms", str(tmp_path / "raw"), "--count", "2", "--size", "160x120", "--frames", "6")
    assert main(rooms) == 0
    save_tiny_vlm(tmp_path / "model", max_frames=4)
    return tmp_path


def answers(file: Path) -> list[dict[str, Any]]:
    return [{**json.loads(x), "seconds": 0} for x in file.read_text().splitlines()]


def write_questions(home: Path, count: int) -> Path:
    rows = [
        {"id": str(i), "scan": f"raw/scans/scene000{i % 2}_00", "question": f"{i}. {QUESTION}"}
        for i in range(count)
    ]
    (home / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return home / "q.jsonl"


def test_a_generated_room_is_asked_about(home: Path, capsys: pytest.CaptureFixture[str]):
    model, room = str(home / "model" / "vlm"), str(home / "raw" / "scans" / "scene0000_00")
    capsys.readouterr()
    asked = (room, QUESTION, "--max-new-tokens", "6")
    assert main(("ask", *asked, "--model", model)) == 0
    said = capsys.readouterr().out
    source = write_questions(home, 3)
    with source.open("a") as f:
        f.write('{"id": "gone", "scan": "raw/scans/scene0009_00", "question": "Where?"}\n')
    out = home / "a.jsonl"
    command = ("ask", "--jsonl", str(source), "-o", str(out), "--model", model)
    assert main((*command, "--max-new-tokens", "6")) == 1
    assert "3 questions answered; 1 not: 1 unreadable_scan" in capsys.readouterr().err
    rows = answers(out)
    assert [row["id"] for row in rows] == ["0", "1", "2", "gone"]
    assert all(len(row["frames"]) == 4 for row in rows[:3]) and "scene0009_00" in rows[3]["error"]
    assert said.strip("\n")
    assert main(("ask", room, QUESTION, "--model", str(home / "raw"))) == 1
    assert "it is not a Spa3-VLM" in capsys.readouterr().err


@pytest.mark.soak
def test_a_killed_run_gives_the_same_answers(home: Path):
    source, model = write_questions(home, 64), str(home / "model" / "vlm")

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = ("ask", "--jsonl", str(source), "-o", str(out), "--model", model)
        return subprocess.Popen((sys.executable, "-m", "spa3r.cli", *command), cwd=REPO)

    assert start(home / "calm.jsonl").wait(timeout=300) == 0
    out = home / "killed.jsonl"
    child = start(out)
    give_up = time.monotonic() + 120
    while not list(home.glob("killed.jsonl.parts/*/*.jsonl")) and time.monotonic() < give_up:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    child.wait(timeout=60)
    assert not out.exists()
    assert start(out).wait(timeout=300) == 0
    assert answers(out) == answers(home / "calm.jsonl") and len(answers(out)) == 64
    assert not Path(f"{out}.parts").exists()
