"""What a stage says, and the record of how long the stages took."""

from pathlib import Path

import pytest

from flows.settings import Settings
from flows.stage import TIMINGS, read_timings, say, timed


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


def test_a_stage_that_worked_is_timed_beside_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_timings(settings) == {}
    ticks = iter([0.0, 2.04, 10.0, 13.0])
    monkeypatch.setattr("flows.stage.time.monotonic", lambda: next(ticks))
    with timed(settings, "ingest"):
        pass
    with timed(settings, "targets"):
        pass
    assert read_timings(settings) == {"ingest": 2.0, "targets": 3.0}


def test_a_reused_stage_keeps_the_time_of_its_work(settings: Settings) -> None:
    with timed(settings, "ingest"):
        pass
    record = settings.home / TIMINGS
    record.write_text('{"ingest": 99.5}')
    with timed(settings, "ingest") as outcome:
        outcome["reused"] = True
    assert read_timings(settings) == {"ingest": 99.5}
    with timed(settings, "ingest"):
        pass
    assert read_timings(settings)["ingest"] < 99.5


def test_a_stage_that_failed_is_not_timed(settings: Settings) -> None:
    with pytest.raises(RuntimeError, match="no"), timed(settings, "ingest"):
        raise RuntimeError("no")
    assert not (settings.home / TIMINGS).exists()


def test_a_second_run_says_so_first() -> None:
    assert say("4 rooms", reused=False) == "4 rooms"
    assert say("4 rooms", reused=True) == "re-used: 4 rooms"
