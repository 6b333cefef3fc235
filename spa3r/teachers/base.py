"""What a teacher may look at and what it returns. Legend: B clips, V views, C context views,
N tokens per view (row-major patch grid), D width, H W pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from spa3r.errors import TeacherError


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipViews:
    """The views of B clips of one size. Optional fields are None where the data has none."""

    images_BV3HW: Tensor  # float32 RGB in [0, 1]
    is_target_BV: Tensor  # bool; view 0 is context; equal number of context views in every clip
    depth_BVHW: Tensor | None = None  # float32 metres, 0 = no measurement
    labels_BVHW: Tensor | None = None  # uint8 NYU40 ids
    mask_BVHW: Tensor | None = None  # uint8, 255 = use, 0 = made unrecognisable
    world_from_camera_BV44: Tensor | None = None  # float64
    K_BV33: Tensor | None = None  # float64, pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class GeometricTargets:
    """A geometric teacher's answer. World = view 0's camera; lengths in the clip's own unit."""

    tokens_BVND: Tensor
    context_BCND: Tensor  # the encoder's input: context views in order of view index
    camera_from_world_BV44: Tensor  # float32
    K_BV33: Tensor  # float32
    depth_BVN: Tensor  # float32, clip units, at the patch grid; 0 = unknown
    valid_BVN: Tensor  # bool
    metres_per_unit_B: Tensor  # float32; NaN where the scale is unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextViews:
    """What encoding a scene needs of its teacher. World = view 0's camera; the clip's own unit."""

    context_BCND: Tensor  # float32
    camera_from_world_BC44: Tensor  # float32
    K_BC33: Tensor  # float32, pixels
    metres_per_unit_B: Tensor  # float32; NaN where the scale is unknown
    depth_BCHW: Tensor | None = None  # float32, clip units, 0 = unknown; with the surface only
    confidence_BCHW: Tensor | None = None
    """float32, with the surface only: VGGT's own (above 1, higher is surer); of a sensor's depth 1
    where it measured and 0 elsewhere."""


class GeometricTeacher(Protocol):
    """Frozen; always in eval mode; the same input gives the same output.

    `hash` identifies code-independent content (weights and variant) and enters every target key;
    `precision` ("float32" or "bfloat16", of its matrix products) enters it too, but is no part of
    who the teacher is: an encoder taught on a GPU is used on a CPU;
    `reference()` is what a registered encoder records of it: {"kind", "uri", "hash", "variant"}.
    """

    patch_size: int
    width: int
    hash: str
    precision: str

    def reference(self) -> dict[str, str]: ...

    def __call__(
        self, views: ClipViews, *, heads: Literal["all", "targets"] = "all"
    ) -> GeometricTargets:
        """Targets of clips of one size with equal numbers of context views.

        Args:
            heads: "targets": depth is worked out for the target views alone and is 0, nowhere
                valid, in the context views; all the rest is as ever.

        Raises:
            TeacherError: impossible partitions, or views that lack what the teacher needs.
        """
        ...

    def context(self, views: ClipViews, *, surface: bool) -> ContextViews:
        """The same answer about views that are all context, and no more than encoding needs.

        Args:
            surface: also depth and confidence at the images' full size.

        Raises:
            TeacherError: a view is a target, or the views lack what the teacher needs.
        """
        ...

    def layer_tokens(self, views: ClipViews, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """Tokens (B, V, N, D) float32 of layers, in their order, of views that are all context.

        Args:
            layers: negative ones count from the last. A teacher that is no network has one, -1.

        Raises:
            TeacherError: a view is a target, or the views lack what the teacher needs.
            ConfigError: there is no such layer.
        """
        ...


class SemanticTeacher(Protocol):
    """Frozen; looks at each frame alone. `hash`, `precision`, `reference()` as GeometricTeacher."""

    width: int
    hash: str
    precision: str

    def reference(self) -> dict[str, str]: ...

    def __call__(self, views: ClipViews, grid_hw: tuple[int, int]) -> Tensor: ...  # (B, V, N, D)


def require_context(views: ClipViews) -> None:
    """Raises TeacherError unless every view is context."""
    targets = int(views.is_target_BV.sum())
    if targets:
        raise TeacherError(
            f"{targets} of {views.is_target_BV.numel()} views are targets, but a scene is encoded"
            " from context views alone: leave the targets out, or call the teacher for targets"
        )
