"""Asks the frozen teachers about clips and frames of a manifest.

Written targets and teachers in the loop both come through here, which is why they agree. Recent
frames stay decoded, and for `rgbd` described, because clips of a scene share them.

Legend: B clips, F frames, V views, T views whose per-frame tokens are asked, N tokens per view,
D width.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from threading import Lock
from typing import Final, Literal

import torch
from torch import Tensor

from spa3r.config import TeacherSpec
from spa3r.data.clips import Clip
from spa3r.data.quantise import loop_dtype
from spa3r.data.shards import FrameTable
from spa3r.data.views import (
    all_to_device,
    concatenate,
    cut_frames,
    join_views,
    load_frames,
    pick_frames,
    pinned,
    stack_views,
    used_patches,
)
from spa3r.errors import ConfigError, TeacherError
from spa3r.schema import FRAME_KINDS, KIND_NAMES, LANG_TOKENS, SEM_TOKENS
from spa3r.teachers.base import ClipViews, GeometricTargets, GeometricTeacher, SemanticTeacher
from spa3r.teachers.rgbd import RgbdTeacher
from spa3r.teachers.rgbd_features import PatchStats

_RECENT_FRAMES: Final = 64
_FRAMES_PER_CALL_ON_GPU: Final = 16

FrameKey = tuple[str, int, bool]
"""(scene, frame number, mirrored)."""


def frame_widths(spec: TeacherSpec) -> dict[str, int]:
    """Kinds of per-frame tokens that the spec's teachers give, with their widths."""
    widths = {SEM_TOKENS: spec.semantic_width, LANG_TOKENS: spec.linguistic_width}
    return {kind: widths[kind] for kind in FRAME_KINDS if getattr(spec, KIND_NAMES[kind]) != "none"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What the teachers will look at, of one clip (B = 1), in the host's memory."""

    clip: Clip
    views: ClipViews
    patches: PatchStats | None
    """What `rgbd` says of each view alone; None for other teachers."""


class TeacherAnswers:
    """What the teachers say about the frames of one manifest, in the dtype of the training loop.

    On a CPU each clip, and each frame, is a call of its own: batches gain nothing there, and what
    is said of a clip then does not depend, not even by rounding, on the company in which it was
    asked about. On a GPU it does, by rounding.

    A patch of which less than half of the pixels is used (FrameSample.mask) is not valid, whatever
    the teacher.

    Args:
        semantic, linguistic: None where the spec says "none".
        device: where the teachers are and the answers will be.

    Raises:
        ConfigError: the frame teachers are not those that the spec names.
    """

    def __init__(
        self,
        table: FrameTable,
        spec: TeacherSpec,
        geometric: GeometricTeacher,
        semantic: SemanticTeacher | None,
        linguistic: SemanticTeacher | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.table, self.spec, self.device = table, spec, torch.device(device)
        self._geometric = geometric
        given = {SEM_TOKENS: semantic, LANG_TOKENS: linguistic}
        self._of_frames: Mapping[str, SemanticTeacher] = {k: t for k, t in given.items() if t}
        if set(self._of_frames) != set(frame_widths(spec)):
            raise ConfigError(
                f"frame teachers {sorted(self._of_frames)} given, but the spec names"
                f" {sorted(frame_widths(spec))}: set teacher.semantic and teacher.linguistic to"
                " match"
            )
        self._dtype = loop_dtype(spec.dtype)
        self._recent = _RecentFrames(table)
        self._patches = lru_cache(maxsize=_RECENT_FRAMES)(self._describe)

    def grid_hw(self, clip: Clip) -> tuple[int, int]:
        """Rows and columns of patches of the clip's views."""
        return grid_of(self.table, clip, self._geometric.patch_size)

    # --- clips: the host's work, then the device's ------------------------------------------------

    def look(self, clip: Clip) -> Sight:
        """Reads and decodes a clip's frames; may be called from several threads.

        Raises:
            TeacherError: the views lack what the teacher needs, names the scene.
            DamageError, ShardError, SceneError: as load_views.
        """
        keys = frame_keys(clip)
        views = join_views(self._recent.load(keys), clip)
        if self.device.type == "cuda":
            views = pinned(views)
        patches = None
        if isinstance(self._geometric, RgbdTeacher):
            with _naming({clip.scene}):
                patches = concatenate([self._patches(*key) for key in keys], dim=1)
        return Sight(clip=clip, views=views, patches=patches)

    @torch.no_grad()
    def of_clips(
        self, sights: Sequence[Sight], *, heads: Literal["all", "targets"] = "all"
    ) -> GeometricTargets:
        """Targets of clips that agree in view count, context count and size.

        Args:
            heads: as of GeometricTeacher.

        Raises:
            TeacherError: the views lack what the teacher needs, names the scenes.
        """
        if self.device.type == "cpu":
            parts = [self._ask([sight], heads) for sight in sights]
        else:
            parts = [self._ask(sights, heads)]
        return concatenate(parts, dim=0)

    @torch.no_grad()
    def of_views(
        self, sights: Sequence[Sight], asked: Sequence[Sequence[int]], grid_hw: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Per-frame tokens (B, T, N, D) of the asked views of each clip, equally many, by kind.

        Raises:
            TeacherError: as of_frames.
        """
        pairs = list(zip(sights, asked, strict=True))
        frames = [
            pick_frames(all_to_device(sight.views, self.device), views) for sight, views in pairs
        ]
        scenes = [sight.clip.scene for sight, views in pairs for _ in views]
        tokens = self._say(stack_views(frames), scenes, grid_hw)
        return {kind: x_FND.unflatten(0, (len(sights), -1)) for kind, x_FND in tokens.items()}

    # --- clips and frames by name -----------------------------------------------------------------

    def geometric(self, clips: Sequence[Clip]) -> GeometricTargets:
        """Targets of clips that agree in view count, context count and size.

        Raises:
            TeacherError: as of_clips; or a camera that is not finite, names the clip.
            DamageError, ShardError, SceneError: as load_views.
        """
        targets = self.of_clips([self.look(clip) for clip in clips])
        for why in broken_cameras(targets, clips).values():
            raise TeacherError(why)
        return targets

    @torch.no_grad()
    def of_frames(self, frames: Sequence[FrameKey], grid_hw: tuple[int, int]) -> dict[str, Tensor]:
        """Per-frame tokens (F, N, D) of frames of one size, by kind; {} without frame teachers.

        Raises:
            TeacherError: a teacher lacks what it needs; names the scenes.
        """
        if not self._of_frames:
            return {}
        views = stack_views(self._recent.load(frames))
        return self._say(views, [scene for scene, _, _ in frames], grid_hw)

    # --- teachers ---------------------------------------------------------------------------------

    def _ask(self, sights: Sequence[Sight], heads: Literal["all", "targets"]) -> GeometricTargets:
        """One call of the geometric teacher."""
        views = stack_views([all_to_device(sight.views, self.device) for sight in sights])
        with _naming({sight.clip.scene for sight in sights}):
            if isinstance(self._geometric, RgbdTeacher):
                stats = concatenate([one.patches for one in sights if one.patches], dim=0)
                stats = all_to_device(stats, self.device)
                targets = self._geometric.answer(stats, views, heads=heads)
            else:
                targets = self._geometric(views, heads=heads)
        used_BVN = used_patches(views, self._geometric.patch_size)
        return replace(
            targets,
            tokens_BVND=targets.tokens_BVND.to(self._dtype),
            context_BCND=targets.context_BCND.to(self._dtype),
            # VGGT's depth is an exponential; 0 is unknown.
            depth_BVN=targets.depth_BVN.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0),
            valid_BVN=targets.valid_BVN if used_BVN is None else targets.valid_BVN & used_BVN,
        )

    def _say(
        self, views_F1: ClipViews, scenes: Sequence[str], grid_hw: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Per-frame tokens (F, N, D) of single views."""
        step = 1 if self.device.type == "cpu" else _FRAMES_PER_CALL_ON_GPU
        tokens: dict[str, list[Tensor]] = {kind: [] for kind in self._of_frames}
        for start in range(0, len(scenes), step):
            views = all_to_device(cut_frames(views_F1, start, start + step), self.device)
            with _naming(set(scenes[start : start + step])):
                for kind, teacher in self._of_frames.items():
                    tokens[kind].append(teacher(views, grid_hw)[:, 0].to(self._dtype))
        return {kind: torch.cat(parts) for kind, parts in tokens.items()}

    def _describe(self, scene: str, frame: int, mirror: bool) -> PatchStats:
        assert isinstance(self._geometric, RgbdTeacher)
        return self._geometric.describe(self._recent.load([(scene, frame, mirror)])[0])


def frame_keys(clip: Clip) -> list[FrameKey]:
    """The clip's frames in order, as keys of per-frame tokens."""
    return [(clip.scene, frame, clip.mirror) for frame in clip.frames]


def grid_of(table: FrameTable, clip: Clip, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches of the clip's views."""
    row = table.row(clip.scene, clip.frames[0])
    return row["height"] // patch_size, row["width"] // patch_size


def broken_cameras(targets: GeometricTargets, clips: Sequence[Clip]) -> dict[int, str]:
    """What is wrong with cameras that no student could learn from, by the place of their clip.

    VGGT's camera head ends in a ReLU, so its field of view can be 0 and its focal length infinite.
    """
    cameras = (targets.camera_from_world_BV44, targets.K_BV33)
    finite_BV = torch.stack([x.isfinite().flatten(2).all(-1) for x in cameras]).all(0)
    found: dict[int, str] = {}
    for place, (clip, finite_V) in enumerate(zip(clips, finite_BV.tolist(), strict=True)):
        if not all(finite_V):
            view = finite_V.index(False)
            found[place] = (
                f"clip {clip.id}: the teacher's camera of view {view} (frame {clip.frames[view]})"
                " is not finite; drop that frame, or set teacher.cameras='dataset' if the scan has"
                " poses"
            )
    return found


class _RecentFrames:
    """Decoded frames, the latest ones kept; may be used from several threads."""

    def __init__(self, table: FrameTable) -> None:
        self._table = table
        self._kept: OrderedDict[FrameKey, ClipViews] = OrderedDict()
        self._lock = Lock()

    def load(self, keys: Sequence[FrameKey]) -> list[ClipViews]:
        """Each as a clip of one view. Raises as load_frames."""
        with self._lock:
            found = {key: self._kept[key] for key in keys if key in self._kept}
        lacking = [key for key in dict.fromkeys(keys) if key not in found]
        for (scene, mirror), group in groupby(lacking, key=lambda key: (key[0], key[2])):
            same = list(group)
            views = load_frames(self._table, scene, [frame for _, frame, _ in same], mirror)
            found |= dict(zip(same, views, strict=True))
        with self._lock:
            for key in keys:
                self._kept[key] = found[key]
                self._kept.move_to_end(key)
            while len(self._kept) > _RECENT_FRAMES:
                self._kept.popitem(last=False)
        return [found[key] for key in keys]


@contextmanager
def _naming(scenes: set[str]) -> Iterator[None]:
    """Teachers see tensors only; their errors must still name the scenes."""
    try:
        yield
    except TeacherError as error:
        raise TeacherError(f"scene {', '.join(sorted(scenes))}: {error}") from error
