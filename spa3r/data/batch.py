"""A batch of clips with their targets, as the trainer and the evaluation see it.

Legend: B clips, V views, C context views, N tokens per view, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from spa3r.data.clips import Clip
from spa3r.schema import KINDS


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipBatch:
    """Clips of equal view count, context count and grid. Tokens come in the stored dtype."""

    clips: tuple[Clip, ...]
    grid_hw: tuple[int, int]
    is_target_BV: Tensor  # bool
    geo_BVND: Tensor
    context_BCND: Tensor  # encoder input; equals geo at the context views except with two passes
    sem_BVND: Tensor | None
    lang_BVND: Tensor | None = None
    camera_from_world_BV44: Tensor  # float32, world = view 0's camera, clip units
    K_BV33: Tensor  # float32, pixels
    depth_BVN: Tensor  # float32, clip units, 0 = unknown
    valid_BVN: Tensor  # bool
    dropped: tuple[str, ...] = ()
    """One line for each poisoned clip of the batch: its rows are zero and nowhere valid."""

    @property
    def samples(self) -> tuple[Clip, ...]:
        """The clips (spa3r/train/objective.py)."""
        return self.clips

    def tokens(self) -> dict[str, Tensor]:
        """Target tokens by kind ("geo", "sem", "lang"), only what is there."""
        every = {kind: getattr(self, f"{kind}_BVND") for kind in KINDS}
        return {kind: x for kind, x in every.items() if x is not None}

    def to(self, device: torch.device | str) -> "ClipBatch":
        """Copy with every tensor on the device."""
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def pin(self) -> "ClipBatch":
        """Copy in page-locked memory, from which a GPU takes it while it computes."""
        return replace(self, **{
            f.name: getattr(self, f.name).pin_memory()
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        })  # fmt: skip


class TargetSource(Protocol):
    """Where targets come from: stored, or teachers in the loop (DataConfig.source)."""

    @property
    def clips(self) -> Sequence[Clip]:
        """All of them, in manifest order."""
        ...

    def grid_hw(self, clip: Clip) -> tuple[int, int]:
        """Rows and columns of patches of the clip's views."""
        ...

    def load(self, clips: Sequence[Clip]) -> ClipBatch:
        """Targets of clips that agree in view count, context count and grid."""
        ...


@runtime_checkable
class Staged(Protocol):
    """A source with teachers in the loop: `load(clips)` is `finish(fetch(clips))`."""

    def fetch(self, clips: Sequence[Clip]) -> Any:
        """The host's work, reading and decoding; called from loader threads."""
        ...

    def finish(self, fetched: Any) -> ClipBatch:
        """The device's work, the teachers; called in the training thread."""
        ...


@runtime_checkable
class Sequential(Protocol):
    """A source that is read fastest in runs of neighbours."""

    @property
    def shards(self) -> Sequence[Sequence[Clip]]:
        """The clips of each shard as they lie in it; all agree in views, context and grid."""
        ...
