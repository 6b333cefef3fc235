"""What a sweep asks for, and what becomes of it when some of its recipes fail or are stopped."""

import logging
import shlex
from pathlib import Path
from typing import Any

import pytest

from flows import sweep, sweep_stage
from flows.stage import StageResult
from flows.sweep_page import Made, Sweep
from flows.sweep_stage import planned
from spa3r import cli
from spa3r.errors import ConfigError, ShardError, StoppedError, SweepError
from spa3r.recipe_options import overrides_of
from spa3r.recipes import catalogue

NAMES = ("debug", "debug-plucker", "debug-mask25")


class Runs:
    """Stands in for `run_recipe`: notes what it is asked, and fails where it is told to."""

    def __init__(self, **errors: Exception) -> None:
        self.errors, self.asked = errors, []

    def __call__(self, name: str, *, dataset: str, overrides: Any) -> StageResult:
        self.asked.append((name, dataset, overrides))
        if error := self.errors.get(name.replace("-", "_")):
            raise error
        return StageResult(stage="sweep", line=name, reused=name == "debug")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Sweep, Any, Any]]:
    """Calls of `draw`, which is not needed here."""
    calls: list[tuple[Sweep, Any, Any]] = []

    def draw(_settings: Any, asked: Sweep, done: Any, failed: Any) -> Made:
        calls.append((asked, dict(done), dict(failed)))
        return Made(page=tmp_path / "page.html", data=tmp_path / "page.json", table="table")

    monkeypatch.setattr(sweep_stage, "draw", draw)
    return calls


def test_a_table_or_a_list_and_never_the_same_experiment_twice() -> None:
    assert list(planned((), 6, "debug", "rooms", None).plans) == [
        "debug", "debug-mask25", "debug-mask75",
    ]  # fmt: skip
    assert planned(NAMES, None, "tiny", "rooms", {"train.steps": 20}).plans["debug"] == (
        catalogue.get("debug", {"train.steps": 20})
    )
    wrong: list[tuple[Any, str]] = [
        (((), None, "tiny"), "either a list"),
        ((NAMES, 6, "tiny"), "either a list"),
        ((("debug",), None, "tiny"), "is one: name"),
        ((("debug", "debug"), None, "tiny"), "same experiment"),
        ((("debug", "huge"), None, "tiny"), "'huge' is unknown"),
        (((), 5, "tiny"), "table 5"),
        ((("debug", "tiny-clip"), None, "tiny"), "weight-free"),
    ]
    for (recipes, table, base), said in wrong:
        with pytest.raises(ConfigError, match=said):
            planned(recipes, table, base, "rooms", None)
    with pytest.raises(ConfigError, match="debug and debug-plucker are the same experiment"):
        planned(NAMES, None, "tiny", "rooms", {"model.camera": "prope"})


@pytest.mark.parametrize(("recipes", "table"), [(NAMES, None), ((), 4)])
def test_its_command_asks_for_the_same_again(recipes: Any, table: int | None) -> None:
    asked = planned(
        recipes, table, "debug", "my.rooms", {"train.steps": 20, "clips.view_counts": [4, 6]}
    )
    program, *words = shlex.split(asked.command)
    assert program == "spa3r"
    arguments = cli._parser().parse_args(words)
    again = planned(
        arguments.recipes, arguments.table, arguments.base, arguments.dataset,
        overrides_of(arguments),
    )  # fmt: skip
    assert again == asked


def test_every_recipe_is_run_with_the_same_settings(drawn: Any, caplog: Any) -> None:
    runs = Runs()
    with caplog.at_level(logging.INFO):
        result = sweep_stage.sweep(
            recipes=NAMES, dataset="x", overrides={"train.steps": 20}, run=runs
        )
    assert runs.asked == [(name, "x", {"train.steps": 20}) for name in NAMES]
    assert not result.reused and result.facts["table"] == "table"
    (asked, done, failed), = drawn  # fmt: skip
    assert asked.first == "debug" and list(done) == list(NAMES) and not failed
    assert "recipe 2 of 3, debug-plucker" in caplog.text


def test_a_recipe_that_fails_is_named_and_the_others_are_compared(drawn: Any, caplog: Any) -> None:
    runs = Runs(debug=ShardError("no\nshards"), debug_plucker=RuntimeError("out of memory"))
    with pytest.raises(SweepError) as caught:
        sweep_stage.sweep(recipes=NAMES, run=runs)
    text = str(caught.value)
    assert "2 of 3 recipes failed" in text and "page.html" in text and "\n" not in text
    assert "debug (no shards)" in text and "debug-plucker (out of memory)" in text
    assert [list(part) for part in drawn[0][1:]] == [["debug-mask25"], ["debug", "debug-plucker"]]


def test_where_all_fail_there_is_no_page(drawn: Any) -> None:
    errors = {name.replace("-", "_"): OSError("disk full") for name in NAMES}
    with pytest.raises(SweepError, match=r"all 3 recipes failed: debug \(disk full\)"):
        sweep_stage.sweep(recipes=NAMES, run=Runs(**errors))
    assert drawn == []


def test_a_stop_ends_the_sweep_and_not_just_its_recipe(drawn: Any) -> None:
    runs = Runs(debug_plucker=StoppedError("stopped at step 7; its state is saved"))
    with pytest.raises(StoppedError):
        sweep_stage.sweep(recipes=NAMES, run=runs)
    assert [name for name, *_ in runs.asked] == ["debug", "debug-plucker"] and drawn == []


def test_a_slip_is_found_before_anything_is_run(drawn: Any) -> None:
    runs = Runs()
    with pytest.raises(ConfigError, match="stepz"):
        sweep_stage.sweep(recipes=NAMES, overrides={"train.stepz": 1}, run=runs)
    assert runs.asked == []


def test_the_flow_runs_every_recipe_as_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def fake(**options: Any) -> StageResult:
        given.update(options)
        return StageResult(stage="sweep", line="done")

    monkeypatch.setattr(sweep_stage, "sweep", fake)
    monkeypatch.setattr(sweep, "publish", lambda result: result.line)
    assert sweep.sweep.fn(table=7, base="debug") == "done"
    task = given.pop("run")
    assert task.fn is sweep_stage.run_recipe and task.task_run_name == "{recipe}"
    assert given == {
        "recipes": (), "table": 7, "base": "debug", "dataset": "rooms", "overrides": None,
    }  # fmt: skip


def test_list_shows_the_papers_figures_and_what_is_assumed(capsys: Any) -> None:
    arguments = cli._parser().parse_args(["sweep", "--list", "--base", "paper"])
    arguments.run(arguments)
    shown = capsys.readouterr().out
    for said in ("paper-mask25", "58.9 / 56.1 / 57.5", "Table 7", "assumption", "None is ours"):
        assert said in shown
    assert max(map(len, shown.splitlines())) <= 100
