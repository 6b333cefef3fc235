"""The text files of a ScanNet++ iPhone recording, read without trust: poses, COLMAP's frames.

Legend: `world_from_camera_44` is camera-to-world with OpenCV axes, metres, in the scan's own frame;
`K_33` is in pixels of the filmed picture. Of names in these files only a frame's number is taken.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from preprocessing.scannet_export import Size, is_centred
from preprocessing.scannetpp_files import read_object
from preprocessing.scene import base_name
from spa3r.errors import FormatError
from spa3r.images import MAX_SIDE
from spa3r.schema import DROP_POSE, DROP_UNREGISTERED
from spa3r.storage import exists, join, list_files, open_read

_TRANSFORMS: Final = "nerfstudio/transforms.json"
_IMAGES: Final = "colmap/images.txt"
MODELS: Final = (_TRANSFORMS, _IMAGES)
"""Files that tell which frames COLMAP has registered, relative to the recording's folder."""
_FRAME: Final = re.compile(r"frame_([0-9]{1,7})(\.[A-Za-z]+)?")
# Times beyond this are no time since the phone was started, and would not fit a manifest.
_MAX_SECONDS: Final = 1e12
_FILMED: Final = (1920, 1440)  # pixels of what the dataset's phones filmed
# Two sizes whose sides differ by factors that are closer than this are of one aspect.
_SAME_FACTOR: Final = 0.03


@dataclass(frozen=True, slots=True)
class Entry:
    """What `pose_intrinsic_imu.json` says of one frame."""

    world_from_camera_44: np.ndarray | None
    """float64, whatever numbers are stated; None: see `fault`."""
    K_33: np.ndarray | None
    """float64; None: see `fault`."""
    timestamp_us: int = -1
    fault: tuple[str, str] | None = None
    """(one of schema.DROP_REASONS, why): the frame cannot be used; None: it can."""


def frame_number(name: str) -> int | None:
    """Number of the frame that a file is named after, whatever folders come before it."""
    match = _FRAME.fullmatch(base_name(name.replace("\\", "/")))
    return int(match[1]) if match else None


def numbered(folder: str) -> dict[int, str]:
    """Frame number -> URL of the pictures in a folder, in order; {} if it is absent.

    Raises:
        FormatError: two files for one frame.
    """
    urls: dict[int, str] = {}
    for url in list_files(folder):
        number = frame_number(base_name(url))
        if number is None:
            continue
        if number in urls:
            raise FormatError(f"{folder}: frame {number} is there twice; remove one of the files")
        urls[number] = url
    return dict(sorted(urls.items()))


# --- poses ----------------------------------------------------------------------------------------


def read_entries(url: str) -> dict[int, Entry]:
    """Frame number -> entry of a `pose_intrinsic_imu.json`, in order of the numbers.

    Two forms are known: an entry for every frame, or one `intrinsic` with all `aligned_poses`.

    Raises:
        FormatError: neither of them, no entries, or two entries for one frame.
    """
    stated = read_object(url)
    entries: dict[int, Entry] = {}
    for number, value in _aggregate(stated, url) if "aligned_poses" in stated else _each(stated):
        if number is None:
            raise FormatError(f"{url}: {str(value)[:80]!r} is not a frame; download it again")
        if number in entries:
            raise FormatError(f"{url}: frame {number} is there twice; download it again")
        entries[number] = _entry(value)
    if not entries:
        raise FormatError(f"{url}: has no frames; download it again")
    return dict(sorted(entries.items()))


def _each(stated: dict[str, Any]) -> Iterator[tuple[int | None, Any]]:
    """(number, its entry), or None and a name that is no frame's."""
    for name, value in stated.items():
        number = frame_number(name)
        yield number, value if number is not None else name


def _aggregate(stated: dict[str, Any], url: str) -> Iterator[tuple[int, Any]]:
    poses = stated["aligned_poses"]
    if not isinstance(poses, list):
        raise FormatError(f"{url}: aligned_poses is no list; download it again")
    for number, pose in enumerate(poses):
        yield number, {"aligned_pose": pose, "intrinsic": stated.get("intrinsic")}


def _entry(value: Any) -> Entry:
    value = value if isinstance(value, dict) else {}
    if value.get("aligned_pose") is None:
        return Entry(None, None, fault=(DROP_UNREGISTERED, "its entry has no aligned_pose"))
    pose_44 = _matrix(value["aligned_pose"], 4)
    if pose_44 is None:
        return Entry(None, None, fault=(DROP_POSE, "aligned_pose is not 4 x 4 numbers"))
    K_33 = _matrix(value.get("intrinsic"), 3)
    if K_33 is None or not np.isfinite(K_33).all() or min(K_33[0, 0], K_33[1, 1]) <= 0:
        return Entry(None, None, fault=(DROP_POSE, "intrinsic is no 3 x 3 camera matrix"))
    return Entry(pose_44, K_33, _microseconds(value.get("timestamp")))


def _microseconds(seconds: Any) -> int:
    """-1 for what is no time."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return -1
    if not (0 <= seconds <= _MAX_SECONDS) or not math.isfinite(seconds):
        return -1
    return round(seconds * 1_000_000)


def _matrix(value: Any, side: int) -> np.ndarray | None:
    """float64 (side, side) of nested lists of numbers, NaN included; None: something else."""
    if not isinstance(value, list) or len(value) != side:
        return None
    if not all(isinstance(row, list) and len(row) == side for row in value):
        return None
    cells = [cell for row in value for cell in row]
    if not all(isinstance(c, int | float) and not isinstance(c, bool) for c in cells):
        return None
    try:
        return np.array([float(cell) for cell in cells]).reshape(side, side)
    except OverflowError:
        return None


# --- the size that K belongs to -------------------------------------------------------------------


def camera_size(entries: Iterable[Entry], pictures: Size, stated: Size | None) -> Size | None:
    """(width, height) of the pictures that the entries' K belong to; None: of these pictures.

    Judged by the entries' median principal point, which is about in the middle of a picture.

    Args:
        pictures: (width, height) of the pictures there are.
        stated: the size that COLMAP's model is of, if any.

    Raises:
        FormatError: K of pictures of another aspect; without the file's name.
    """
    all_K_N33 = [entry.K_33 for entry in entries if entry.K_33 is not None]
    if not all_K_N33 or is_centred(K_33 := np.median(all_K_N33, axis=0), pictures):
        return None
    for size in (stated, _FILMED):
        if size is not None and is_centred(K_33, size) and _same_aspect(size, pictures):
            return size
    center_x, center_y = float(K_33[0, 2]), float(K_33[1, 2])
    if min(center_x, center_y) > 0 and _same_aspect((2 * center_x, 2 * center_y), pictures):
        factor = center_x / pictures[0] + center_y / pictures[1]
        return round(pictures[0] * factor), round(pictures[1] * factor)
    raise FormatError(
        f"principal point {center_x:g}, {center_y:g} is not about in the middle of the"
        f" {pictures[0]} x {pictures[1]} pictures, nor of any of their aspect; put the pictures"
        " there that the poses came with"
    )


def _same_aspect(size: tuple[float, float], other: Size) -> bool:
    return abs(size[0] * other[1] / (size[1] * other[0]) - 1) < _SAME_FACTOR


# --- what COLMAP made of the frames ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Registration:
    """What the files beside COLMAP's model say of the recording."""

    registered: frozenset[int] | None = None
    """Numbers of the frames that it has placed; None: there is no list of them."""
    test: frozenset[int] = frozenset()
    """Numbers of the frames kept for evaluation, whatever other list they are in."""
    size: Size | None = None
    """(width, height) of its pictures; None: not stated."""


def read_registration(folder: str) -> Registration:
    """Of a recording's folder.

    Raises:
        FormatError: a file that is damaged.
    """
    if exists(url := join(folder, _TRANSFORMS)):
        stated = read_object(url)
        frames, test = (_numbers_in(stated, key, url) for key in ("frames", "test_frames"))
        return Registration(frames | test, test, _size_in(stated))
    if exists(url := join(folder, _IMAGES)):
        numbers = (frame_number(name) for name in _names_in_images(url))
        return Registration(frozenset(number for number in numbers if number is not None))
    return Registration()


def _numbers_in(stated: dict[str, Any], key: str, url: str) -> frozenset[int]:
    entries = stated.get(key, [])
    if not isinstance(entries, list):
        raise FormatError(f"{url}: {key} is no list; download it again")
    names = [entry.get("file_path") if isinstance(entry, dict) else None for entry in entries]
    if not all(isinstance(name, str) for name in names):
        raise FormatError(f"{url}: an entry of {key} has no file_path; download it again")
    numbers = (frame_number(str(name)) for name in names)
    return frozenset(number for number in numbers if number is not None)


def _size_in(stated: dict[str, Any]) -> Size | None:
    sides = (stated.get("w"), stated.get("h"))
    if not all(isinstance(s, int | float) and 1 <= s <= MAX_SIDE for s in sides):
        return None
    return int(sides[0]), int(sides[1])  # pyright: ignore[reportArgumentType]


def _names_in_images(url: str) -> Iterator[str]:
    """Every second line that is no comment names an image; the one behind it may be empty."""
    with open_read(url) as f:
        for line in f:
            text = line.decode("utf-8", "replace").strip()
            if not text or text.startswith("#"):
                continue
            parts = text.split(maxsplit=9)
            if len(parts) != 10:
                raise FormatError(f"{url}: not the images of a COLMAP model; download it again")
            yield parts[9]
            next(f, None)  # its points
