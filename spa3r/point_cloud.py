"""Coloured points of a scene: the teacher's surface, or what the field predicts.

Legend: N points, C context views, V cameras, h w raster of the surface or patch grid, D width.
Frames: OpenCV axes, world = the scene's view 0. Lengths in the scene's unit until `scaled`.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from spa3r.camera import Cameras, context_camera, context_cameras, known_scale
from spa3r.errors import ConfigError, SceneError
from spa3r.field_view import FieldView
from spa3r.geometry import backproject, project, transform_points
from spa3r.viz.pca import PcaBasis, fit_basis

if TYPE_CHECKING:
    from spa3r.latent import SceneLatent


@dataclass(frozen=True, kw_only=True, eq=False)
class PointCloud:
    """Points in the world of the scene's view 0."""

    points_N3: np.ndarray  # float32
    colours_N3: np.ndarray  # uint8 RGB
    confidence_N: np.ndarray  # float32, higher is surer; the teacher's own scale
    view_N: np.ndarray  # int32, context view that saw the point; -1 for a camera of a trajectory

    def __len__(self) -> int:
        return len(self.points_N3)

    def keep(
        self,
        confidence_percentile: float = 0.0,
        max_points: int | None = None,
        seed: int = 0,
    ) -> "PointCloud":
        """The surer points, thinned at random; those kept stay in order.

        Args:
            confidence_percentile: 0..100, share of the points to drop; of equally sure points none
                is dropped, so 100 keeps the surest.
            max_points: None keeps all.
            seed: of the thinning.

        Raises:
            ConfigError: an argument out of range.
        """
        if not 0 <= confidence_percentile <= 100:
            raise ConfigError(
                f"a confidence percentile lies in 0..100, got {confidence_percentile}"
            )
        if max_points is not None and max_points < 1:
            raise ConfigError(f"max_points must be at least 1, got {max_points}")
        if len(self) == 0:
            return self
        # An order statistic is a value that some point has: float32 compares exactly.
        least = np.percentile(self.confidence_N, confidence_percentile, method="lower")
        kept = np.flatnonzero(self.confidence_N >= least)
        if max_points is not None and len(kept) > max_points:
            rng = np.random.Generator(np.random.PCG64(seed))
            kept = np.sort(rng.choice(kept, max_points, replace=False))
        return self._take(kept)

    def scaled(self, metres_per_unit: float) -> "PointCloud":
        """The cloud in metres. Raises SceneError where the scale is unknown (NaN)."""
        metres_N3 = self.points_N3 * np.float32(known_scale(metres_per_unit))
        return replace(self, points_N3=metres_N3)

    def _take(self, kept: np.ndarray) -> "PointCloud":
        return PointCloud(
            points_N3=self.points_N3[kept],
            colours_N3=self.colours_N3[kept],
            confidence_N=self.confidence_N[kept],
            view_N=self.view_N[kept],
        )


def surface_points(scene: "SceneLatent") -> PointCloud:
    """The teacher's depth through the centres of the surface's raster cells, with the images' RGB.

    Raises:
        SceneError: the scene was encoded without a surface.
    """
    surface = scene.surface
    if surface is None:
        raise SceneError(
            "this scene has no surface points: encode its images again with surface_points > 0"
            " (spa3r encode --points), or take field_points"
        )
    depth_Chw = surface.depth_Chw.double().numpy()
    rows, columns = depth_Chw.shape[1:]
    width, height = scene.image_size
    raster_from_image_33 = np.diag([columns / width, rows / height, 1.0])
    points, views = [], []
    known_Chw = np.isfinite(depth_Chw) & (depth_Chw > 0)
    for view, (depth_hw, known_hw) in enumerate(zip(depth_Chw, known_Chw, strict=True)):
        camera = context_camera(scene, view)
        points_hw3 = backproject(depth_hw, raster_from_image_33 @ camera.K_33)
        points.append(transform_points(camera.world_from_camera_44, points_hw3[known_hw]))
        views.append(np.full(known_hw.sum(), view, np.int32))
    return PointCloud(
        points_N3=np.concatenate(points).astype(np.float32),
        colours_N3=surface.rgb_Chw3.numpy()[known_Chw],
        confidence_N=surface.confidence_Chw.numpy()[known_Chw].astype(np.float32),
        view_N=np.concatenate(views),
    )


def coloured(scene: "SceneLatent", cloud: PointCloud, kind: str) -> PointCloud:
    """The same points in the colours of the field's features, one PCA basis for the whole scene.

    Each point takes the predicted features of the context view that saw it, between patches
    bilinearly.

    Args:
        cloud: `surface_points` of this scene or a part of them, in the scene's unit.
        kind: "geometric", "semantic" or "linguistic".

    Raises:
        ConfigError: features that the encoder does not predict, or points of no context view.
        WeightsError: no encoder is attached.
    """
    if len(cloud) and not 0 <= cloud.view_N.min() <= cloud.view_N.max() < scene.num_views:
        raise ConfigError(
            "feature colours are those of context views: give surface_points(scene), or"
            " field_points(scene) without cameras"
        )
    answer = scene.query(context_cameras(scene))
    grids_Chw3 = _colour_grids(answer, kind)
    colours_N3 = np.empty((len(cloud), 3), np.uint8)
    for view, camera in enumerate(answer.cameras):
        seen_N = cloud.view_N == view
        points_M3 = transform_points(
            camera.camera_from_world_44, cloud.points_N3[seen_N].astype(np.float64)
        )
        pixels_M2, _ = project(points_M3, camera.K_33)
        colours_N3[seen_N] = _sample(grids_Chw3[view], 2 * pixels_M2 / answer.image_size - 1)
    return replace(cloud, colours_N3=colours_N3)


def field_points(scene: "SceneLatent", cameras: Cameras | None = None) -> PointCloud:
    """Points of the predicted depth alone, one a patch, in feature colours (the first kind there
    is); confidence 1. Where the field predicts no positive depth there is no point.

    Args:
        cameras: where to ask; None: the context views.

    Raises:
        ConfigError: not cameras of this scene.
        WeightsError: no encoder is attached.
    """
    answer = scene.query(context_cameras(scene) if cameras is None else cameras)
    grids_Vhw3 = _colour_grids(answer, answer.kinds[0])
    points_Vhw3 = answer.points().numpy().reshape(*grids_Vhw3.shape[:3], 3)
    depth_Vhw = answer.depth.numpy().reshape(grids_Vhw3.shape[:3])
    known_Vhw = np.isfinite(depth_Vhw) & (depth_Vhw > 0)
    views_V = np.arange(len(answer.cameras)) if cameras is None else -1
    view_Vhw = np.broadcast_to(np.reshape(views_V, (-1, 1, 1)), depth_Vhw.shape)
    return PointCloud(
        points_N3=points_Vhw3[known_Vhw],
        colours_N3=_bytes(grids_Vhw3[known_Vhw]),
        confidence_N=np.ones(int(known_Vhw.sum()), np.float32),
        view_N=view_Vhw[known_Vhw].astype(np.int32),
    )


# --- colours --------------------------------------------------------------------------------------


def _colour_grids(answer: FieldView, kind: str) -> np.ndarray:
    """Colours (V, h, w, 3) in [0, 1] of every patch, in a basis fitted to all of them."""
    features_VhwD = answer.features(kind).numpy()
    basis: PcaBasis = fit_basis(features_VhwD)
    return np.stack([basis.colours(features_hwD) for features_hwD in features_VhwD])


def _sample(grid_hw3: np.ndarray, places_M2: np.ndarray) -> np.ndarray:
    """uint8 colours at places (x, y) of an image whose edges lie at -1 and 1."""
    image_13hw = torch.from_numpy(grid_hw3).permute(2, 0, 1)[None]
    places_1M12 = torch.from_numpy(places_M2).to(image_13hw.dtype)[None, :, None]
    found_13M1 = F.grid_sample(
        image_13hw, places_1M12, mode="bilinear", padding_mode="border", align_corners=False
    )
    return _bytes(found_13M1[0, :, :, 0].T.numpy())


def _bytes(colours: np.ndarray) -> np.ndarray:
    return np.rint(colours * 255).astype(np.uint8)
