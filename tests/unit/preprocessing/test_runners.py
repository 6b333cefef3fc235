"""Runners: few scenes at a time, errors that stop the run, and processes that die."""

import os
import signal
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from preprocessing.runners import in_turns, local_runner, run_here
from preprocessing.space import LEAST_BYTES, Room
from spa3r.errors import ShardError


@dataclass(frozen=True)
class Named:
    """All that a runner asks of a source."""

    name: str


def named(*names: str) -> Any:
    return [Named(name) for name in names]


@dataclass(frozen=True)
class Job:
    """Answers with the scene's name in capitals; dies or refuses where told to."""

    dying: tuple[str, ...] = ()
    once: str = ""
    """Folder that remembers who has died; "": they die every time."""
    unwritable: str = ""

    def __call__(self, source: Any) -> str:
        if source.name == self.unwritable:
            raise ShardError(f"{source.name}.tar: cannot be written")
        if source.name in self.dying:
            marker = Path(self.once, source.name)
            if not self.once or not marker.exists():
                if self.once:
                    marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return source.name.upper()


def test_one_worker_is_this_process_and_keeps_the_order() -> None:
    here: list[int] = []

    def job(source: Any) -> str:
        here.append(threading.get_ident())
        return source.name.upper()

    for runner in (run_here, local_runner(1)):
        assert list(runner(job, named("b", "a"))) == [("b", "B"), ("a", "A")]
    assert set(here) == {threading.get_ident()}


def test_two_workers_do_all_scenes() -> None:
    found = dict(local_runner(2)(Job(), named(*"abcde")))
    assert found == {name: name.upper() for name in "abcde"}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_that_is_no_scenes_fault_stops_the_run(workers: int) -> None:
    with pytest.raises(ShardError, match=r"b\.tar: cannot be written"):
        list(local_runner(workers)(Job(unwritable="b"), named(*"abc")))


def test_a_scene_that_kills_its_process_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    found = dict(local_runner(2)(Job(dying=("c",)), named(*"abcdef")))
    why = found.pop("c")
    assert found == {name: name.upper() for name in "abdef"}
    assert isinstance(why, str) and "died also when it ran alone" in why and "\n" not in why
    assert "scene c: a process died" in caplog.text


def test_two_such_scenes_first_and_last() -> None:
    found = dict(local_runner(2)(Job(dying=("a", "f")), named(*"abcdef")))
    assert {name for name, said in found.items() if said != name.upper()} == {"a", "f"}


def test_a_scene_that_dies_once_is_done_in_the_end(tmp_path: Path) -> None:
    job = Job(dying=("b",), once=str(tmp_path))
    assert dict(local_runner(2)(job, named(*"abcd"))) == {name: name.upper() for name in "abcd"}
    assert (tmp_path / "b").exists(), "nobody died"


class Steps:
    """Plays the processes: what is started stands in `running` until it is let go, oldest first."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.most = 0

    def submit(self, source: Any) -> str:
        self.running.append(source.name)
        self.most = max(self.most, len(self.running))
        return source.name

    def first(self, running: Any) -> Sequence[str]:
        assert sorted(running) == sorted(self.running)
        return [self.running.pop(0)]


def test_no_more_scenes_are_started_than_may_run() -> None:
    steps, limits = Steps(), iter([3, 3, 3, 3, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    turns = in_turns(deque(named(*"abcdef")), steps.submit, steps.first, lambda: next(limits), None)
    next(turns)
    assert steps.running == ["b", "c"] and steps.most == 3
    assert [source.name for source, _ in turns] == list("bcdef")
    assert steps.most == 3


def test_what_is_put_back_is_started_again() -> None:
    steps, waiting = Steps(), deque(named("a", "b"))
    seen: list[str] = []
    for source, _ in in_turns(waiting, steps.submit, steps.first, lambda: 1, None):
        seen.append(source.name)
        if seen == ["a"]:
            waiting.append(source)
    assert seen == ["a", "b", "a"]


def test_a_full_disk_holds_scenes_back_and_then_stops(tmp_path: Path) -> None:
    free = LEAST_BYTES
    room = Room(str(tmp_path), free=lambda _out: free)
    steps = Steps()
    turns = in_turns(deque(named(*"abcd")), steps.submit, steps.first, lambda: 2, room)
    next(turns)
    assert steps.running == ["b"]
    free -= 1
    assert next(turns)[0].name == "b" and steps.running == []
    with pytest.raises(ShardError, match="finished scenes are kept"):
        next(turns)
    with pytest.raises(ShardError, match="finished scenes are kept"):
        list(local_runner(1, room)(Job(), named("a")))
