"""Captures in nerfstudio's format: a transforms.json and the pictures that it names.

    <scene>/transforms.json      cameras, poses and paths relative to this file
    train.txt, val.txt, test.txt in the root, optional

The root is one scene, its transforms.json, or a folder of scenes. Frames are numbered in natural
order of their file_path. Poses are camera to world with OpenGL axes (y up, z back) and are turned
to OpenCV's; `applied_transform` and `applied_scale` tell what was done to them before, and are not
undone, so the unit of length is the file's own. Frames in `val_filenames` and `test_filenames` are
kept out. Masks: 0 hides. Paths that lead out of the scene's folder are refused.
"""

import errno
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np

from preprocessing.colmap_files import Camera
from preprocessing.photos import SUFFIXES
from preprocessing.scene import (
    Damage,
    Frame,
    Scene,
    SourceAtUrl,
    base_name,
    natural_key,
    scene_name,
    subfolders,
)
from preprocessing.splits import read_splits
from spa3r.errors import FormatError, ImageError, SceneError
from spa3r.images import EncodedDepth, EncodedImage, decode_labels, stored_size
from spa3r.lens import Undistortion, camera
from spa3r.schema import (
    DROP_DEPTH_IMAGE,
    DROP_IMAGE,
    DROP_MASK_IMAGE,
    DROP_MISSING,
    DROP_POSE,
    DROP_TEST,
    DROP_UNREGISTERED,
)
from spa3r.storage import exists, join, list_files, read_bytes

_FILE: Final = "transforms.json"
_HELD_OUT: Final = ("val_filenames", "test_filenames")
_PERSPECTIVE: Final = ("PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
_MAX_PATH: Final = 1024
_MAX_SIDE: Final = 1 << 20
_MAX_NUMBER: Final = 1e30
_OPENCV_FROM_OPENGL: Final = np.diag([1.0, -1, -1, 1])
_ANY_IS_USE: Final = np.array([0] + [255] * 65535, np.uint8)


def find_captures(root: str) -> list["NerfstudioSource"]:
    """All scenes under a root, by name; [] if there are none. Only folders are listed."""
    if base_name(root) == _FILE:
        root = root.rpartition("/")[0]
    here = exists(join(root, _FILE))
    folders = [root] if here else [f for f in subfolders(root) if exists(join(f, _FILE))]
    split_of = read_splits(root) if folders else {}
    return [
        NerfstudioSource(
            name=scene_name(folder), split=split_of.get(base_name(folder), ""), url=folder
        )
        for folder in folders
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class NerfstudioSource(SourceAtUrl):
    """One scene; see preprocessing.scene.SceneSource."""

    dataset: str = "nerfstudio"

    @contextmanager
    def open(self, labels: bool = True) -> Iterator[Scene]:
        """The scene; it has no labels. Raises FormatError, SceneError."""
        yield NerfstudioScene(self.url)


class NerfstudioScene:
    """The frames of a transforms.json.

    Raises:
        FormatError: damaged, or the first frame's camera is none.
        SceneError: no frames.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._url = join(folder, _FILE)
        self._shared = _read_object(self._url)
        frames = _list_of(self._shared, "frames", dict, self._url)
        if not frames:
            raise SceneError(f"{self._url}: no frames; leave the scene out")
        self._frames = sorted(
            frames, key=lambda f: natural_key(_normal(_path_of(f, "file_path")) or "")
        )
        lists = [_list_of(self._shared, key, str, self._url) for key in _HELD_OUT]
        self._held_out = {_normal(path) for paths in lists for path in paths}
        # The maps of a lens take eight bytes a pixel; most captures have one camera.
        self._pinhole = lru_cache(maxsize=2)(_make_pinhole)
        self._names_in = lru_cache(maxsize=None)(_names_in)
        self.indices: Sequence[int] = range(len(self._frames))
        self.label_to_nyu40: np.ndarray | None = None
        self.problems: list[str] = []
        self._look(self._frames[0])

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """The given frames; Damage where a file, the pose or the camera is absent or wrong."""
        for index in self.indices if numbers is None else numbers:
            try:
                entry = self._frame(index)
            except _UnusableError as error:
                entry = Damage(index=index, reason=error.reason, detail=f"{self._url}: {error}")
            yield entry

    @cached_property
    def screened(self) -> frozenset[int]:
        """Numbers of frames that are held out, or without picture or pose; lists their folders."""
        return frozenset(i for i in self.indices if self._is_lost(self._frames[i]))

    def objects(self) -> dict[str, Any] | None:
        """None: captures hold no annotations."""
        return None

    def _look(self, first: dict[str, Any]) -> None:
        """What is wrong with the whole file: said once, when it is opened."""
        try:
            _camera_of(self._shared | first, (1, 1))
        except _UnusableError as error:
            raise FormatError(f"{self._url}: {error}; correct the cameras") from error
        if self._shared.get("applied_scale", 1) != 1:
            scale = f"{self._shared['applied_scale']!r}"[:40]
            self.problems.append(f"{self._url}: poses are in metres times {scale} (applied_scale)")
        if any(f.get("depth_file_path") and _is_bent(self._shared | f) for f in self._frames):
            self.problems.append(
                f"{self._url}: depth left out, as it would have to be undistorted with the pictures"
            )

    def _frame(self, index: int) -> Frame:
        found = self._frames[index]
        path = _path_of(found, "file_path")
        if _normal(path) in self._held_out:
            raise _UnusableError(DROP_TEST, f"{path[:80]!r} is kept out of training")
        pose = found.get("transform_matrix")
        if pose is None:
            raise _UnusableError(DROP_UNREGISTERED, f"{path[:80]!r} has no transform_matrix")
        world_from_camera_44 = _pose(pose)
        color = EncodedImage(data=self._picture(path), codec="file")
        try:
            size = stored_size(color)
            K_33, lens = self._pinhole(_camera_of(self._shared | found, size), size)
        except ImageError as error:
            raise _UnusableError(DROP_IMAGE, f"{path[:80]!r}: {error}") from error
        except FormatError as error:
            raise _UnusableError(DROP_POSE, f"{path[:80]!r}: {error}") from error
        return Frame(
            index=index,
            color=color,
            depth=self._depth(found) if lens is None else None,
            labels=None,
            mask=self._mask(found),
            lens=lens,
            K_33=K_33,
            world_from_camera_44=world_from_camera_44,
            timestamp_us=-1,
        )

    def _is_lost(self, found: dict[str, Any]) -> bool:
        path = _path_of(found, "file_path")
        if _normal(path) in self._held_out or found.get("transform_matrix") is None:
            return True
        return not any(map(self._may_be_there, _pictures(path)))

    def _may_be_there(self, path: str) -> bool:
        normal = _normal(path)
        if normal is None:
            return False
        folder, _, name = normal.rpartition("/")
        names = self._names_in(join(self._folder, folder))
        return names is None or name in names

    def _picture(self, path: str) -> bytes:
        """The file's bytes."""
        for candidate in _pictures(path):
            data = self._read(candidate, DROP_MISSING)
            if data is not None:
                return data
        raise _UnusableError(DROP_MISSING, f"there is no {path[:80]!r}")

    def _depth(self, found: dict[str, Any]) -> EncodedDepth | None:
        """uint16 millimetres, registered to the picture; None: the frame has none."""
        if found.get("depth_file_path") is None:
            return None
        path = _path_of(found, "depth_file_path")
        data = self._read(path, DROP_DEPTH_IMAGE)
        if data is None:
            raise _UnusableError(DROP_DEPTH_IMAGE, f"there is no {path[:80]!r}")
        return EncodedDepth(data=data, codec="png_u16")

    def _mask(self, found: dict[str, Any]) -> EncodedImage | None:
        """0 and 255 from a mask whose every value but 0 means use; None: the frame has none."""
        if found.get("mask_path") is None:
            return None
        path = _path_of(found, "mask_path")
        data = self._read(path, DROP_MASK_IMAGE)
        if data is None:  # unmasked, it would show what the mask hides
            raise _UnusableError(DROP_MASK_IMAGE, f"there is no {path[:80]!r}")
        try:
            mask_HW = decode_labels(data, _ANY_IS_USE)
        except ImageError as error:
            raise _UnusableError(DROP_MASK_IMAGE, f"{path[:80]!r}: {error}") from error
        height, width = mask_HW.shape
        return EncodedImage(data=mask_HW.tobytes(), codec="raw_gray8", size=(width, height))

    def _read(self, path: str, reason: str) -> bytes | None:
        """A file of the scene; None: there is none of this name."""
        normal = _normal(path)
        if normal is None:
            raise _UnusableError(reason, f"{path[:80]!r} leads out of the scene's folder")
        try:
            return read_bytes(join(self._folder, normal))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:  # so there is none
                return None
            raise


class _UnusableError(Exception):
    """Why one frame cannot be read: a reason of schema.DROP_REASONS, and a line on it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


# --- the file -------------------------------------------------------------------------------------


def _read_object(url: str) -> dict[str, Any]:
    try:
        value = json.loads(read_bytes(url))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{url}: not valid JSON ({error}); export the scene again") from error
    if not isinstance(value, dict):
        raise FormatError(f"{url}: holds no object with frames; export the scene again")
    return value


def _list_of(value: dict[str, Any], key: str, kind: type, url: str) -> list[Any]:
    found = value.get(key, [])
    if not isinstance(found, list) or not all(isinstance(entry, kind) for entry in found):
        raise FormatError(f"{url}: {key} is no list of {kind.__name__}; export the scene again")
    return found


def _path_of(frame: dict[str, Any], key: str) -> str:
    """A path as the file has it, "" where that is none or too long to be one."""
    path = frame.get(key)
    return path if isinstance(path, str) and len(path) <= _MAX_PATH else ""


def _normal(path: str) -> str | None:
    """Path below the scene's folder, without "." parts; None: it leads elsewhere."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    # "::" joins file systems in a URL, a backslash is a slash elsewhere.
    bad = not parts or ".." in parts or path.startswith("/") or "::" in path or "\\" in path
    return None if bad or not path.isprintable() else "/".join(parts)


def _pictures(path: str) -> list[str]:
    """What the file may be called: its path may lack the ending, as in the first NeRF's files."""
    named = path.lower().endswith(SUFFIXES)
    return [path] if named else [path, *(path + suffix for suffix in SUFFIXES)]


def _names_in(folder: str) -> set[str] | None:
    """Names in a folder, none if it is absent; None: it cannot be listed, reading will say why."""
    try:
        return {base_name(url) for url in list_files(folder)}
    except OSError:
        return None


def _number(value: dict[str, Any], key: str, default: float) -> float:
    found = value.get(key, default)
    fits = isinstance(found, int | float) and not isinstance(found, bool)
    if not fits or not abs(found) < _MAX_NUMBER:
        raise _UnusableError(DROP_POSE, f"{key} is no number: {found!r:.40}")
    return float(found)


def _pose(matrix: Any) -> np.ndarray:
    """(4, 4) world_from_camera with OpenCV axes of a 3 x 4 or 4 x 4 matrix with OpenGL's."""
    try:
        pose = np.array(matrix, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise _UnusableError(
            DROP_POSE, "transform_matrix holds something else than numbers"
        ) from error
    if pose.shape not in ((3, 4), (4, 4)):
        raise _UnusableError(DROP_POSE, f"transform_matrix is of shape {pose.shape}")
    if len(pose) == 3:
        pose = np.vstack([pose, [0, 0, 0, 1]])
    with np.errstate(invalid="ignore"):
        return pose @ _OPENCV_FROM_OPENGL


# --- cameras --------------------------------------------------------------------------------------


def _is_bent(values: dict[str, Any]) -> bool:
    """Whether a lens has to be undone."""
    fisheye = "FISHEYE" in str(values.get("camera_model", "")) or bool(values.get("is_fisheye"))
    return fisheye or any(values.get(key) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))


def _camera_of(values: dict[str, Any], picture: tuple[int, int]) -> Camera:
    """The camera of a frame, from its own values over the file's; size: the picture's if unsaid."""
    width = _number(values, "w", picture[0])
    height = _number(values, "h", picture[1])
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
        raise _UnusableError(DROP_POSE, f"a picture of {width:g} x {height:g}")
    fx = _focal(values, "fl_x", "camera_angle_x", width, 0.0)
    fy = _focal(values, "fl_y", "camera_angle_y", height, fx)
    if fx <= 0 or fy <= 0:
        raise _UnusableError(DROP_POSE, "neither fl_x nor camera_angle_x is a focal length")
    pinhole = (fx, fy, _number(values, "cx", width / 2), _number(values, "cy", height / 2))
    k1, k2, k3, k4, p1, p2 = (_number(values, k, 0) for k in ("k1", "k2", "k3", "k4", "p1", "p2"))
    default = "OPENCV_FISHEYE" if values.get("is_fisheye") else "OPENCV"
    model = str(values.get("camera_model", default))
    if model == "OPENCV_FISHEYE":
        parameters = (*pinhole, k1, k2, k3, k4)
    elif model in _PERSPECTIVE and not k4:
        model = "FULL_OPENCV" if k3 else "OPENCV"
        parameters = (*pinhole, k1, k2, p1, p2, *((k3, 0.0, 0.0, 0.0) if k3 else ()))
    else:
        known = ", ".join((*_PERSPECTIVE, "OPENCV_FISHEYE"))
        raise _UnusableError(
            DROP_POSE, f"camera_model {model[:40]!r} with k4 {k4:g}; known are {known}"
        )
    return Camera(model, (round(width), round(height)), parameters)


def _focal(values: dict[str, Any], key: str, angle_key: str, side: float, default: float) -> float:
    """Pixels, as given or from the angle of view in radians."""
    if key in values or angle_key not in values:
        return _number(values, key, default)
    angle = _number(values, angle_key, 0)
    return side / 2 / math.tan(angle / 2) if 0 < angle < math.pi else 0.0


def _make_pinhole(
    found: Camera, picture: tuple[int, int]
) -> tuple[np.ndarray, Undistortion | None]:
    fitted = found.of_size(picture)
    return camera(fitted.model, fitted.parameters, fitted.size)
