"""Stored targets, read in runs of neighbours from sequential shards (preprocessing/pack.py).

Legend: V views, T views whose per-frame tokens are asked, N tokens per view, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from torch import Tensor

from spa3r.data.answers import frame_widths
from spa3r.data.batch import ClipBatch
from spa3r.data.buffers import Buffers
from spa3r.data.cached import clip_tensors
from spa3r.data.clips import Clip
from spa3r.data.parts import (
    Parsed,
    Poisoned,
    Views,
    asked_views,
    check_finite,
    gather,
    sieve,
    to_batch,
)
from spa3r.data.payload import parse_payload
from spa3r.data.quantise import unpack_tokens
from spa3r.data.reader import Bytes, Range, ShardReader, joined
from spa3r.data.stored import Place, StoredTargets, range_of, sample_of
from spa3r.data.targets import frame_layout, packed_layout
from spa3r.errors import DamageError, ShardError
from spa3r.schema import CLIP_PART, SIDECAR_SUFFIX

CURE: Final = "run `spa3r pack` again"
_GAP: Final = 16 << 10  # bytes between two clips, at most: tar headers, the JSON part


class PackedTargets(StoredTargets):
    """Clips with all that belongs to them, in shards of one view count, context count and size.

    A batch of neighbours is one range of one shard. A Sequential source.

    Attributes:
        shards: the clips of each shard as they lie in it; other attributes as StoredTargets.

    Args:
        reader, views, poisoned, pin: as of CachedTargets; all of a clip is read, whatever is
            asked.

    Raises:
        ShardError: nothing finished there, damaged, or no sequential shards.
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
        if self.stored != "packed":
            raise ShardError(f"{self.folder}: no sequential shards; {CURE}, and name its folder")
        self._buffers = Buffers(pinned=pin)
        self._reader = reader or ShardReader(buffers=Buffers())
        self._views: Views = views
        self._poisoned: Poisoned = poisoned
        shards: dict[str, list[Clip]] = {}
        for clip in sorted(self.clips, key=lambda c: (self._place(c).shard, self._place(c).offset)):
            shards.setdefault(self._place(clip).shard, []).append(clip)
        self.shards = tuple(tuple(clips) for clips in shards.values())

    def load(self, clips: Sequence[Clip]) -> ClipBatch:
        """See TargetSource. Raises as CachedTargets.load."""
        grid_hw = self.common_grid(clips)
        ranges = {clip.id: self._range(clip, grid_hw) for clip in clips}
        found = self._read(list(ranges.values()))

        def parse(clip: Clip) -> Parsed:
            return self._parse(clip, grid_hw, found[ranges[clip.id]], ranges[clip.id].url)

        parts, dropped = sieve(clips, parse, self._poisoned)
        if dropped:
            self.require()
        whole = gather(parts, self._buffers)
        return to_batch(
            clips, grid_hw, whole, dropped, self.spec, self._views, buffers=self._buffers
        )

    def _place(self, clip: Clip) -> Place:
        return self._places[clip.id]

    def _range(self, clip: Clip, grid_hw: tuple[int, int]) -> Range:
        return range_of(self.folder, self._place(clip), packed_layout(clip, grid_hw, self.spec))

    def _read(self, ranges: Sequence[Range]) -> dict[Range, Bytes | DamageError]:
        """Neighbours as one range; one by one where that leaves the file, of which a part may be
        whole, or where they are no neighbours."""
        run = joined(ranges, _GAP)
        if run is not None:
            (data,) = self._reader.read_many([run])
            if not isinstance(data, DamageError):
                view = memoryview(data)
                begins = [one.offset - run.offset for one in ranges]
                return {
                    one: view[begin : begin + one.size]
                    for one, begin in zip(ranges, begins, strict=True)
                }
        return dict(zip(ranges, self._reader.read_many(ranges), strict=True))

    def _parse(
        self, clip: Clip, grid_hw: tuple[int, int], found: Bytes | DamageError, url: str
    ) -> Parsed:
        """Raises DamageError."""
        spec, where = self.spec, f"{url}: clip {clip.id}"
        layout = packed_layout(clip, grid_hw, spec)
        # Damage may leave a shard its size: with its sidecar there, it would be re-used.
        sidecar = url.rpartition("/")[2].removesuffix(".tar") + SIDECAR_SUFFIX
        cure = f"delete {sidecar} beside it and {CURE}"
        payload = sample_of(found, self._place(clip), (clip.id, CLIP_PART), where, cure=cure)
        stored = parse_payload(payload, layout, where, cure=cure)
        kinds, names = frame_widths(spec), frame_layout(grid_hw, spec)
        frames: list[dict[str, Tensor]] = []
        for view in asked_views(clip, self._views) if kinds else ():
            of_view = {name: stored[name][view] for name in names}
            frames.append({kind: unpack_tokens(kind, of_view, spec.dtype) for kind in kinds})
            check_finite(frames[-1], where, cure)
        return Parsed(clip_tensors(stored, spec, where, cure), frames)
