"""COLMAP models: cameras.{txt,bin} and images.{txt,bin}. Points are passed over.

Binary files are little endian; a count that cannot fit in the bytes left is refused before it is
believed. COLMAP counts pixel centres at +0.5, as we do. Its unit of length is arbitrary.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Final

import numpy as np

from spa3r.errors import FormatError, ImageError
from spa3r.geometry import invert_rigid
from spa3r.storage import exists, join, open_read, size

# By number in binary files: name and how many parameters.
_MODELS: Final = {
    0: ("SIMPLE_PINHOLE", 3), 1: ("PINHOLE", 4), 2: ("SIMPLE_RADIAL", 4), 3: ("RADIAL", 5),
    4: ("OPENCV", 8), 5: ("OPENCV_FISHEYE", 8), 6: ("FULL_OPENCV", 12), 7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4), 9: ("RADIAL_FISHEYE", 5), 10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16), 12: ("SIMPLE_DIVISION", 4), 13: ("DIVISION", 5),
    14: ("SIMPLE_FISHEYE", 3), 15: ("FISHEYE", 4), 16: ("EUCM", 6), 17: ("EQUIRECTANGULAR", 2),
}  # fmt: skip
# Models of one focal length: the same camera with two, and the zeros that it takes.
_WITH_TWO_FOCALS: Final = {
    "SIMPLE_PINHOLE": ("PINHOLE", 0), "SIMPLE_RADIAL": ("OPENCV", 3), "RADIAL": ("OPENCV", 2),
    "SIMPLE_RADIAL_FISHEYE": ("OPENCV_FISHEYE", 3), "RADIAL_FISHEYE": ("OPENCV_FISHEYE", 2),
}  # fmt: skip
_OTHER_SHAPE: Final = 0.01
"""Most that the ratios of widths and of heights may differ: copies are made in whole pixels."""
_MAX_NAME: Final = 1024
_MAX_LINE: Final = 1 << 24
_BLOCK: Final = 1 << 20
_CAMERA: Final = struct.Struct("<IiQQ")  # id, model, width, height
_IMAGE: Final = struct.Struct("<I7dI")  # id, quaternion w x y z, translation, camera's id
_COUNT: Final = struct.Struct("<Q")
_POINT_2D: Final = 24  # bytes


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera of a model."""

    model: str
    """COLMAP's name of it."""
    size: tuple[int, int]
    """(width, height) in pixels."""
    parameters: tuple[float, ...]
    """Focal lengths, principal point, distortion; as `spa3r.lens.camera` takes them."""

    def of_size(self, picture: tuple[int, int]) -> "Camera":
        """The camera of a copy of its pictures, (width, height), made smaller or larger.

        Raises:
            ImageError: a picture of another shape, so that it is no such copy.
        """
        if picture == self.size:
            return self
        if min(*self.size, *picture) < 1:
            raise ImageError(f"a camera for {self.size[0]} x {self.size[1]} pixels")
        x, y = (new / old for new, old in zip(picture, self.size, strict=True))
        if abs(x / y - 1) > _OTHER_SHAPE:
            raise ImageError(
                f"an image of {picture[0]} x {picture[1]}, its camera is for"
                f" {self.size[0]} x {self.size[1]}"
            )
        model, parameters = self.model, self.parameters
        if model in _WITH_TWO_FOCALS:
            model, zeros = _WITH_TWO_FOCALS[model]
            parameters = (*parameters[:1], *parameters, *(0.0,) * zeros)
        scaled = (p * s for p, s in zip(parameters, (x, y, x, y), strict=False))
        return Camera(model, picture, (*scaled, *parameters[4:]))


@dataclass(frozen=True, slots=True)
class Registered:
    """One picture of a model."""

    name: str
    """Path below the pictures' folder, as it was there when the model was made."""
    camera_id: int
    world_from_camera_44: np.ndarray
    """float64, in the model's unit of length; NaN where the file's rotation is none."""


@dataclass(frozen=True, slots=True)
class Model:
    """A sparse model without its points."""

    cameras: dict[int, Camera]
    images: list[Registered]


def model_files(folder: str) -> tuple[str, str] | None:
    """URLs of cameras and images directly in a folder, binary before text; None: not both."""
    for ending in ("bin", "txt"):
        urls = join(folder, f"cameras.{ending}"), join(folder, f"images.{ending}")
        if all(exists(url) for url in urls):
            return urls
    return None


def read_model(cameras_url: str, images_url: str) -> Model:
    """Both files, each binary or text by its ending.

    Raises:
        FormatError: damaged or cut, a camera or picture twice, or a picture without its camera.
    """
    cameras: dict[int, Camera] = {}
    read_cameras = _cameras_bin if cameras_url.endswith(".bin") else _cameras_txt
    for number, camera in read_cameras(cameras_url):
        if number in cameras:
            raise _damaged(cameras_url, f"camera {number} is there twice")
        cameras[number] = camera
    images: dict[str, Registered] = {}
    read_images = _images_bin if images_url.endswith(".bin") else _images_txt
    for image in read_images(images_url):
        if image.name in images:
            raise _damaged(images_url, f"{image.name!r} is there twice")
        if image.camera_id not in cameras:
            raise _damaged(images_url, f"{image.name!r} has no camera {image.camera_id}")
        images[image.name] = image
    return Model(cameras, list(images.values()))


def _damaged(url: str, wrong: str) -> FormatError:
    return FormatError(f"{url}: {wrong}; export the model again")


def _registered(name: str, camera_id: int, pose: tuple[float, ...]) -> Registered:
    """From world to camera: quaternion w x y z, of any length but 0, and translation."""
    quaternion = np.array(pose[:4])
    with np.errstate(all="ignore"):
        quaternion /= np.abs(quaternion).max()  # its square must not overflow
        w, x, y, z = quaternion / np.sqrt(quaternion @ quaternion)
    camera_from_world_44 = np.eye(4)
    camera_from_world_44[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    camera_from_world_44[:3, 3] = pose[4:]
    with np.errstate(invalid="ignore"):
        return Registered(name, camera_id, invert_rigid(camera_from_world_44))


# --- text -----------------------------------------------------------------------------------------


def _lines(f: IO[bytes], url: str) -> Iterator[str]:
    """Lines without their end, blank ones included. Files of buckets have no bounded readline."""
    rest = b""
    while block := f.read(_BLOCK):
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > _MAX_LINE:
            raise _damaged(url, f"a line of more than {_MAX_LINE} bytes")
        yield from (_text(line, url) for line in lines)
    yield _text(rest, url)


def _text(line: bytes, url: str) -> str:
    try:
        return line.decode().strip()
    except UnicodeDecodeError as error:
        raise _damaged(url, "not text") from error


def _cameras_txt(url: str) -> Iterator[tuple[int, Camera]]:
    """Lines `id model width height parameters...`."""
    with open_read(url) as f:
        for line in _lines(f, url):
            if not line or line.startswith("#"):
                continue
            try:
                number, model, width, height, *parameters = line.split()
                camera = Camera(model, (int(width), int(height)), tuple(map(float, parameters)))
                yield int(number), camera
            except ValueError as error:
                raise _damaged(url, f"no camera: {line[:60]!r}") from error


def _images_txt(url: str) -> Iterator[Registered]:
    """Two lines a picture: `id qw qx qy qz tx ty tz camera name`, and points, maybe none."""
    with open_read(url) as f:
        lines = _lines(f, url)
        for line in lines:
            if not line or line.startswith("#"):
                continue
            try:
                _, *pose, camera, name = line.split(maxsplit=9)
                image = _registered(name, int(camera), tuple(map(float, pose)))
            except ValueError as error:
                raise _damaged(url, f"no picture: {line[:60]!r}") from error
            if len(name) > _MAX_NAME:
                raise _damaged(url, f"a name of {len(name)} characters")
            yield image
            points = next(lines, "").split()
            # Without this a file that lacks the second lines would lose every other picture.
            if len(points) % 3 or (points and not points[-1].lstrip("-").isdecimal()):
                raise _damaged(url, f"no line of points after {name!r}; each picture needs one")


# --- binary ---------------------------------------------------------------------------------------


class _Bytes:
    """A file read from front to back, never past its end."""

    def __init__(self, f: IO[bytes], url: str) -> None:
        self._f = f
        self._url = url
        self._left = size(url)

    def unpack(self, layout: struct.Struct) -> tuple:
        return layout.unpack(self.take(layout.size))

    def take(self, count: int) -> bytes:
        self._claim(count)
        data = self._f.read(count)
        if len(data) != count:
            raise _damaged(self._url, "the file is cut")
        return data

    def skip(self, count: int) -> None:
        self._claim(count)
        self._f.seek(count, 1)

    def count(self, smallest: int) -> int:
        """A number of things of so many bytes at least."""
        (count,) = self.unpack(_COUNT)
        if count * smallest > self._left:
            raise _damaged(self._url, f"announces {count} entries, {self._left} bytes are left")
        return count

    def name(self) -> str:
        """Text up to a zero byte, of _MAX_NAME bytes at most."""
        data = self._f.read(min(self._left, _MAX_NAME))
        end = data.find(b"\0")
        if end < 0:
            raise _damaged(self._url, "a name without an end")
        self._f.seek(end + 1 - len(data), 1)
        self._left -= end + 1
        return data[:end].decode("utf-8", errors="replace")

    def _claim(self, count: int) -> None:
        if count > self._left:
            raise _damaged(self._url, f"the file is cut: {count} bytes wanted, {self._left} left")
        self._left -= count


def _cameras_bin(url: str) -> Iterator[tuple[int, Camera]]:
    with open_read(url) as f:
        data = _Bytes(f, url)
        for _ in range(data.count(_CAMERA.size)):
            number, model_id, *picture = data.unpack(_CAMERA)
            if model_id not in _MODELS:
                raise _damaged(url, f"camera {number} is of model {model_id}, which is unknown")
            model, count = _MODELS[model_id]
            parameters = data.unpack(struct.Struct(f"<{count}d"))
            yield number, Camera(model, (picture[0], picture[1]), parameters)


def _images_bin(url: str) -> Iterator[Registered]:
    with open_read(url) as f:
        data = _Bytes(f, url)
        for _ in range(data.count(_IMAGE.size)):
            _, *pose, camera_id = data.unpack(_IMAGE)
            image = _registered(data.name(), camera_id, tuple(pose))
            data.skip(data.count(_POINT_2D) * _POINT_2D)
            yield image
