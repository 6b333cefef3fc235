"""What a stage says, and the record of how long the stages took."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.settings import Settings
from flows.stage import read_timings, say, timed


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        shards_root="",
        targets_root="",
        workers=1,
        train_workers=0,
        gpu=False,
        mlflow_uri="",
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the seconds that the next stages take."""

    def set_seconds(*seconds: float) -> None:
        ticks = iter([t for s in seconds for t in (0.0, s)])
        monkeypatch.setattr("flows.stage.time.monotonic", lambda: next(ticks))

    return set_seconds


def test_a_stage_that_worked_is_timed_beside_the_others(settings: Settings, clock) -> None:
    made = {"ingest": "rooms-1", "targets": "rooms-2", "pretrain": "tiny-3"}
    assert read_timings(settings, made) == {}
    clock(3.0, 2.04)
    with timed(settings, "targets", "rooms-2"):
        pass
    with timed(settings, "ingest", "rooms-1"):
        pass
    assert list(read_timings(settings, made).items()) == [("ingest", 2.0), ("targets", 3.0)]


def test_another_recipe_has_its_own_times(settings: Settings, clock) -> None:
    clock(2.0, 9.0)
    for run in ("tiny-1", "paper-2"):
        with timed(settings, "pretrain", run):
            pass
    assert read_timings(settings, {"pretrain": "tiny-1"}) == {"pretrain": 2.0}
    assert read_timings(settings, {"pretrain": "paper-2"}) == {"pretrain": 9.0}
    assert read_timings(settings, {"pretrain": "tiny-3"}) == {}


def test_a_reused_stage_keeps_the_time_of_its_work(settings: Settings, clock) -> None:
    clock(99.5, 1.0, 2.0)
    with timed(settings, "ingest", "a"):
        pass
    with timed(settings, "ingest", "a") as outcome:
        outcome["reused"] = True
    assert read_timings(settings, {"ingest": "a"}) == {"ingest": 99.5}
    with timed(settings, "ingest", "a"):
        pass
    assert read_timings(settings, {"ingest": "a"}) == {"ingest": 2.0}


def fail(settings: Settings) -> None:
    with pytest.raises(RuntimeError, match="no"), timed(settings, "pretrain", "a"):
        raise RuntimeError("no")


@pytest.mark.parametrize("reused", [False, True])
def test_a_continued_stage_adds_to_its_earlier_parts(
    settings: Settings, clock, reused: bool
) -> None:
    clock(10.0, 5.0, 2.0)
    fail(settings)
    fail(settings)
    assert read_timings(settings, {"pretrain": "a"}) == {}, "it is not finished"
    with timed(settings, "pretrain", "a") as outcome:
        outcome["reused"] = reused  # the work was done, only what follows it failed
    assert read_timings(settings, {"pretrain": "a"}) == {"pretrain": 17.0}


def test_a_finished_stage_that_cannot_start_again_keeps_its_time(settings: Settings, clock) -> None:
    clock(10.0, 0.1, 0.2)
    with timed(settings, "pretrain", "a"):
        pass
    fail(settings)
    assert read_timings(settings, {"pretrain": "a"}) == {"pretrain": 10.0}


def test_a_second_run_says_so_first() -> None:
    assert say("4 rooms", reused=False) == "4 rooms"
    assert say("4 rooms", reused=True) == "re-used: 4 rooms"


def test_a_line_holds_no_password() -> None:
    assert say("12 scenes in ftp://lab:hunter2@host/shards", reused=True) == (
        "re-used: 12 scenes in ftp://lab:***@host/shards"
    )
