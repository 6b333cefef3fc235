"""Every number that training and evaluation can log has a unit."""

from pathlib import Path

import pytest

from spa3r.eval.metrics import DEPTH_METRICS, FEATURE_METRICS
from spa3r.schema import KINDS
from spa3r.train.metrics import METRICS, read_lines
from spa3r.train.sources import open_data
from spa3r.train.task import PretrainTask
from spa3r.train.units import unit_of
from spa3r.train.validation import validator
from tests.box_rooms import box_recipe
from tests.unit.train.run_task import ALONE, run_task
from tests.unit.train.test_throughput import WithTeachers


def test_every_line_of_a_run_has_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spa3r.train.log.peak_flops", lambda device: 1e12)
    recipe = box_recipe(
        train__steps=3, train__log_every=3, train__validate_every=3, train__batches_per_step=1,
        clips__clips_per_scene=2,
    )  # fmt: skip
    source = WithTeachers(recipe, rooms=2)
    data = open_data(source, recipe)
    task = PretrainTask(recipe, data)
    look = validator(task.model, source, recipe.train, ALONE, stats=data.stats)
    run_task(tmp_path, task, recipe, validate=look)
    (line,) = read_lines(tmp_path / METRICS)
    assert {"total", "teacher_share", "peak_share", "field/model/geo/r2"} < set(line)
    for name in line.keys() - {"step"}:
        assert unit_of(name if name.startswith("field/") else f"train/{name}")


def test_every_score_of_an_evaluation_has_a_unit() -> None:
    names = [f"{kind}/{name}" for kind in KINDS for name in FEATURE_METRICS]
    names += [f"depth/{name}" for name in DEPTH_METRICS]
    for group in ("field", "validation"):
        assert all(unit_of(f"{group}/wrong_camera/{name}") for name in names)
    assert all(unit_of(f"train/{kind}/{part}") for kind in KINDS for part in ("l1", "cos"))


def test_a_number_without_a_unit_is_found() -> None:
    for name in ("train/speed", "field/model/geo/speed"):
        with pytest.raises(KeyError, match="speed"):
            unit_of(name)
