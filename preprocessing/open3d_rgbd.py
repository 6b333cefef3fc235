"""RGB-D folders as Open3D's reconstruction system keeps them (Redwood format).

    <scene>/color/<i>.jpg (or image/)   <scene>/depth/<i>.png   uint16 millimetres
    <scene>/trajectory.log              per frame: a line of three numbers, the first its number,
                                        then camera-to-world, 4 lines of 4 numbers, metres
    <scene>/camera*.json                {"width", "height", "intrinsic_matrix": 9, column by column}

Open3D counts pixel centres at integers: half a pixel is added to the principal point here.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from preprocessing.photos import list_photos
from preprocessing.scene import Damage, Frame, Scene, SourceAtUrl, base_name, scene_name, subfolders
from preprocessing.splits import read_splits
from spa3r.errors import FormatError, SceneError
from spa3r.images import EncodedDepth, EncodedImage
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_UNREGISTERED
from spa3r.storage import exists, join, list_files, read_bytes

TRAJECTORY: Final = "trajectory.log"
_COLOR_FOLDERS: Final = ("color", "image", "rgb")


def find_scenes(root: str) -> list["Open3dSource"]:
    """The root, or its subfolders, that hold a trajectory and colour images; [] if none does."""
    folders = [root] if _is_scene(root) else [f for f in subfolders(root) if _is_scene(f)]
    splits = read_splits(root) if folders else {}
    return [
        Open3dSource(name=scene_name(f), split=splits.get(base_name(f), ""), url=f) for f in folders
    ]


def _is_scene(folder: str) -> bool:
    return exists(join(folder, TRAJECTORY)) and bool(_color_folder(folder))


def _color_folder(folder: str) -> str:
    return next((u for n in _COLOR_FOLDERS if exists(u := join(folder, n))), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Open3dSource(SourceAtUrl):
    """One RGB-D folder; see preprocessing.scene.SceneSource."""

    dataset: str = "open3d"

    @contextmanager
    def open(self, labels: bool = True) -> Iterator[Scene]:
        """The folder as a scene without labels. Raises FormatError, SceneError."""
        yield Open3dScene(self.url)


class Open3dScene:
    """Colour and depth of one number, posed by the trajectory.

    Raises:
        SceneError: no numbered colour images. FormatError: trajectory or camera file is damaged.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._color = _numbered(_color_folder(folder))
        self._depth = _numbered(join(folder, "depth"))
        if not self._color:
            raise SceneError(f"{folder}: no numbered colour images; expected color/00000.jpg, ...")
        self._poses = read_trajectory(join(folder, TRAJECTORY))
        self._K_33 = _read_camera(folder)
        self.indices: Sequence[int] = sorted(self._color)
        self.label_to_nyu40: np.ndarray | None = None
        self.problems: list[str] = []

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """The given frames."""
        for index in self.indices if numbers is None else numbers:
            yield self._fault(index) or self._frame(index)

    @cached_property
    def screened(self) -> frozenset[int]:
        """Numbers of frames without pose, or without depth where others have it."""
        return frozenset(index for index in self.indices if self._fault(index))

    def _fault(self, index: int) -> Damage | None:
        """What is known to be wrong with a frame before it is read."""
        if index not in self._poses:
            detail = f"{self._folder}/{TRAJECTORY} has no pose of frame {index}"
            return Damage(index=index, reason=DROP_UNREGISTERED, detail=detail)
        if self._depth and index not in self._depth:
            detail = f"{self._folder}/depth has no frame {index}"
            return Damage(index=index, reason=DROP_DEPTH_IMAGE, detail=detail)
        return None

    def _frame(self, index: int) -> Frame:
        depth = None
        if self._depth:
            depth = EncodedDepth(data=read_bytes(self._depth[index]), codec="png_u16")
        return Frame(
            index=index,
            color=EncodedImage(data=read_bytes(self._color[index]), codec="file"),
            depth=depth,
            labels=None,
            K_33=self._K_33,
            world_from_camera_44=self._poses[index],
            timestamp_us=-1,
        )

    def objects(self) -> dict[str, Any] | None:
        """None: such folders are not annotated."""
        return None


def read_trajectory(url: str) -> dict[int, np.ndarray]:
    """Frame number -> world_from_camera (4, 4) float64. Raises FormatError."""
    try:
        values = np.array(read_bytes(url).split(), dtype=np.float64)
    except ValueError as error:
        raise FormatError(f"{url}: holds something else than numbers ({error})") from error
    if values.size % 19 or not np.isfinite(values[::19]).all():
        raise FormatError(f"{url}: needs 3 numbers and a 4x4 matrix for each frame")
    return {int(entry[0]): entry[3:].reshape(4, 4) for entry in values.reshape(-1, 19)}


def _read_camera(folder: str) -> np.ndarray | None:
    """K with pixel centres at +0.5; None where no camera file is."""
    url = next((u for u in list_files(folder, ".json") if base_name(u).startswith("camera")), "")
    if not url:
        return None
    try:
        camera = json.loads(read_bytes(url))
        K_33 = np.array(camera["intrinsic_matrix"], np.float64).reshape(3, 3).T
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{url}: no intrinsic_matrix of 9 numbers ({error})") from error
    if not np.isfinite(K_33).all() or min(K_33[0, 0], K_33[1, 1]) <= 0:
        raise FormatError(f"{url}: focal lengths must be positive")
    K_33[:2, 2] += 0.5
    return K_33


def _numbered(folder: str) -> dict[int, str]:
    """Number at the end of the stem -> URL; empty if the folder is absent."""
    found = {}
    for url in list_photos(folder) if folder else []:
        if match := re.search(r"(\d+)\.\w+$", base_name(url)):
            found[int(match[1])] = url
    return found
