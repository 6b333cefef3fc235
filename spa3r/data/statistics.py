"""Mean and standard deviation of tokens per channel, summed exactly enough over millions of them.

Legend: M tokens, D width.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from spa3r.errors import TeacherError


class ChannelSums:
    """Count, sum and sum of squares per channel, in float64."""

    def __init__(self, width: int) -> None:
        self._count = torch.zeros(1, dtype=torch.float64)
        self._sum_D, self._squares_D = torch.zeros(2, width, dtype=torch.float64)

    def add(self, tokens_MD: Tensor, what: str) -> None:
        """Raises TeacherError, saying of what, if a token does not fit its dtype."""
        tokens_MD = tokens_MD.double()
        total_D = tokens_MD.sum(0)
        if not bool(torch.isfinite(total_D).all()):
            raise TeacherError(
                f"{what}: the teacher's tokens are not finite in the stored dtype; set"
                " teacher.dtype='bfloat16' if they are large"
            )
        self._count += len(tokens_MD)
        self._sum_D += total_D
        self._squares_D += tokens_MD.square().sum(0)

    def state(self, kind: str) -> dict[str, Tensor]:
        """Tensors "<kind>_count" (1,), "<kind>_sum" (D,) and "<kind>_squares" (D,)."""
        return {
            f"{kind}_count": self._count.clone(),
            f"{kind}_sum": self._sum_D.clone(),
            f"{kind}_squares": self._squares_D.clone(),
        }


def mean_and_std(states: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """float32 "<kind>_mean" and "<kind>_std" (D,) of all tokens behind the states.

    A channel that never varies gets deviation 1, so that standardising leaves it at 0.
    """
    totals: dict[str, Tensor] = {}
    for state in states:
        totals = {name: totals.get(name, 0) + value for name, value in state.items()}
    stats = {}
    for kind in sorted({name.partition("_")[0] for name in totals}):
        count = totals[f"{kind}_count"].clamp_min(1)
        mean_D, square_D = totals[f"{kind}_sum"] / count, totals[f"{kind}_squares"] / count
        variance_D = (square_D - mean_D.square()).clamp_min(0)
        constant_D = variance_D <= 1e-12 * square_D.clamp_min(1e-12)
        stats[f"{kind}_mean"] = mean_D.float()
        stats[f"{kind}_std"] = torch.where(constant_D, 1.0, variance_D.sqrt()).float()
    return stats
