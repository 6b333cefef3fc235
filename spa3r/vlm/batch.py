"""What the model takes: a batch of conversations with their images and their scenes' geometry.

Legend: B conversations, T tokens of the longest, I images of all conversations together, P patches
of all images, H width of the language model, N geometry tokens of one scene, D their width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Geometry:
    """What the fusion knows of one scene.

    `latents`: one tensor (L, D), no order. `teacher`: one tensor (V * h * w, D) for each of
    FusionConfig.layers, view by view, rows of patches first.
    """

    tokens: tuple[Tensor, ...]
    grid_hw: tuple[int, int]
    """Patches of one view, rows and columns."""
    views: int
    log_scale: float | None = None
    """Natural logarithm of the scene's metres per unit; None where nobody knows."""

    def to(self, device: torch.device | str) -> "Geometry":
        """Copy on the device."""
        moved = tuple(x.to(device, non_blocking=True) for x in self.tokens)
        return replace(self, tokens=moved)


@dataclass(frozen=True, kw_only=True, slots=True)
class VlmBatch:
    """Conversations side by side. A conversation's images stand in a row among the I images."""

    input_ids_BT: Tensor  # int64
    attention_mask_BT: Tensor  # int64, 0 = padding
    is_image_BT: Tensor  # int64: 1 at image tokens, 0 at text ("mm_token_type_ids")
    labels_BT: Tensor | None = None  # int64, -100 where nothing is learnt
    image_grid_thw_I3: Tensor | None = None  # int64, patches before merging; None: no images
    pixel_values_PC: Tensor | None = None  # float32, as the image processor makes them
    image_tokens: tuple[Tensor, ...] | None = None
    """The vision tower's merged tokens of each image, (n, H), instead of pixel values."""
    images_of: tuple[int, ...] = ()
    """How many images each conversation has."""
    geometry: tuple[Geometry | None, ...] = ()
    """Of each conversation; None: that one is answered without."""
    samples: tuple[Any, ...] = ()
    """What the training loop names when a batch fails (spa3r/train/objective.py)."""
    dropped: tuple[str, ...] = ()

    def to(self, device: torch.device | str) -> "VlmBatch":
        """Copy with every tensor on the device."""
        return self._with(lambda x: x.to(device, non_blocking=True))

    def pin(self) -> "VlmBatch":
        """Copy in page-locked memory, from which a GPU takes it while it computes."""
        return self._with(lambda x: x.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> "VlmBatch":
        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value)
            if isinstance(value, Geometry):
                return replace(value, tokens=moved(value.tokens))
            if isinstance(value, tuple):
                return tuple(moved(one) for one in value)
            return value

        tensors = ("input_ids_BT", "attention_mask_BT", "is_image_BT", "labels_BT",
                   "image_grid_thw_I3", "pixel_values_PC", "image_tokens", "geometry")  # fmt: skip
        return replace(self, **{name: moved(getattr(self, name)) for name in tensors})
