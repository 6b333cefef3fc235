"""The processes of one training run: alone, or a torch.distributed group that someone opened."""

from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process's place among `size` equal ones, and the device it computes on."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @classmethod
    def of_group(cls, device: torch.device) -> "World":
        """Place in the default process group (which must be initialised)."""
        return cls(device=device, rank=distributed.get_rank(), size=distributed.get_world_size())

    def sum(self, values_N: Tensor) -> Tensor:
        """Sums over the world."""
        if self.size > 1:
            distributed.all_reduce(values_N)
        return values_N

    def gather(self, values_N: Tensor) -> list[Tensor]:
        """Every rank's tensor (equal shapes), on the CPU, in order of rank."""
        if self.size == 1:
            return [values_N.cpu()]
        mine_N = values_N.to(self.device)
        all_WN = [torch.empty_like(mine_N) for _ in range(self.size)]
        distributed.all_gather(all_WN, mine_N)
        return [x.cpu() for x in all_WN]

    def first(self, value: float) -> float:
        """Rank 0's value, on every rank."""
        return self.gather(torch.tensor([value], dtype=torch.float64))[0].item()

    def texts(self, mine: list[str]) -> list[str]:
        """The texts of all ranks, in order of rank."""
        if self.size == 1:
            return mine
        of_rank: list[list[str]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(of_rank, mine)
        return [text for texts in of_rank for text in texts]

    def barrier(self) -> None:
        """Returns when every rank is here."""
        if self.size > 1:
            self.sum(torch.zeros(1, device=self.device)).item()
