"""What `spa3r query` reads and writes: cameras as JSON, the field's answer as arrays and pictures.

Legend: V cameras, h w patch rows and columns, D width, H W pixels.
"""

import io
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from spa3r import storage
from spa3r.camera import Camera
from spa3r.errors import ConfigError
from spa3r.field_view import FieldView
from spa3r.viz.maps import depth_maps, pca_maps
from spa3r.viz.movie import check_movie_path, write_movie

MOVIES: Final = (".gif", ".mp4")
PICTURES: Final = (".png", *MOVIES)
_SHAPE: Final = (
    '{"convention": "opencv", "cameras": [{"pose": 4 x 4, "K": 3 x 3, "size": [width, height]}]}'
)


def read_cameras(path: str | Path) -> list[Camera]:
    """Cameras of a JSON file, in the scene's world and unit of length.

    The file holds {"convention": one of spa3r.camera.CONVENTIONS, "cameras": [{"pose": 4 x 4,
    "K": 3 x 3, "size": [width, height]}, ...]}; without a size, K is of the working image.

    Raises:
        ConfigError: no such file, not this JSON, or a camera that is none (named by its place).
    """
    try:
        values: Any = json.loads(storage.read_bytes(path))
        convention, entries = values["convention"], list(values["cameras"])
        given = [(e["pose"], e["K"], e.get("size")) for e in entries]
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a list of cameras ({type(error).__name__}: {error}); write {_SHAPE}"
        ) from error
    if not given:
        raise ConfigError(f"{path}: no cameras; write {_SHAPE}")
    cameras = []
    for place, (pose, K_33, size) in enumerate(given):
        try:
            cameras.append(Camera.from_pose(pose, K_33, convention=convention, size=size))
        except (ConfigError, TypeError) as error:  # the latter: a convention that is no text
            raise ConfigError(f"{path}: camera {place}: {error}") from error
    return cameras


def output_files(out: str | Path) -> tuple[str, ...]:
    """The files that an answer is written to: always an NPZ, and the picture that `out` names.

    Args:
        out: ends in .npz, in one of PICTURES, or in nothing, which stands for .npz.

    Raises:
        ConfigError: another ending.
    """
    suffix = Path(str(out)).suffix
    if suffix.lower() not in ("", ".npz", *PICTURES):
        raise ConfigError(f"{out}: unknown ending; end the name in .npz, {', '.join(PICTURES)}")
    arrays = f"{str(out).removesuffix(suffix)}.npz"
    return (arrays, str(out)) if suffix.lower() in PICTURES else (arrays,)


def check_picture_path(path: str | Path, num_cameras: int) -> None:
    """Raises ConfigError where `write_picture` could not write: asked before anything is computed.

    A PNG shows one camera, a movie several.
    """
    suffix = Path(str(path)).suffix.lower()
    if suffix in MOVIES:
        check_movie_path(path)
    if suffix == ".png" and num_cameras != 1:
        raise ConfigError(
            f"{path}: {num_cameras} cameras make a movie; end the name in .gif or .mp4"
        )
    if suffix in MOVIES and num_cameras == 1:
        raise ConfigError(f"{path}: one camera makes a picture; end the name in .png")


def write_field(views: FieldView, path: str | Path) -> None:
    """NPZ with an entry for every field of the answer, all with a leading axis V; atomic.

    features (V, h, w, D) float16 under their kind, depth (V, h, w) float32, world_from_camera
    (V, 4, 4) and K (V, 3, 3) float64, image_size (width, height), patch_size, depth_offset (x, y),
    metres_per_unit.
    """
    arrays: dict[str, Any] = {kind: views.features(kind).half().numpy() for kind in views.kinds}
    arrays |= {
        "depth": views.depth.reshape(-1, *views.grid_hw).numpy(),
        "world_from_camera": np.stack([camera.world_from_camera_44 for camera in views.cameras]),
        "K": np.stack([camera.K_33 for camera in views.cameras]),
        "image_size": np.array(views.image_size),
        "patch_size": np.array(views.patch_size),
        "depth_offset": np.array(views.depth_offset),
        "metres_per_unit": np.array(views.metres_per_unit),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    storage.write_bytes(path, buffer.getvalue())


def write_picture(views: FieldView, path: str | Path) -> None:
    """Colours of every kind of features and of the depth, side by side: PNG, GIF or MP4."""
    columns = [*(pca_maps(views, kind) for kind in views.kinds), depth_maps(views)]
    frames_VHW3 = np.concatenate(columns, axis=2)
    if Path(str(path)).suffix.lower() in MOVIES:
        write_movie(list(frames_VHW3), path)
    else:
        buffer = io.BytesIO()
        Image.fromarray(frames_VHW3[0]).save(buffer, "PNG")
        storage.write_bytes(path, buffer.getvalue())
