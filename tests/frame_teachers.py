"""A frame teacher that costs nothing: fixed waves of each patch's mean colour."""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from spa3r.teachers.base import ClipViews


class ColourWaves:
    """A SemanticTeacher of any width; another seed is another teacher."""

    def __init__(self, width: int, seed: int = 0) -> None:
        self.width, self.seed, self.precision = width, seed, "float32"
        self.hash = f"waves-{width}-{seed}"
        generator = torch.Generator().manual_seed(seed)
        self._waves_3D = 4 * torch.randn(3, width, generator=generator)

    def reference(self) -> dict[str, str]:
        return {"kind": "waves", "uri": "builtin", "hash": self.hash, "variant": str(self.seed)}

    def __call__(self, views: ClipViews, grid_hw: tuple[int, int]) -> Tensor:
        """(B, V, N, D) float32."""
        images_BV3HW = views.images_BV3HW
        colours_F3hw = adaptive_avg_pool2d(images_BV3HW.flatten(0, 1), grid_hw)
        tokens_FND = (colours_F3hw.flatten(2).mT @ self._waves_3D).sin()
        return tokens_FND.unflatten(0, images_BV3HW.shape[:2])
