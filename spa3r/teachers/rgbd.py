"""The weight-free teachers: fixed functions of what a posed RGB-D scan holds (design.md).

`RgbdTeacher` is a drop-in for VGGT's aggregator: its context tokens do not depend on target views,
and its cameras are the dataset's. `LabelTeacher` stands in for DINOv3 where pixels have labels.
A token is an orthogonal projection of a feature vector, so it holds exactly what the features hold,
spread over all channels.

Legend: B clips, V views, C context views, N tokens per view, D width, P pixels of a patch.
"""

from collections.abc import Sequence
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from spa3r.config import TeacherSpec
from spa3r.errors import ConfigError, TeacherError
from spa3r.plain import config_hash
from spa3r.teachers.base import ClipViews, ContextViews, GeometricTargets, require_context
from spa3r.teachers.dataset_cameras import dataset_cameras, sensor_surface
from spa3r.teachers.rgbd_features import (
    FREQUENCIES,
    GROUPS,
    NUM_FEATURES,
    PatchStats,
    describe_patches,
    patch_features,
)

VERSION: Final = "v1"
"""Raised whenever the same input would give other tokens: it enters every target's key."""
NUM_LABELS: Final = 41
"""NYU40 classes and 0, unlabelled."""
_LICENCE: Final = "Apache-2.0"


class RgbdTeacher:
    """Geometric tokens of posed RGB-D views. See GeometricTeacher in base.py.

    Raises:
        ConfigError: spec.width cannot hold the features.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        self.patch_size, self.width = spec.patch_size, spec.width
        self.precision = "float32"
        groups = {name: list(group) for name, group in GROUPS.items()}
        self.hash = config_hash(
            ["rgbd", VERSION, spec.width, spec.seed, spec.patch_size, groups, FREQUENCIES]
        )
        self._projection_FD = _projection("rgbd", NUM_FEATURES, spec.width, spec.seed)

    def reference(self) -> dict[str, str]:
        """What a registered encoder records of its teacher."""
        return _reference("rgbd", self.hash)

    def describe(self, views: ClipViews) -> PatchStats:
        """The share of the work that depends on each frame alone; keep it to use it in many clips.

        Raises:
            TeacherError: as `describe_patches`.
        """
        return describe_patches(views, self.patch_size)

    def answer(
        self,
        stats: PatchStats,
        views: ClipViews,
        *,
        heads: Literal["all", "targets"] = "all",
    ) -> GeometricTargets:
        """Targets of clips whose views were described before; `heads` as of GeometricTeacher.

        Raises:
            TeacherError: no poses, or context views without any measured depth.
        """
        camera_from_world_BV44, K_BV33, unit_B = dataset_cameras(views)
        features = patch_features(stats, camera_from_world_BV44, unit_B)
        tokens_BVND = features @ self._projection_FD.to(features.device)
        context = [tokens_VND[~target_V] for tokens_VND, target_V in zip(
            tokens_BVND, views.is_target_BV, strict=True
        )]  # fmt: skip
        is_target_BV = views.is_target_BV
        asked_BV1 = (is_target_BV | (heads == "all"))[..., None]
        return GeometricTargets(
            tokens_BVND=tokens_BVND,
            context_BCND=torch.stack(context),
            camera_from_world_BV44=camera_from_world_BV44,
            K_BV33=K_BV33,
            depth_BVN=stats.mean_BVN3[..., 2] / unit_B[:, None, None] * asked_BV1,
            valid_BVN=stats.valid_BVN & asked_BV1,
            metres_per_unit_B=unit_B,
        )

    def __call__(
        self, views: ClipViews, *, heads: Literal["all", "targets"] = "all"
    ) -> GeometricTargets:
        """See GeometricTeacher. Raises TeacherError where depth, poses or intrinsics lack."""
        return self.answer(self.describe(views), views, heads=heads)

    def context(self, views: ClipViews, *, surface: bool) -> ContextViews:
        """See GeometricTeacher. Raises TeacherError where depth, poses or intrinsics lack."""
        require_context(views)
        targets = self(views)
        depth_BCHW, confidence_BCHW = None, None
        if surface:
            depth_BCHW, confidence_BCHW = sensor_surface(views, targets.metres_per_unit_B)
        return ContextViews(
            context_BCND=targets.context_BCND,
            camera_from_world_BC44=targets.camera_from_world_BV44,
            K_BC33=targets.K_BV33,
            metres_per_unit_B=targets.metres_per_unit_B,
            depth_BCHW=depth_BCHW,
            confidence_BCHW=confidence_BCHW,
        )

    def layer_tokens(self, views: ClipViews, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """See GeometricTeacher; only layer -1."""
        if any(layer != -1 for layer in layers):
            raise ConfigError(
                f"fusion.layers is {list(layers)}, but the rgbd teacher has no layers: write [-1]"
            )
        tokens_BVND = self.context(views, surface=False).context_BCND
        return (tokens_BVND,) * len(layers)


class LabelTeacher:
    """Semantic tokens: the square roots of a patch's shares of NYU40 classes, projected.

    The root makes the distance of two tokens the Hellinger distance of their histograms.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        self.width, self.precision = spec.semantic_width, "float32"
        self.hash = config_hash(["labels", VERSION, spec.semantic_width, spec.seed])
        self._projection_LD = _projection("labels", NUM_LABELS, spec.semantic_width, spec.seed)

    def reference(self) -> dict[str, str]:
        """What a registered encoder records of its teacher."""
        return _reference("labels", self.hash)

    def __call__(self, views: ClipViews, grid_hw: tuple[int, int]) -> Tensor:
        """Tokens (B, V, N, D) float32 of a grid that tiles the images.

        Raises:
            TeacherError: no labels, or values that are not NYU40 ids.
        """
        labels_BVHW = views.labels_BVHW
        if labels_BVHW is None:
            raise TeacherError(
                "the labels teacher needs label images, which this data lacks: ScanNet's are read"
                " only with scannetv2-labels.combined.tsv beside the scans (put it there and ingest"
                " again); without labels set teacher.semantic='none' and model.semantic=false, or"
                " teacher.semantic='dinov3'"
            )
        if int(labels_BVHW.max()) >= NUM_LABELS:
            raise TeacherError(f"label {int(labels_BVHW.max())} is not an NYU40 id (0..40)")
        batch, views_per_clip, height, width = labels_BVHW.shape
        rows, columns = grid_hw
        blocks = labels_BVHW.long().reshape(
            batch, views_per_clip, rows, height // rows, columns, width // columns
        )
        labels_BVNP = blocks.transpose(3, 4).flatten(4).flatten(2, 3)
        counts_BVNL = torch.zeros(*labels_BVNP.shape[:3], NUM_LABELS, device=labels_BVHW.device)
        ones = torch.ones((), device=labels_BVHW.device).expand_as(labels_BVNP)
        counts_BVNL.scatter_add_(-1, labels_BVNP, ones)
        roots_BVNL = F.normalize(counts_BVNL.sqrt(), dim=-1)
        return roots_BVNL @ self._projection_LD.to(roots_BVNL.device)


def _reference(kind: str, content_hash: str) -> dict[str, str]:
    return {
        "kind": kind, "uri": "builtin", "hash": content_hash, "variant": VERSION,
        "licence": _LICENCE,
    }  # fmt: skip


def _projection(name: str, features: int, width: int, seed: int) -> Tensor:
    """Rows of equal length at right angles, (features, width); channels of features with one unit
    of variance in total come out with variance 1 on average.

    Raises:
        ConfigError: width < features.
    """
    if width < features:
        raise ConfigError(
            f"the {name} teacher has {features} features, which a token of width {width} cannot"
            " hold: widen teacher.width or teacher.semantic_width"
        )
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(width, features, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    # QR is unique once R's diagonal is positive; LAPACK builds differ in its signs.
    return ((q * r.diagonal().sign()).mT * width**0.5).float().contiguous()
