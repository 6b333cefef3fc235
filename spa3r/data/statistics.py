"""Mean and standard deviation of tokens per channel, summed exactly enough over millions of them.

Legend: M tokens, D width.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from spa3r.errors import TeacherError


def require_finite(tokens: Tensor, what: str) -> None:
    """Raises TeacherError, saying of what, unless every number of these tokens is finite."""
    if not bool(tokens.isfinite().all()):
        raise TeacherError(
            f"{what}: the teacher's tokens are not finite in the stored dtype; set"
            " teacher.dtype='bfloat16' if they are large, or leave the scene out"
        )


class ChannelSums:
    """Count, sum and sum of squares per channel, in float64."""

    def __init__(self, width: int) -> None:
        self._count = torch.zeros(1, dtype=torch.float64)
        self._sum_D, self._squares_D = torch.zeros(2, width, dtype=torch.float64)

    def add(self, tokens_MD: Tensor) -> None:
        """Tokens of any dtype, on any device: they are summed where they are."""
        tokens_MD = tokens_MD.double()
        self._count += len(tokens_MD)
        self._sum_D += tokens_MD.sum(0).cpu()
        self._squares_D += tokens_MD.square().sum(0).cpu()

    def state(self, kind: str) -> dict[str, Tensor]:
        """Tensors "<kind>_count" (1,), "<kind>_sum" (D,) and "<kind>_squares" (D,)."""
        return {
            f"{kind}_count": self._count.clone(),
            f"{kind}_sum": self._sum_D.clone(),
            f"{kind}_squares": self._squares_D.clone(),
        }


def total_state(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The states' sum, added up in their order; each may hold other kinds."""
    totals: dict[str, Tensor] = {}
    for state in states:
        totals |= {name: totals.get(name, 0) + value for name, value in state.items()}
    return totals


def mean_and_std(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """float32 "<kind>_mean" and "<kind>_std" (D,) of all tokens behind the states.

    A channel that never varies gets deviation 1, so that standardising leaves it at 0.
    """
    totals = total_state(states)
    stats = {}
    for kind in sorted({name.partition("_")[0] for name in totals}):
        count = totals[f"{kind}_count"].clamp_min(1)
        mean_D, square_D = totals[f"{kind}_sum"] / count, totals[f"{kind}_squares"] / count
        variance_D = (square_D - mean_D.square()).clamp_min(0)
        constant_D = variance_D <= 1e-12 * square_D.clamp_min(1e-12)
        stats[f"{kind}_mean"] = mean_D.float()
        stats[f"{kind}_std"] = torch.where(constant_D, 1.0, variance_D.sqrt()).float()
    return stats
