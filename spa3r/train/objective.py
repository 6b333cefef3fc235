"""What the training loop needs to know of what it trains."""

from collections.abc import Iterable
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn


class Batch(Protocol):
    """One micro-batch, whatever is in it."""

    @property
    def samples(self) -> tuple[Any, ...]:
        """What the loop names when the batch fails: clips, conversations."""
        ...

    @property
    def dropped(self) -> tuple[str, ...]:
        """One line for each sample that was left out."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """Copy with every tensor on the device."""
        ...


@runtime_checkable
class Pinnable(Protocol):
    """A batch that a GPU can take from page-locked memory while it computes."""

    def pin(self) -> Self:
        """Copy in page-locked memory."""
        ...


class Task(Protocol):
    """An objective. It is an nn.Module: called with a batch, it answers with the parts of its loss,
    each a mean over tokens, and their sum "total"."""

    @property
    def model(self) -> nn.Module:
        """What is trained; of it is saved what requires a gradient, and its buffers."""
        ...

    @property
    def sample(self) -> str:
        """What one sample is called: "clip", "conversation"."""
        ...

    @property
    def starved(self) -> str:
        """Why no token may have entered the loss for long, and the cure; half a line."""
        ...

    @property
    def has_teachers(self) -> bool:
        """Whether `finish` asks teachers."""
        ...

    def blocks(self) -> Iterable[nn.Module]:
        """The model's transformer blocks: what is gathered, and compiled, at a time."""
        ...

    def fetch(self, index: int) -> Any:
        """The host's part of getting batch `index` of the data order; called from threads."""
        ...

    def finish(self, fetched: Any) -> Batch:
        """The device's part; called in the training thread."""
        ...

    def tokens(self, batch: Any) -> dict[str, Tensor]:
        """How many tokens each part of the loss is a mean over."""
        ...

    def part_of(self, parameter: str) -> str:
        """A part of the loss whose number of tokens divides this parameter's gradient. Parts that
        train the same parameter must count the same tokens."""
        ...

    def counts(self, batch: Any) -> dict[str, int]:
        """What is counted for each second of training, always by the same names: "views"."""
        ...

    def flops(self, batch: Any) -> int:
        """Of the model's forward and backward."""
        ...

    def blame(self, samples: tuple[Any, ...]) -> str:
        """Names of these samples, to say which ones gave a non-finite loss or gradient."""
        ...
