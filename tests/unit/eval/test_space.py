"""Two students are compared in one space: that of either, by the same numbers."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from spa3r.eval.field import evaluate_field, feature_spaces, space_hash
from spa3r.eval.metrics import FeatureSpace
from tests.unit.eval.fakes import FakeSource, Oracle, train_stats

SOURCE = FakeSource(3, clips=1)


def spaces(**of_geo: Any) -> dict[str, FeatureSpace]:
    """The oracle's own, with another space of its geometric tokens."""
    model: Any = Oracle()
    own = feature_spaces(model, train_stats())
    return own | {"geo": replace(own["geo"], **of_geo)}


def score(knows: float, given: dict[str, FeatureSpace] | None) -> dict[str, float]:
    model: Any = Oracle(knows)
    return evaluate_field(model, SOURCE, train_stats=train_stats(), spaces=given).mean["model"]


def test_its_own_space_gives_its_own_scores() -> None:
    assert score(0.7, spaces()) == pytest.approx(score(0.7, None), abs=1e-6)


def test_answers_are_carried_into_another_space() -> None:
    scale = torch.linspace(0.5, 4, 8)
    other = spaces(shift_D=torch.full((8,), 0.3), scale_D=scale, centre_D=torch.zeros(8))
    found, own = score(0.7, other), score(0.7, None)
    assert score(1.0, other)["geo/r2"] == pytest.approx(1, abs=1e-6)
    assert found["geo/r2"] != pytest.approx(own["geo/r2"], abs=1e-3)
    assert found["geo/cosine"] == pytest.approx(own["geo/cosine"], abs=1e-5)  # of teacher units
    assert found["sem/r2"] == pytest.approx(own["sem/r2"], abs=1e-6)


def test_kinds_that_only_one_student_has_are_left_out() -> None:
    geo_only = {"geo": spaces()["geo"]}
    assert not [name for name in score(0.7, geo_only) if name.startswith("sem/")]


def test_a_hash_tells_spaces_apart() -> None:
    assert space_hash(spaces()) == space_hash(spaces())
    other = spaces(scale_D=torch.full((8,), 1.001))
    assert space_hash(other) != space_hash(spaces())
    assert space_hash({"geo": spaces()["geo"]}) != space_hash(spaces())
