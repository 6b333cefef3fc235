import math
from dataclasses import replace
from typing import Any

import pytest

from spa3r.errors import ConfigError
from spa3r.eval.bootstrap import Interval
from spa3r.eval.controls import CONTROLS
from spa3r.eval.field import evaluate_field
from spa3r.eval.field_report import FieldReport, summarise
from spa3r.eval.gate import champion_gate, field_gate
from tests.unit.eval.fakes import FakeSource, Oracle, train_stats


def report(scenes: int = 8, knows: float = 1.0) -> FieldReport:
    model: Any = Oracle(knows)
    return evaluate_field(model, FakeSource(scenes, clips=1), train_stats=train_stats())


def test_the_oracle_passes() -> None:
    verdict = field_gate(report())
    assert verdict.passed and "8 held-out scenes" in verdict.reason
    assert set(verdict.margins) == set(CONTROLS) and min(verdict.margins.values()) > 0


def test_a_student_that_answers_the_mean_fails_and_the_reason_names_the_control() -> None:
    verdict = field_gate(report(knows=0.0))
    assert not verdict.passed and "training_mean (+0.000)" in verdict.reason


def test_one_lost_control_is_enough() -> None:
    good = report()
    for control in CONTROLS:
        row = {**good.differences["geo/r2"], control: Interval(mean=0.1, low=-0.01, high=0.2)}
        verdict = field_gate(replace(good, differences={"geo/r2": row}))
        assert not verdict.passed and control in verdict.reason


def test_a_bound_of_exactly_zero_fails() -> None:
    good = report()
    row = {**good.differences["geo/r2"], "wrong_camera": Interval(mean=0.1, low=0.0, high=0.2)}
    assert not field_gate(replace(good, differences={"geo/r2": row})).passed


def test_seven_scenes_are_refused_whatever_the_numbers() -> None:
    verdict = field_gate(report(scenes=7))
    assert not verdict.passed and "7 held-out scenes" in verdict.reason


def test_no_geometric_features_are_refused() -> None:
    good = report()
    semantic_only = replace(good, differences={"sem/r2": good.differences["sem/r2"]})
    assert "no geometric R2" in field_gate(semantic_only).reason


def test_a_champion_is_beaten_by_more_than_the_interval_only() -> None:
    better, same = report(), report(knows=0.9)
    won = champion_gate(better, same)
    assert won.passed and won.scenes == 8 and won.differences["geo/r2"].low > 0
    assert not champion_gate(same, same).passed, "a difference of zero is no difference"
    lost = champion_gate(same, better)
    assert not lost.passed and "semantic R2 is worse" in lost.reason


def test_a_champion_of_other_scenes_is_not_compared() -> None:
    with pytest.raises(ConfigError, match="1 held-out scenes were scored for one version only"):
        champion_gate(report(), report(scenes=9))


def with_scores(base: FieldReport, scenes: int, **scores: float | None) -> FieldReport:
    """The report, the model's scores in the first scenes replaced; None takes them away."""
    rows = []
    for number, row in enumerate(base.scenes):
        model = dict(row.scores["model"])
        if number < scenes:
            model |= {name.replace("_", "/"): x for name, x in scores.items() if x is not None}
            for name in (n.replace("_", "/") for n, x in scores.items() if x is None):
                del model[name]
        rows.append(replace(row, scores={**row.scores, "model": model}))
    return summarise(rows, {}, base.space, base.seed)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_passes_nothing(score: float) -> None:
    good, before = report(), report(knows=0.9)
    for metric in ("geo_r2", "sem_r2"):
        odd = with_scores(good, 1, **{metric: score})
        for verdict in (field_gate(odd), champion_gate(odd, before), champion_gate(good, odd)):
            assert not verdict.passed and "1 scores are not finite" in verdict.reason
    assert "the champion: 1 scores" in champion_gate(good, odd).reason


def test_scenes_without_the_score_do_not_count() -> None:
    good, before = report(scenes=10), report(scenes=10, knows=0.9)
    two, three = (with_scores(good, n, geo_r2=None) for n in (2, 3))
    assert field_gate(two).passed and champion_gate(two, before).passed
    for verdict in (field_gate(three), champion_gate(three, before)):
        assert not verdict.passed and "at least 8 are needed" in verdict.reason
        assert "7 held-out scenes (3 more have no geometric R2)" in verdict.reason
    assert "(2 more have no geometric R2)" in champion_gate(two, before).reason
    assert champion_gate(two, before).scenes == 8
    few = champion_gate(with_scores(good, 3, sem_r2=None), before)
    assert not few.passed and "(3 more have no semantic R2), at least 8" in few.reason
