"""Memory for batches that is used again: fresh pages cost more than what is copied into them."""

import math
import weakref
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

_WORTH_IT: Final = 1 << 20  # bytes; what is smaller malloc uses again by itself
_MOST_KEPT: Final = 2 << 30  # bytes that wait to be used again


class Buffers:
    """Hands out memory, and takes it back when nobody holds it any more.

    May be used from several threads; nothing here takes a lock, because memory comes back whenever
    the interpreter collects it, in the middle of anything.

    Args:
        pinned: tensors in page-locked memory, from which a GPU takes them while it computes; torch
            keeps that memory itself.
    """

    def __init__(self, *, pinned: bool = False) -> None:
        self._pinned = pinned
        self._free: dict[int, np.ndarray] = {}  # by id, the longest unused first

    @property
    def kept(self) -> int:
        """Bytes that wait to be used again."""
        return sum(memory.nbytes for memory in list(self._free.values()))

    def take(self, size: int) -> np.ndarray:
        """So many bytes, whatever is in them."""
        if size < _WORTH_IT:
            return np.empty(size, np.uint8)
        memory = self._reuse(size)
        if memory is None:
            memory = np.empty(size, np.uint8)
        handed_out = memory[:size]
        weakref.finalize(handed_out, self._give_back, memory).atexit = False
        return handed_out

    def _reuse(self, size: int) -> np.ndarray | None:
        """Kept memory that fits and is not half empty then."""
        for key, memory in list(self._free.items()):
            # Another thread may have taken it since.
            if size <= memory.nbytes < 2 * size and self._free.pop(key, None) is not None:
                return memory
        return None

    def _give_back(self, memory: np.ndarray) -> None:
        self._free[id(memory)] = memory
        while self.kept > _MOST_KEPT:
            self._free.pop(next(iter(list(self._free)), 0), None)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor, whatever is in it."""
        if self._pinned:
            return torch.empty(*shape, dtype=dtype, pin_memory=True)
        memory = self.take(math.prod(shape) * dtype.itemsize)
        return torch.frombuffer(memory, dtype=dtype).view(*shape)

    def stack(self, tensors: Sequence[Tensor]) -> Tensor:
        """torch.stack in such memory."""
        stacked = self.empty((len(tensors), *tensors[0].shape), tensors[0].dtype)
        return torch.stack(list(tensors), out=stacked)
