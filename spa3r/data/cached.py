"""Stored targets, read clip by clip.

Legend: V views, T views whose per-frame tokens are asked, N tokens per view, D width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from spa3r import schema
from spa3r.config import TeacherSpec
from spa3r.data.answers import FrameKey, frame_keys
from spa3r.data.batch import ClipBatch
from spa3r.data.buffers import Buffers
from spa3r.data.clips import Clip
from spa3r.data.frame_tokens import FrameTokens
from spa3r.data.parts import (
    Parsed,
    Poisoned,
    Views,
    asked_views,
    check_finite,
    gather,
    sieve,
    stack,
    to_batch,
)
from spa3r.data.quantise import unpack_tokens
from spa3r.data.reader import Bytes, Range, ShardReader
from spa3r.data.stored import StoredTargets, range_of, sample_of
from spa3r.data.targets import CURE, REMAKE, clip_layout, parse_tensors
from spa3r.errors import DamageError, ShardError

_AS_THEY_ARE: Final = (
    schema.CAMERA_FROM_WORLD, schema.INTRINSICS, schema.PATCH_DEPTH, schema.PATCH_VALID
)  # fmt: skip


class CachedTargets(StoredTargets):
    """Targets that preprocessing/targets.py wrote. Attributes as StoredTargets.

    A batch is one round of requests, a range each for every clip and for every frame.

    Args:
        reader: share one to share its open files.
        views: see spa3r/data/parts.py; tokens of frames that are not asked are not read.
        poisoned: what becomes of a clip that is damaged or not finite.
        pin: batches in page-locked memory, for a GPU.

    Raises:
        ShardError: nothing finished there, another schema, damaged, or the clips themselves are
            not stored.
    """

    def __init__(
        self,
        folder: str | Path,
        reader: ShardReader | None = None,
        *,
        views: Views = "all",
        poisoned: Poisoned = "stop",
        pin: bool = False,
    ) -> None:
        super().__init__(folder)
        if self.stored != "clips":
            raise ShardError(
                f"{self.folder}: holds the {self.stored} of its clips, not the clips themselves;"
                f" {CURE} for a recipe with data.source='cached'"
            )
        self._buffers = Buffers(pinned=pin)
        self._reader = reader or ShardReader(buffers=Buffers())
        self._views: Views = views
        self._poisoned: Poisoned = poisoned
        self._frames = FrameTokens(self)

    def load(self, clips: Sequence[Clip]) -> ClipBatch:
        """See TargetSource.

        Raises:
            DamageError: a clip is damaged or not finite, and poison stops the run.
            ShardError: the storage failed, or the clips are of different grids.
        """
        grid_hw = self.common_grid(clips)
        asked = dict.fromkeys(one for clip in clips for one in self._ranges(clip, grid_hw))
        found = dict(zip(asked, self._reader.read_many(list(asked)), strict=True))
        parts, dropped = sieve(
            clips, lambda clip: self._parse(clip, grid_hw, found), self._poisoned
        )
        if dropped:
            self.require()
        whole = gather(parts, self._buffers)
        return to_batch(
            clips, grid_hw, whole, dropped, self.spec, self._views, buffers=self._buffers
        )

    def _ranges(self, clip: Clip, grid_hw: tuple[int, int]) -> list[Range]:
        """Where the clip and the frames that are asked lie."""
        layout = clip_layout(clip, grid_hw, self.spec)
        frames = [self._frames.range(key, grid_hw) for key in self._asked(clip)]
        return [range_of(self.folder, self._places[clip.id], layout), *frames]

    def _asked(self, clip: Clip) -> list[FrameKey]:
        if not self._frames.kinds:
            return []
        keys = frame_keys(clip)
        return [keys[view] for view in asked_views(clip, self._views)]

    def _parse(
        self, clip: Clip, grid_hw: tuple[int, int], found: Mapping[Range, Bytes | DamageError]
    ) -> Parsed:
        """Raises DamageError."""
        where, stored = self._stored(clip, grid_hw, found)
        frames = [self._frames.parse(key, found, grid_hw) for key in self._asked(clip)]
        return Parsed(clip_tensors(stored, self.spec, where, REMAKE), frames)

    def _stored(
        self, clip: Clip, grid_hw: tuple[int, int], found: Mapping[Range, Bytes | DamageError]
    ) -> tuple[str, dict[str, Tensor]]:
        """What an error about the clip begins with, and its tensors as they are stored."""
        layout, place = clip_layout(clip, grid_hw, self.spec), self._places[clip.id]
        at = range_of(self.folder, place, layout)
        where = f"{at.url}: clip {clip.id}"
        payload = sample_of(found[at], place, (clip.id, schema.CLIP_PART), where)
        return where, parse_tensors(payload, layout, where, cure=REMAKE)

    def read_stored(self, clip: Clip) -> dict[str, Tensor]:
        """A clip's tensors as `packed_layout` has them, for preprocessing/pack.py.

        Raises:
            DamageError: a part is absent, damaged or not finite. ShardError: the storage failed.
        """
        grid_hw = self.grid_hw(clip)
        keys = frame_keys(clip) if self._frames.kinds else []
        at = range_of(self.folder, self._places[clip.id], clip_layout(clip, grid_hw, self.spec))
        asked = dict.fromkeys([at, *(self._frames.range(key, grid_hw) for key in keys)])
        found = dict(zip(asked, self._reader.read_many(list(asked)), strict=True))
        where, tensors = self._stored(clip, grid_hw, found)
        check_finite(tensors, where, REMAKE)
        return tensors | stack([self._frames.stored(key, found, grid_hw) for key in keys])


def clip_tensors(
    stored: Mapping[str, Tensor], spec: TeacherSpec, where: str, cure: str
) -> dict[str, Tensor]:
    """A clip's own tensors by the names of spa3r/schema.py, tokens in the loop's dtype.

    Args:
        where, cure: see check_finite.

    Raises:
        DamageError: not finite.
    """
    tensors = {name: stored[name] for name in _AS_THEY_ARE}
    for name in (schema.GEO_TOKENS, schema.GEO_CONTEXT):
        if name in stored:
            tensors[name] = unpack_tokens(name, stored, spec.dtype)
    check_finite(tensors, where, cure)
    # A damaged byte that is neither 0 nor 1 must not become a bool that is neither.
    tensors[schema.PATCH_VALID] = tensors[schema.PATCH_VALID].view(torch.uint8) != 0
    return tensors
