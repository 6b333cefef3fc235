"""Mean relative accuracy: how near a number is, as VSI-Bench and SPAR-Bench score it."""

from typing import Final

import numpy as np

# Ten thresholds and not eleven: int((0.95 - 0.5) / 0.05 + 2) is int(10.999...). Scores at their
# boundaries depend on this very expression in float64 (3 against 2.55 scores 0.7, not 0.8).
_TOLERANCES: Final = 1 - np.linspace(0.5, 0.95, 10)


def relative_error(given: float, truth: float) -> float:
    """|given - truth| / truth, as VSI-Bench divides. Raises ZeroDivisionError where truth is 0."""
    return abs(given - truth) / truth


def relative_or_absolute_error(given: float, truth: float) -> float:
    """|(given - truth) / truth|, or |given - truth| where truth is 0, as SPAR-Bench divides."""
    return abs(given - truth) if truth == 0.0 else abs((given - truth) / truth)


def accuracy_of_error(error: float) -> float:
    """Share of the thresholds 0.5, 0.55 ... 0.95 whose tolerance 1 - threshold holds the error
    (closed: error <= tolerance). 0 where the error is not a number."""
    return float(np.mean(error <= _TOLERANCES))


def mean_relative_accuracy(given: float, truth: float) -> float:
    """0 to 1 in tenths. Raises ZeroDivisionError where truth is 0."""
    return accuracy_of_error(relative_error(given, truth))
