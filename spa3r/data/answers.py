"""Asks the frozen teachers about clips and frames of a manifest.

Written targets and teachers in the loop both come through here, which is why they agree. Recent
frames stay decoded, and for `rgbd` described, because clips of a scene share them.

Legend: B clips, F frames, V views, N tokens per view, D width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from spa3r.config import TeacherSpec
from spa3r.data.clips import Clip
from spa3r.data.shards import FrameTable
from spa3r.data.views import concatenate, join_views, load_view, stack_views, to_device
from spa3r.errors import ConfigError, TeacherError
from spa3r.schema import FRAME_KINDS, KIND_NAMES, LANG_TOKENS, SEM_TOKENS
from spa3r.teachers.base import ClipViews, GeometricTargets, GeometricTeacher, SemanticTeacher
from spa3r.teachers.rgbd import RgbdTeacher
from spa3r.teachers.rgbd_features import PatchStats

_RECENT_FRAMES: Final = 64
_FRAMES_PER_CALL_ON_GPU: Final = 16
TOKEN_DTYPES: Final = {"float16": torch.float16, "bfloat16": torch.bfloat16}

FrameKey = tuple[str, int, bool]
"""(scene, frame number, mirrored)."""


def frame_widths(spec: TeacherSpec) -> dict[str, int]:
    """Kinds of per-frame tokens that the spec's teachers give, with their widths."""
    widths = {SEM_TOKENS: spec.semantic_width, LANG_TOKENS: spec.linguistic_width}
    return {kind: widths[kind] for kind in FRAME_KINDS if getattr(spec, KIND_NAMES[kind]) != "none"}


class TeacherAnswers:
    """What the teachers say about the frames of one manifest, in the stored dtype.

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
        self.table, self.spec = table, spec
        self._geometric = geometric
        given = {SEM_TOKENS: semantic, LANG_TOKENS: linguistic}
        self._of_frames: Mapping[str, SemanticTeacher] = {k: t for k, t in given.items() if t}
        if set(self._of_frames) != set(frame_widths(spec)):
            raise ConfigError(
                f"frame teachers {sorted(self._of_frames)} given, but the spec names"
                f" {sorted(frame_widths(spec))}: set teacher.semantic and teacher.linguistic to"
                " match"
            )
        self._device = torch.device(device)
        self._dtype = TOKEN_DTYPES[spec.dtype]
        self._view = lru_cache(maxsize=_RECENT_FRAMES)(self._load_view)
        self._patches = lru_cache(maxsize=_RECENT_FRAMES)(self._describe)

    def grid_hw(self, clip: Clip) -> tuple[int, int]:
        """Rows and columns of patches of the clip's views."""
        row = self.table.row(clip.scene, clip.frames[0])
        patch = self._geometric.patch_size
        return row["height"] // patch, row["width"] // patch

    @torch.no_grad()
    def geometric(self, clips: Sequence[Clip]) -> GeometricTargets:
        """Targets of clips that agree in view count, context count and size; one teacher call.

        Raises:
            TeacherError: the views lack what the teacher needs, names the scenes; or a camera that
                is not finite, names the clip.
            ShardError, SceneError: as load_views.
        """
        views = stack_views([self._views(clip) for clip in clips])
        with _naming({clip.scene for clip in clips}):
            if isinstance(self._geometric, RgbdTeacher):
                stats = concatenate([self._clip_patches(clip) for clip in clips], dim=0)
                targets = self._geometric.answer(stats, views)
            else:
                targets = self._geometric(views)
        _check_cameras(targets, clips)
        return replace(
            targets,
            tokens_BVND=targets.tokens_BVND.to(self._dtype),
            context_BCND=targets.context_BCND.to(self._dtype),
        )

    @torch.no_grad()
    def of_frames(self, frames: Sequence[FrameKey], grid_hw: tuple[int, int]) -> dict[str, Tensor]:
        """Per-frame tokens (F, N, D) of frames of one size, by kind; {} without frame teachers.

        On a CPU each frame is a call of its own: batches gain nothing there, and a frame's tokens
        then do not depend, not even by rounding, on the company in which they were asked for.

        Raises:
            TeacherError: a teacher lacks what it needs; names the scenes.
        """
        if not self._of_frames:
            return {}
        step = 1 if self._device.type == "cpu" else _FRAMES_PER_CALL_ON_GPU
        tokens: dict[str, list[Tensor]] = {kind: [] for kind in self._of_frames}
        for start in range(0, len(frames), step):
            keys = frames[start : start + step]
            views = stack_views([self._view(*key) for key in keys])
            with _naming({scene for scene, _, _ in keys}):
                for kind, teacher in self._of_frames.items():
                    tokens[kind].append(teacher(views, grid_hw)[:, 0].to(self._dtype))
        return {kind: torch.cat(parts) for kind, parts in tokens.items()}

    def _views(self, clip: Clip) -> ClipViews:
        views = join_views([self._view(*key) for key in frame_keys(clip)], clip)
        return to_device(views, self._device)

    def _clip_patches(self, clip: Clip) -> PatchStats:
        return concatenate([self._patches(*key) for key in frame_keys(clip)], dim=1)

    def _load_view(self, scene: str, frame: int, mirror: bool) -> ClipViews:
        return to_device(load_view(self.table, scene, frame, mirror), self._device)

    def _describe(self, scene: str, frame: int, mirror: bool) -> PatchStats:
        assert isinstance(self._geometric, RgbdTeacher)
        return self._geometric.describe(self._view(scene, frame, mirror))


def frame_keys(clip: Clip) -> list[FrameKey]:
    """The clip's frames in order, as keys of per-frame tokens."""
    return [(clip.scene, frame, clip.mirror) for frame in clip.frames]


def _check_cameras(targets: GeometricTargets, clips: Sequence[Clip]) -> None:
    """Refuses cameras that no student could learn from.

    VGGT's camera head ends in a ReLU, so its field of view can be 0 and its focal length infinite.
    """
    cameras = (targets.camera_from_world_BV44, targets.K_BV33)
    finite_BV = torch.stack([x.isfinite().flatten(2).all(-1) for x in cameras]).all(0)
    if finite_BV.all():
        return
    clip, view = (int(i) for i in (~finite_BV).nonzero()[0])
    raise TeacherError(
        f"clip {clips[clip].id}: the teacher's camera of view {view} (frame"
        f" {clips[clip].frames[view]}) is not finite; drop that frame, or set"
        " teacher.cameras='dataset' if the scan has poses"
    )


@contextmanager
def _naming(scenes: set[str]) -> Iterator[None]:
    """Teachers see tensors only; their errors must still name the scenes."""
    try:
        yield
    except TeacherError as error:
        raise TeacherError(f"scene {', '.join(sorted(scenes))}: {error}") from error
