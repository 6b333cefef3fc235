"""What the comparison of a sweep says about its recipes' runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows import sweep_page
from flows.settings import Settings
from flows.stage import StageResult
from flows.sweep_stage import planned
from spa3r.eval.comparison import Evaluated
from spa3r.viz.comparison import Comparison, render_page, text_table, to_json
from tests.unit.viz.fakes import field_report


def test_a_run_that_left_clips_out_is_remarked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPA3R_HOME", str(tmp_path))
    settings = Settings.from_environment()
    asked = planned((), 7, "debug", "rooms", None)
    report = field_report(scenes=3)

    def evaluated(_settings: Any, _sweep: Any, name: str, _done: Any) -> Evaluated:
        return Evaluated(recipe=name, target_hash="aaaa", field=report, own=report)

    monkeypatch.setattr(sweep_page, "_evaluated", evaluated)
    monkeypatch.setattr(sweep_page, "_write", lambda _settings, _sweep, comparison: comparison)
    for name, dropped in (("debug", 0), ("debug-plucker", 7)):
        run = settings.run("rooms", asked.plans[name])
        run.mkdir(parents=True)
        lines = [{"step": 6, "dropped_clips": 0}, {"step": 12, "dropped_clips": dropped}]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = {n: StageResult(stage="sweep", line=n, facts={"report": "r"}) for n in asked.plans}
    made: Any = sweep_page.draw(settings, asked, done, {})
    assert isinstance(made, Comparison)
    few, left_out = made.remarks
    assert "only 3 held-out scenes" in few
    assert (
        left_out.startswith("debug-plucker was trained on less") and "left out 7 times" in left_out
    )
    assert left_out in to_json(made)["remarks"] and left_out in render_page(made)
    assert text_table(made).splitlines()[-2:] == [few, left_out]
