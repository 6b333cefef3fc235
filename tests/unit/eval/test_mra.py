"""Boundaries of mean relative accuracy, as VSI-Bench's own arithmetic has them."""

import math

import pytest

from spa3r.eval.mra import (
    accuracy_of_error,
    mean_relative_accuracy,
    relative_or_absolute_error,
)

OF_FOUR = {4: 1.0, 3.8: 1.0, 4.2: 1.0, 3.6: 0.9, 4.4: 0.9, 3: 0.6, 5: 0.6, 2: 0.1, 6: 0.1,
           1.99: 0.0, 8: 0.0, 0: 0.0, -4: 0.0}  # fmt: skip


@pytest.mark.parametrize(("given", "score"), OF_FOUR.items())
def test_of_a_truth_of_four(given: float, score: float) -> None:
    assert mean_relative_accuracy(given, 4.0) == score


@pytest.mark.parametrize("given", [2.55, 3.45])
def test_boundaries_follow_float64(given: float) -> None:
    assert mean_relative_accuracy(given, 3.0) == 0.7  # in exact numbers it would be 0.8


def test_a_truth_of_zero_raises_as_the_references_do() -> None:
    with pytest.raises(ZeroDivisionError):
        mean_relative_accuracy(1.0, 0.0)
    assert relative_or_absolute_error(0.3, 0.0) == 0.3


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_what_is_no_number_scores_nothing(error: float) -> None:
    assert accuracy_of_error(error) == 0.0
