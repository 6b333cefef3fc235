"""What the training loop needs to know of what it trains."""

from typing import Any, Protocol

from torch import Tensor, nn

from spa3r.data.batch import ClipBatch
from spa3r.data.clips import Clip


class Task(Protocol):
    """An objective. It is an nn.Module: called with a batch, it answers with the parts of its loss,
    each a mean over tokens, and their sum "total"."""

    @property
    def model(self) -> nn.Module:
        """What is trained and saved."""
        ...

    @property
    def has_teachers(self) -> bool:
        """Whether `finish` asks teachers."""
        ...

    def fetch(self, index: int) -> Any:
        """The host's part of getting batch `index` of the data order; called from threads."""
        ...

    def finish(self, fetched: Any) -> ClipBatch:
        """The device's part; called in the training thread."""
        ...

    def tokens(self, batch: ClipBatch) -> dict[str, Tensor]:
        """How many tokens each part of the loss is a mean over."""
        ...

    def part_of(self, parameter: str) -> str:
        """A part of the loss whose number of tokens divides this parameter's gradient. Parts that
        train the same parameter must count the same tokens."""
        ...

    def flops(self, batch: ClipBatch) -> int:
        """Of the model's forward and backward."""
        ...

    def blame(self, clips: tuple[Clip, ...]) -> str:
        """Scenes and clip ids to name when these clips gave a non-finite loss or gradient."""
        ...
