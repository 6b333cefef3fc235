"""What the page works with: a model that looks at views and answers about them.

Legend: V views, H W pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from spa3r.vision_input import SceneViews


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """Views that the model has looked at."""

    views: SceneViews
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What the encoder's field predicts at each view, by name: (V, H, W, 3) uint8 colours."""
    inner: Any = None
    """What the model itself needs to answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """The text of an answer is whole."""

    seconds: float
    truncated: bool
    """Ended by the limit of tokens, not by the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """The end of an answer."""

    view_shares: tuple[float, ...] | None
    """How much of it came from each view; sums to 1. None: not measured."""


class ChatModel(Protocol):
    """Used by one thread at a time."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What it is: base, encoder, what it was tuned on ..."""
        ...

    @property
    def photos_refused(self) -> str:
        """Why it cannot look at photos, in one line; "": it can."""
        ...

    @property
    def working_size(self) -> tuple[int, int]:
        """Width in pixels that views are brought to, and what both sides are a multiple of."""
        ...

    @property
    def max_views(self) -> int:
        """Most views of one scene."""
        ...

    def look(self, views: SceneViews) -> Seen:
        """Encodes the views. Raises Spa3RError."""
        ...

    def answer(self, seen: Seen, question: str) -> Iterator[str | Written | Answered]:
        """The answer's text in parts, that it is whole, and where it came from. Closing the
        iterator ends the work.

        Raises Spa3RError.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Scans:
    """Scenes that can be chosen by name."""

    names: tuple[str, ...] = ()
    read: Callable[[str], SceneViews] | None = None
    """Views of one of the names. Raises Spa3RError or OSError."""
