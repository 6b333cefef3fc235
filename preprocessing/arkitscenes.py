"""ARKitScenes: indoor videos of an iPad with depth, of the 3DOD or the raw release.

    <root>/{Training,Validation}/<id>[/<id>_frames]/lowres_wide/<id>_<seconds>.png
                                                   /lowres_depth/<id>_<seconds>.png
                                                   /lowres_wide_intrinsics/<id>_<seconds>.pincam
                                                   /lowres_wide.traj

The root may also be one of the two folders, or one video. Read in the dataset's own documentation:
depth is uint16 millimetres; a .pincam holds width, height, fx, fy, cx, cy; a .traj line holds
seconds, a rotation as axis times angle, and a translation in metres. Read in its own loader: these
take world to camera, the camera has OpenCV axes, depth is seen by the colour camera, 3DOD nests
its folders in <id>_frames. From memory: the trajectory has ten poses a second. Pictures stay as
stored, whichever way the device was held; pixel centres are taken to lie at +0.5.

The raw release has sixty pictures a second: those without a pose of their own are unregistered, as
the nearest one may be 50 ms away, which is centimetres and degrees of a hand-held camera.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import cv2
import numpy as np

from preprocessing.scene import Damage, Frame, Scene, base_name, scene_name, subfolders
from spa3r.errors import FormatError, SceneError
from spa3r.geometry import invert_rigid
from spa3r.images import EncodedDepth, EncodedImage
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_IMAGE, DROP_UNREGISTERED
from spa3r.storage import exists, join, list_files, read_bytes

_SPLITS: Final = {"Training": "train", "Validation": "val"}
_TIME: Final = re.compile(r"(?:.*_)?(\d{1,9}(?:\.\d{1,9})?)\.(?:png|pincam)")
_NEAR_S: Final = 1 / 120
"""Farthest that two times of one moment lie apart: half a frame of sixty a second."""
_TRAJECTORY: Final = "lowres_wide.traj"


def find_videos(root: str) -> list["ArkitSource"]:
    """All videos under a root, by name; [] if there are none. Only folders are listed."""
    folders = [root] if _frames_folder(root) else subfolders(root)
    folds = [url for url in folders if base_name(url) in _SPLITS]
    videos = [video for fold in folds for video in subfolders(fold)] if folds else folders
    found = [(video, frames) for video in videos if (frames := _frames_folder(video))]
    sources = [
        ArkitSource(
            name=scene_name(video),
            split=_SPLITS.get(base_name(video.rpartition("/")[0]), ""),
            url=frames,
        )
        for video, frames in found
    ]
    return sorted(sources, key=lambda source: source.name)


def _frames_folder(video: str) -> str:
    """Where a video's frames are; "" if it is none."""
    nested = join(video, f"{base_name(video)}_frames")
    return next((url for url in (video, nested) if exists(join(url, _TRAJECTORY))), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArkitSource:
    """One video; see preprocessing.scene.SceneSource."""

    dataset: str = "arkitscenes"
    name: str
    split: str
    url: str
    """The folder that holds lowres_wide."""
    fingerprint: str = ""

    @property
    def content(self) -> tuple[str, ...]:
        """What is read of the release; its high-resolution pictures and scans are not."""
        parts = ("lowres_wide", "lowres_depth", "lowres_wide_intrinsics", _TRAJECTORY)
        return tuple(join(self.url, part) for part in parts)

    @contextmanager
    def open(self, labels: bool = True) -> Iterator[Scene]:
        """The video; it has no labels. Raises FormatError, SceneError."""
        yield ArkitScene(self.url)


class ArkitScene:
    """Pictures in order of time; the frame number is the place in that order.

    Raises:
        FormatError: no line of the trajectory is a pose, or there are no intrinsics.
        SceneError: no pictures.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._color = _Timed(join(folder, "lowres_wide"))
        self._depth = _Timed(join(folder, "lowres_depth"))
        self._pincam = _Timed(join(folder, "lowres_wide_intrinsics"))
        if not self._color.urls:
            raise SceneError(f"{folder}/lowres_wide: no pictures <id>_<seconds>.png; download them")
        if not self._pincam.urls:
            raise FormatError(f"{folder}/lowres_wide_intrinsics: no .pincam files; download them")
        self.problems: list[str] = []
        self._pose_s, self._poses_N44 = self._read_trajectory()
        self.indices: Sequence[int] = range(len(self._color.urls))
        self.label_to_nyu40: np.ndarray | None = None

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """The given pictures, each with the pose, depth and intrinsics of its time."""
        for index in self.indices if numbers is None else numbers:
            yield self._frame(index)

    @cached_property
    def screened(self) -> frozenset[int]:
        """Numbers of pictures without a pose of their time, or without depth where there is any."""
        return frozenset(index for index in self.indices if self._fault(index))

    def objects(self) -> dict[str, Any] | None:
        """None: 3DOD's annotations are not read."""
        return None

    def _fault(self, index: int) -> Damage | None:
        """What is known to be wrong with a frame before it is read."""
        url, second = self._color.urls[index], self._color.seconds[index]
        if np.abs(self._pose_s - second).min() > _NEAR_S:
            detail = f"{url}: {_TRAJECTORY} has no pose of this time"
            return Damage(index=index, reason=DROP_UNREGISTERED, detail=detail)
        if self._depth.urls and self._depth.near(second, _NEAR_S) is None:
            detail = f"{url}: lowres_depth has no picture of this time"
            return Damage(index=index, reason=DROP_DEPTH_IMAGE, detail=detail)
        return None

    def _frame(self, index: int) -> Frame | Damage:
        if fault := self._fault(index):
            return fault
        url, second = self._color.urls[index], self._color.seconds[index]
        nearest = int(np.abs(self._pose_s - second).argmin())
        depth_url = self._depth.near(second, _NEAR_S)
        # The focal length follows the focus slowly: the nearest there is will do.
        pincam = self._pincam.near(second, np.inf)
        assert pincam is not None, "checked when the scene was opened"
        camera = _parse_pincam(read_bytes(pincam))
        if camera is None:
            detail = f"{pincam}: not width, height, fx, fy, cx, cy of a camera"
            return Damage(index=index, reason=DROP_IMAGE, detail=detail)
        size, K_33 = camera
        depth = None if depth_url is None else read_bytes(depth_url)
        return Frame(
            index=index,
            color=EncodedImage(data=read_bytes(url), codec="file", size=size),
            depth=None if depth is None else EncodedDepth(data=depth, codec="png_u16"),
            labels=None,
            K_33=K_33,
            world_from_camera_44=self._poses_N44[nearest],
            timestamp_us=round(second * 1e6),
        )

    def _read_trajectory(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) seconds and (N, 4, 4) world_from_camera; lines that are none are a problem."""
        url = join(self._folder, _TRAJECTORY)
        lines = [line for line in read_bytes(url).splitlines() if line.strip()]
        parsed = [_parse_pose(line) for line in lines]
        poses = [pose for pose in parsed if pose is not None]
        if not poses:
            raise FormatError(f"{url}: no line of time, rotation and place; download it again")
        if lost := len(parsed) - len(poses):
            self.problems.append(f"{url}: {lost} of {len(parsed)} lines are no poses; left out")
        return np.array([second for second, _ in poses]), np.stack([pose for _, pose in poses])


class _Timed:
    """Files of one folder in order of the time in their names."""

    def __init__(self, folder: str) -> None:
        timed = [
            (float(match[1]), url)
            for url in list_files(folder)
            # macOS leaves "._name.png" companions that are no images.
            if not base_name(url).startswith(".") and (match := _TIME.fullmatch(base_name(url)))
        ]
        timed.sort()
        self.seconds = np.array([second for second, _ in timed])
        self.urls = [url for _, url in timed]

    def near(self, second: float, within_s: float) -> str | None:
        """URL of the file nearest in time; None: there is none so near."""
        if not self.urls:
            return None
        nearest = int(np.abs(self.seconds - second).argmin())
        return self.urls[nearest] if abs(self.seconds[nearest] - second) <= within_s else None


def _numbers(text: bytes, count: int) -> np.ndarray | None:
    """Finite float64 numbers, exactly so many; None: something else."""
    try:
        values = np.array(text.split(maxsplit=count), np.float64)
    except ValueError:
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _parse_pose(line: bytes) -> tuple[float, np.ndarray] | None:
    """Seconds and (4, 4) world_from_camera of a line of the trajectory."""
    values = _numbers(line, 7)
    if values is None:
        return None
    camera_from_world_44 = np.eye(4)
    camera_from_world_44[:3, :3] = cv2.Rodrigues(values[1:4])[0]
    camera_from_world_44[:3, 3] = values[4:]
    return float(values[0]), invert_rigid(camera_from_world_44)


def _parse_pincam(text: bytes) -> tuple[tuple[int, int], np.ndarray] | None:
    """(width, height) and K_33 in pixels of that size."""
    values = _numbers(text, 6)
    if values is None or (values[:4] < 1).any() or (values[:2] > 1 << 16).any():
        return None
    width, height, fx, fy, cx, cy = values
    K_33 = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    return (round(float(width)), round(float(height))), K_33
