"""Teachers in the loop: all of them (`OnlineTargets`), or the geometric one beside stored tokens of
frames (`HybridTargets`).

`fetch` reads and decodes, in loader threads; `finish` asks the teachers, in the training thread.
The same clip gives the same numbers as stored targets: to the bit on a CPU; on a GPU to rounding,
which depends on the batch, in the dtype that the recipe stores.

Legend: B clips, V views, N tokens per view, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spa3r import schema
from spa3r.config import TeacherSpec
from spa3r.data.answers import FrameKey, Sight, TeacherAnswers, broken_cameras, frame_keys, grid_of
from spa3r.data.batch import ClipBatch
from spa3r.data.clips import Clip
from spa3r.data.frame_tokens import FrameTokens
from spa3r.data.parts import (
    Poisoned,
    Views,
    asked_views,
    common_grid,
    is_finite,
    sieve,
    stack,
    to_batch,
)
from spa3r.data.reader import ShardReader
from spa3r.data.shards import FrameTable
from spa3r.data.stored import StoredTargets
from spa3r.data.views import to_device
from spa3r.errors import TeacherError
from spa3r.teachers.base import GeometricTargets, GeometricTeacher, SemanticTeacher


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """What the host prepared for one batch."""

    clips: tuple[Clip, ...]
    grid_hw: tuple[int, int]
    sights: list[Sight]
    """Of the clips that are whole."""
    tokens: dict[str, Tensor]
    """Of their frames, where those are stored."""
    dropped: dict[int, str]


class OnlineTargets:
    """All teachers are asked in the loop. A Staged source."""

    def __init__(
        self,
        table: FrameTable,
        clips: Sequence[Clip],
        spec: TeacherSpec,
        geometric: GeometricTeacher,
        semantic: SemanticTeacher | None,
        linguistic: SemanticTeacher | None = None,
        *,
        device: torch.device | str = "cpu",
        views: Views = "all",
        poisoned: Poisoned = "stop",
    ) -> None:
        """
        Args:
            device: where the teachers are, and where batches come out.
            views: see spa3r/data/parts.py; what is not asked is not computed.
            poisoned: what becomes of a clip whose frames are damaged, or whose targets are not
                finite.

        Raises:
            ConfigError: as TeacherAnswers.
        """
        self.clips = tuple(clips)
        self._spec = spec
        self._answers = TeacherAnswers(table, spec, geometric, semantic, linguistic, device=device)
        self._views: Views = views
        self._poisoned: Poisoned = poisoned

    def grid_hw(self, clip: Clip) -> tuple[int, int]:
        """See TargetSource."""
        return grid_of(self._answers.table, clip, self._spec.patch_size)

    def load(self, clips: Sequence[Clip]) -> ClipBatch:
        """See TargetSource. Raises as fetch and finish."""
        return self.finish(self.fetch(clips))

    def fetch(self, clips: Sequence[Clip]) -> Fetched:
        """See Staged.

        Raises:
            DamageError: a frame is damaged, and poison stops the run.
            ShardError: the storage failed, or the clips are of different grids.
            TeacherError, SceneError: as TeacherAnswers.look.
        """
        grid_hw = common_grid([self.grid_hw(clip) for clip in clips], clips)
        sights, dropped = sieve(clips, self._answers.look, self._poisoned)
        if dropped:
            self._answers.table.require()
        return Fetched(
            clips=tuple(clips), grid_hw=grid_hw, sights=sights, tokens={}, dropped=dropped
        )

    def finish(self, fetched: Fetched) -> ClipBatch:
        """See Staged.

        Raises:
            TeacherError: as TeacherAnswers; or an answer is not finite, and poison stops the run.
        """
        answers, device = self._answers, self._answers.device
        whole: dict[str, Tensor] = {}
        dropped = fetched.dropped
        if sights := fetched.sights:
            targets = answers.of_clips(sights, heads=self._views)
            whole = _named(targets) | self._of_frames(fetched)
            of_whole = [sight.clip for sight in sights]
            bad = _broken_tokens(whole, of_whole) | broken_cameras(targets, of_whole)
            if bad:
                if self._poisoned == "stop":
                    raise TeacherError(next(iter(bad.values())))
                whole, dropped = _without(whole, bad, fetched)
        return to_batch(
            fetched.clips, fetched.grid_hw, whole, dropped, self._spec, self._views, device
        )

    def _of_frames(self, fetched: Fetched) -> dict[str, Tensor]:
        """Per-frame tokens of the clips that are whole."""
        asked = [asked_views(sight.clip, self._views) for sight in fetched.sights]
        return self._answers.of_views(fetched.sights, asked, fetched.grid_hw)


class HybridTargets(OnlineTargets):
    """Tokens of frames are read, the geometric teacher is asked in the loop. A Staged source."""

    def __init__(
        self,
        table: FrameTable,
        targets: StoredTargets,
        geometric: GeometricTeacher,
        *,
        reader: ShardReader | None = None,
        device: torch.device | str = "cpu",
        views: Views = "all",
        poisoned: Poisoned = "stop",
    ) -> None:
        """
        Args:
            targets: a folder that holds the tokens of frames (DataConfig.stored).
            reader: share one to share its open files.
            device, views, poisoned: as of OnlineTargets.

        Raises:
            ShardError: the table of the frames' tokens is absent or damaged.
        """
        # Nobody is asked about frames, so none of their teachers is needed.
        alone = replace(targets.spec, semantic="none", linguistic="none")
        super().__init__(
            table, targets.clips, alone, geometric, None,
            device=device, views=views, poisoned=poisoned,
        )  # fmt: skip
        self._targets, self._frames = targets, FrameTokens(targets)
        self._reader = reader or ShardReader()
        self._spec = targets.spec

    def fetch(self, clips: Sequence[Clip]) -> Fetched:
        """See Staged. Raises as OnlineTargets.fetch, of stored tokens too."""
        grid_hw = common_grid([self.grid_hw(clip) for clip in clips], clips)
        keys = {clip.id: self._asked(clip) for clip in clips}
        asked = dict.fromkeys(
            self._frames.range(key, grid_hw) for clip in clips for key in keys[clip.id]
        )
        found = dict(zip(asked, self._reader.read_many(list(asked)), strict=True))

        def read(clip: Clip) -> tuple[dict[str, Tensor], Sight]:
            frames = [self._frames.parse(key, found, grid_hw) for key in keys[clip.id]]
            return stack(frames), self._answers.look(clip)

        parts, dropped = sieve(clips, read, self._poisoned)
        if dropped:
            self._targets.require()
            self._answers.table.require()
        return Fetched(
            clips=tuple(clips),
            grid_hw=grid_hw,
            sights=[sight for _, sight in parts],
            tokens=stack([tokens for tokens, _ in parts]),
            dropped=dropped,
        )

    def _asked(self, clip: Clip) -> list[FrameKey]:
        keys = frame_keys(clip)
        return [keys[view] for view in asked_views(clip, self._views)] if self._frames.kinds else []

    def _of_frames(self, fetched: Fetched) -> dict[str, Tensor]:
        device = self._answers.device
        return {kind: to_device(x_BTND, device) for kind, x_BTND in fetched.tokens.items()}


def _named(targets: GeometricTargets) -> dict[str, Tensor]:
    """A teacher's answer under the names of spa3r/schema.py."""
    return {
        schema.GEO_TOKENS: targets.tokens_BVND,
        schema.GEO_CONTEXT: targets.context_BCND,
        schema.CAMERA_FROM_WORLD: targets.camera_from_world_BV44,
        schema.INTRINSICS: targets.K_BV33,
        schema.PATCH_DEPTH: targets.depth_BVN,
        schema.PATCH_VALID: targets.valid_BVN,
    }


def _broken_tokens(whole: Mapping[str, Tensor], clips: Sequence[Clip]) -> dict[int, str]:
    """What is wrong with tokens that are too large for their dtype, by the place of their clip."""
    names = [n for n in (schema.GEO_TOKENS, schema.GEO_CONTEXT, *schema.FRAME_KINDS) if n in whole]
    finite_B = torch.stack([
        torch.stack([is_finite(x) for x in whole[name]]) for name in names
    ]).all(0)  # fmt: skip
    fine = finite_B.tolist()
    return {
        place: f"clip {clip.id}: the teacher's tokens are not finite in the stored dtype; set"
        " teacher.dtype='bfloat16' if they are large, or leave the scene out"
        for place, clip in enumerate(clips)
        if not fine[place]
    }


def _without(
    whole: Mapping[str, Tensor], bad: Mapping[int, str], fetched: Fetched
) -> tuple[dict[str, Tensor], dict[int, str]]:
    """The rest of the answers, and what is dropped in all; `bad` counts the whole clips only."""
    places = [p for p in range(len(fetched.clips)) if p not in fetched.dropped]
    kept = [row for row in range(len(places)) if row not in bad]
    dropped = {**fetched.dropped, **{places[row]: why for row, why in bad.items()}}
    return {name: x[kept] for name, x in whole.items()}, dropped
