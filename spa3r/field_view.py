"""What the field answers to a camera or a trajectory.

Legend: V cameras, h w patch rows and columns, D width of a feature.
Frames: OpenCV axes, world = the scene's view 0. Lengths in the scene's unit.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from spa3r.camera import Camera, known_scale
from spa3r.errors import ConfigError
from spa3r.geometry import transform_points

KINDS: Final = ("geometric", "semantic", "linguistic")
"""Kinds of features, in the order in which they are looked for."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FieldView:
    """Features and depth on the patch grid. Tensors are float32 on the CPU.

    Asked with one camera (or an index) they have no leading axis V, asked with a sequence they do.
    """

    cameras: tuple[Camera, ...]  # K and size of the working image
    depth: Tensor  # (h, w) or (V, h, w) z-depth
    geometric: Tensor | None = None  # (h, w, D) or (V, h, w, D), in the teacher's units
    semantic: Tensor | None = None  # None: the encoder does not predict them
    linguistic: Tensor | None = None
    patch_size: int  # pixels
    depth_offset: tuple[float, float]  # (x, y) of the depth's pixel inside its patch
    metres_per_unit: float = math.nan  # NaN: unknown

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Patch rows and columns."""
        return self.depth.shape[-2], self.depth.shape[-1]

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in pixels of the image that the patches tile."""
        rows, columns = self.grid_hw
        return columns * self.patch_size, rows * self.patch_size

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of features that are there."""
        return tuple(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def depth_metres(self) -> Tensor:
        """Depth in metres. Raises SceneError where the scene's scale is unknown."""
        return self.depth * known_scale(self.metres_per_unit)

    def features(self, kind: str) -> Tensor:
        """Features of one kind, (V, h, w, D) however many cameras were asked.

        Raises:
            ConfigError: an unknown kind, or one that the encoder does not predict.
        """
        if kind not in self.kinds:
            raise ConfigError(
                f"this encoder predicts no {kind!r} features; choose {' or '.join(self.kinds)}"
            )
        features: Tensor = getattr(self, kind)
        return features.reshape(-1, *features.shape[-3:])

    def points(self) -> Tensor:
        """World points of the predicted depth, shape of `depth` and 3, float32.

        Each goes through the pixel of its patch that the depth belongs to (`depth_offset`).
        """
        rows, columns = self.grid_hw
        x_w = np.arange(columns) * self.patch_size + self.depth_offset[0]
        y_h = np.arange(rows) * self.patch_size + self.depth_offset[1]
        x_hw, y_hw = np.meshgrid(x_w, y_h)
        pixels_hw3 = np.stack((x_hw, y_hw, np.ones_like(x_hw)), axis=-1)
        depth_Vhw = self.depth.reshape(-1, rows, columns).double().numpy()
        points = [
            transform_points(
                camera.world_from_camera_44,
                pixels_hw3 @ np.linalg.inv(camera.K_33).T * depth_hw[..., None],
            )
            for camera, depth_hw in zip(self.cameras, depth_Vhw, strict=True)
        ]
        return torch.from_numpy(np.stack(points)).float().reshape(*self.depth.shape, 3)
