"""What a teacher may look at and what it returns. Legend: B clips, V views, C context views,
N tokens per view (row-major patch grid), D width, H W pixels."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipViews:
    """The views of B clips of one size. Optional fields are None where the data has none."""

    images_BV3HW: Tensor  # float32 RGB in [0, 1]
    is_target_BV: Tensor  # bool; view 0 is context; equal number of context views in every clip
    depth_BVHW: Tensor | None = None  # float32 metres, 0 = no measurement
    labels_BVHW: Tensor | None = None  # uint8 NYU40 ids
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

    def __call__(self, views: ClipViews) -> GeometricTargets: ...


class SemanticTeacher(Protocol):
    """Frozen; looks at each frame alone. `hash`, `precision`, `reference()` as GeometricTeacher."""

    width: int
    hash: str
    precision: str

    def reference(self) -> dict[str, str]: ...

    def __call__(self, views: ClipViews, grid_hw: tuple[int, int]) -> Tensor: ...  # (B, V, N, D)
