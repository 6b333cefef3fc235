"""Stored tokens of single frames: semantic and linguistic, shared by the clips of a scene.

Legend: N tokens per frame, D width.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from spa3r.data.answers import FrameKey, frame_widths
from spa3r.data.parts import check_finite
from spa3r.data.quantise import unpack_tokens
from spa3r.data.reader import Bytes, Range
from spa3r.data.stored import Place, StoredTargets, range_of, read_table, sample_of
from spa3r.data.targets import (
    CURE,
    REMAKE,
    SEMANTIC_COLUMNS,
    SEMANTIC_TABLE,
    frame_layout,
    parse_tensors,
)
from spa3r.errors import DamageError, ShardError
from spa3r.schema import SEM_PART


class FrameTokens:
    """Where the frames' tokens of a folder of targets lie, and what they are.

    Millions of rows fit, and one look-up is two searches.

    Raises:
        ShardError: the table is absent or damaged.
    """

    def __init__(self, targets: StoredTargets) -> None:
        self._spec, self._folder = targets.spec, targets.folder
        self.kinds = tuple(frame_widths(targets.spec))
        if not self.kinds:
            return
        table = read_table(targets.folder, SEMANTIC_TABLE, SEMANTIC_COLUMNS)
        self._table = table.combine_chunks()  # a chunk a scene would slow down every look-up
        frames, mirrors = (self._table[c].to_numpy() for c in ("frame", "mirror"))
        numbers = frames.astype(np.int64) * 2 + mirrors
        scenes = self._table["scene"].combine_chunks().dictionary_encode()
        starts = np.flatnonzero(np.diff(scenes.indices.to_numpy(), prepend=-1))
        ends = [*starts[1:], len(numbers)]
        self._scenes: dict[str, tuple[int, np.ndarray]] = {
            self._table["scene"][int(start)].as_py(): (int(start), numbers[start:end])
            for start, end in zip(starts, ends, strict=True)
        }

    def range(self, key: FrameKey, grid_hw: tuple[int, int]) -> Range:
        """Where a frame's tokens lie. Raises ShardError: no such frame."""
        return range_of(self._folder, self._place(key), frame_layout(grid_hw, self._spec))

    def parse(
        self, key: FrameKey, found: Mapping[Range, Bytes | DamageError], grid_hw: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Tokens (N, D) by kind in the loop's dtype, of what was read of `range`.

        Raises:
            DamageError: absent, damaged or not finite.
        """
        tensors = self._read(key, found, grid_hw)
        tokens = {kind: unpack_tokens(kind, tensors, self._spec.dtype) for kind in self.kinds}
        check_finite(tokens, self._where(key, grid_hw), REMAKE)
        return tokens

    def stored(
        self, key: FrameKey, found: Mapping[Range, Bytes | DamageError], grid_hw: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Tensors as they are stored (`frame_layout`). Raises DamageError as parse does."""
        tensors = self._read(key, found, grid_hw)
        check_finite(tensors, self._where(key, grid_hw), REMAKE)
        return tensors

    def _read(
        self, key: FrameKey, found: Mapping[Range, Bytes | DamageError], grid_hw: tuple[int, int]
    ) -> dict[str, Tensor]:
        where = self._where(key, grid_hw)
        member = (f"{key[1]:06d}{'m' if key[2] else ''}", SEM_PART)
        payload = sample_of(found[self.range(key, grid_hw)], self._place(key), member, where)
        return parse_tensors(payload, frame_layout(grid_hw, self._spec), where, cure=REMAKE)

    def _where(self, key: FrameKey, grid_hw: tuple[int, int]) -> str:
        mirrored = " mirrored" if key[2] else ""
        return f"{self.range(key, grid_hw).url}: frame {key[1]}{mirrored}"

    def _place(self, key: FrameKey) -> Place:
        scene, frame, mirror = key
        first, numbers = self._scenes.get(scene, (0, np.empty(0, np.int64)))
        at = int(np.searchsorted(numbers, 2 * frame + mirror))
        if at == len(numbers) or numbers[at] != 2 * frame + mirror:
            raise ShardError(
                f"{self._folder}/{SEMANTIC_TABLE}: no frame {frame} of scene {scene}; {CURE}"
            )
        columns = (self._table[name][first + at].as_py() for name in ("shard", "offset", "size"))
        return Place(*columns)
