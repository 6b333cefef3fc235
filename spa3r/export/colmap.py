"""A scene as a COLMAP model: what Gaussian-splatting and NeRF trainers, and COLMAP itself, read.

Frames: COLMAP's are ours (OpenCV axes, camera_from_world, pixel centres at +0.5). The model belongs
to the images as they were given to `encode`, upright as their EXIF orientation says, not to the
working images.
Legend: N points, C context views, M points that a view saw.
"""

import logging
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from spa3r import storage
from spa3r.camera import context_camera
from spa3r.errors import ConfigError, SceneError
from spa3r.extras import needed_for
from spa3r.geometry import project
from spa3r.latent import SceneLatent
from spa3r.point_cloud import PointCloud

if TYPE_CHECKING:
    import pycolmap

log = logging.getLogger(__name__)

_PARTS: Final = ("cameras", "frames", "images", "points3D", "rigs")
_FILES: Final = {f"{part}{suffix}" for part in _PARTS for suffix in (".bin", ".txt")}


def write_colmap(
    cloud: PointCloud, scene: SceneLatent, folder: str | Path, *, text: bool = False
) -> None:
    """A folder of COLMAP's files; it appears whole, in place of a model that was there.

    One PINHOLE camera an image; every point has a track of one observation, its place in the
    context view that saw it, and therefore no reprojection error to speak of.

    Args:
        cloud: points of context views, in the unit of the scene's cameras.
        folder: local.
        text: .txt files instead of .bin.

    Raises:
        ConfigError: pycolmap is not installed; a folder that holds something else or is not local;
            points of no context view; names that a text model cannot hold; cameras with skew, which
            a PINHOLE model cannot hold (`spa3r.camera` refuses them).
        SceneError: images of impossible sizes.
    """
    with needed_for("a COLMAP model", "view"):
        import pycolmap

    if len(cloud) and not 0 <= cloud.view_N.min() <= cloud.view_N.max() < scene.num_views:
        raise ConfigError("a COLMAP model needs points that context views saw: surface_points")
    names = image_names(scene)
    if text and any(name.split() != [name] for name in names):
        raise ConfigError(
            "image names with spaces do not survive in COLMAP's text files: write the binary model"
            " (--format colmap)"
        )
    final = _writable_folder(folder)
    model = pycolmap.Reconstruction()
    for view in range(scene.num_views):
        seen = np.flatnonzero(cloud.view_N == view)
        _add_view(model, scene, view, names[view], cloud, seen)
    model.update_point_3d_errors()
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        (model.write_text if text else model.write_binary)(str(temporary))
        _put_in_place(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def image_names(scene: SceneLatent) -> tuple[str, ...]:
    """The scene's own where they tell its views apart, else view_000.png, view_001.png, ...

    Names that are replaced are warned of.
    """
    if scene.names and len(set(scene.names)) == len(scene.names) and all(scene.names):
        return scene.names
    names = tuple(f"view_{view:03d}.png" for view in range(scene.num_views))
    if any(scene.names):
        log.warning(
            "the images' names do not tell the views apart (%s): the COLMAP model calls them %s to"
            " %s, in the order in which they were encoded; name copies of the images so",
            ", ".join(sorted({name or "no name" for name in scene.names})[:4]),
            names[0],
            names[-1],
        )
    return names


def source_camera(scene: SceneLatent, view: int) -> tuple[np.ndarray, tuple[int, int]]:
    """K (3, 3) and (width, height) of a context view's image as it was given.

    Inverse of the resize and centre crop in `spa3r.images`; where the scene does not know the sizes
    of its images, the working image.

    Raises:
        SceneError: an image of that size has no such working image.
    """
    K_33 = context_camera(scene, view).K_33.copy()
    if not scene.source_sizes:
        return K_33, scene.image_size
    width, height = scene.image_size
    source_width, source_height = scene.source_sizes[view]
    scaled_height = round(source_height * width / source_width)
    if scaled_height < height:
        raise SceneError(
            f"view {view} is said to come from an image of {source_width} x {source_height}, which"
            f" cannot become {width} x {height}: encode the images again"
        )
    K_33[1, 2] += (scaled_height - height) // 2
    K_33[0] *= source_width / width
    K_33[1] *= source_height / scaled_height
    return K_33, (source_width, source_height)


def _add_view(
    model: "pycolmap.Reconstruction",
    scene: SceneLatent,
    view: int,
    name: str,
    cloud: PointCloud,
    seen_M: np.ndarray,
) -> None:
    """One camera, one image and the points that it saw; ids count from 1."""
    import pycolmap

    K_33, (width, height) = source_camera(scene, view)
    pose_34 = context_camera(scene, view).camera_from_world_44[:3]
    points_M3 = cloud.points_N3[seen_M].astype(np.float64)
    pixels_M2, _ = project(points_M3 @ pose_34[:, :3].T + pose_34[:, 3], K_33)
    identity = view + 1
    params = [K_33[0, 0], K_33[1, 1], K_33[0, 2], K_33[1, 2]]
    camera = pycolmap.Camera(
        camera_id=identity, model="PINHOLE", width=width, height=height, params=params
    )
    model.add_camera_with_trivial_rig(camera)
    image = pycolmap.Image(name=name, keypoints=pixels_M2, camera_id=identity, image_id=identity)
    pose = pycolmap.Rigid3d(pycolmap.Rotation3d(pose_34[:, :3]), pose_34[:, 3])
    model.add_image_with_trivial_frame(image, pose)
    first = model.num_points3D() + 1
    for index, (point_3, colour_3) in enumerate(
        zip(points_M3, cloud.colours_N3[seen_M], strict=True)
    ):
        track = pycolmap.Track([pycolmap.TrackElement(identity, index)])
        point = pycolmap.Point3D(xyz=point_3, color=colour_3, track=track)
        model.add_point3D_with_id(first + index, point)


def _writable_folder(folder: str | Path) -> Path:
    """A local path where nothing but an earlier model lies."""
    if not storage.is_local(folder):
        raise ConfigError(
            f"{folder}: a COLMAP model is written to a local folder; copy it from there"
        )
    final = Path(str(folder).removeprefix("file://")).absolute()
    others = [final] if final.is_file() else []
    if final.is_dir():
        others = sorted(path for path in final.iterdir() if path.name not in _FILES)
    if others:
        raise ConfigError(
            f"{final}: {others[0].name} is there and is no part of a COLMAP model; name another"
            " folder"
        )
    return final


def _put_in_place(temporary: Path, final: Path) -> None:
    """Renames; an earlier model is set aside first, because a folder cannot be renamed onto it."""
    aside = temporary.with_name(f"{temporary.name}.old")
    if final.is_dir():
        final.rename(aside)
    try:
        temporary.rename(final)
    except OSError:
        if aside.is_dir():
            aside.rename(final)
        raise
    shutil.rmtree(aside, ignore_errors=True)
