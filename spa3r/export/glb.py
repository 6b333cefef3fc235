"""Point clouds with their cameras as GLB (binary glTF 2.0): what browsers and Blender open.

Frames: glTF has y up and looks along -z, so a point (x, y, z) of ours becomes (x, -y, -z).
Legend: N points, C context views, S line segments.
"""

from pathlib import Path
from typing import Final

import numpy as np

from spa3r import storage
from spa3r.camera import context_cameras
from spa3r.export.extent import extent
from spa3r.extras import needed_for
from spa3r.geometry import transform_points
from spa3r.latent import SceneLatent
from spa3r.point_cloud import PointCloud

_GLTF_FROM_OPENCV: Final = np.array([1.0, -1.0, -1.0])
_FRUSTUM_COLOUR: Final = np.array([245, 166, 35], np.uint8)  # the viewer's orange
_FRUSTUM_SHARE: Final = 0.08  # depth of a camera's frustum, as a share of the cloud's extent


def write_glb(
    cloud: PointCloud, scene: SceneLatent, path: str | Path, *, cameras: bool = True
) -> None:
    """Points in colour and, as lines, the frusta of the context views; atomically.

    glTF takes every length for metres: give cloud and scene in metres where the scale is known
    (`spa3r.export.scene.in_metres`). Its vertex colours are linear light, 8 bits here, so that the
    darkest levels of the sRGB colours are rounded.

    Args:
        scene: whose cameras are drawn, in the cloud's unit.
        path: file or URL.

    Raises:
        ConfigError: trimesh is not installed. SceneError: no points.
    """
    colours_N4 = np.full((len(cloud), 4), 255, np.uint8)
    colours_N4[:, :3] = _linear(cloud.colours_N3)
    points_N3 = cloud.points_N3 * _GLTF_FROM_OPENCV
    orange_4 = np.append(_linear(_FRUSTUM_COLOUR), np.uint8(255))
    segments_CS23 = np.zeros((0, 8, 2, 3))
    if cameras:
        _, radius = extent(cloud)
        segments_CS23 = frusta(scene, depth=_FRUSTUM_SHARE * radius) * _GLTF_FROM_OPENCV
    with needed_for("a GLB file", "view"):
        import trimesh
        from trimesh.path.entities import Line

        # Not trimesh.load_path, which joins segments with scipy, a library that `view` leaves out.
        world = trimesh.Scene()
        world.add_geometry(
            trimesh.PointCloud(points_N3, colors=colours_N4), node_name="points", geom_name="points"
        )
        for view, segments_S23 in enumerate(segments_CS23):
            ends_S2 = np.arange(2 * len(segments_S23)).reshape(-1, 2)
            lines = [Line(ends_2, color=orange_4) for ends_2 in ends_S2]
            frustum = trimesh.path.Path3D(lines, segments_S23.reshape(-1, 3), process=False)
            name = f"view_{view:03d}"
            world.add_geometry(frustum, node_name=name, geom_name=name)
        data = world.export(file_type="glb")
    assert isinstance(data, bytes), f"trimesh gave {type(data)} for a GLB file"
    storage.write_bytes(path, data)


def frusta(scene: SceneLatent, depth: float) -> np.ndarray:
    """Edges (C, 8, 2, 3) of the context views' pyramids: four rays, then the image's outline.

    Args:
        depth: z of the image's corners in each camera.
    """
    width, height = scene.image_size
    corners_43 = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], float)
    segments = []
    for camera in context_cameras(scene):
        rays_43 = depth * (corners_43 @ np.linalg.inv(camera.K_33).T)
        corners_43_world = transform_points(camera.world_from_camera_44, rays_43)
        centres_43 = np.broadcast_to(camera.world_from_camera_44[:3, 3], (4, 3))
        rays_423 = np.stack([centres_43, corners_43_world], axis=1)
        outline_423 = np.stack([corners_43_world, np.roll(corners_43_world, -1, axis=0)], axis=1)
        segments.append(np.concatenate([rays_423, outline_423]))
    return np.stack(segments)


def _linear(colours_N3: np.ndarray) -> np.ndarray:
    """sRGB bytes as bytes of linear light (IEC 61966-2-1)."""
    levels_256 = np.arange(256) / 255
    linear_256 = np.where(
        levels_256 <= 0.04045, levels_256 / 12.92, ((levels_256 + 0.055) / 1.055) ** 2.4
    )
    return np.rint(255 * linear_256).astype(np.uint8)[colours_N3]
