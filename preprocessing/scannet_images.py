"""A scan as ScanNet's C++ tool `saveToImages` writes it, and as 3RScan is released.

    [sequence/] _info.txt | info.txt
                frame-000000.color.jpg  frame-000000.depth.pgm  frame-000000.pose.txt  ...

The info file announces sizes, intrinsics and the number of frames. Depth is 16-bit PGM or PNG.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from preprocessing.scannet_export import Size, is_camera, read_pose
from preprocessing.scannet_meta import parse_matrix, read_key_values, whole_number
from preprocessing.scene import Damage, Frame, base_name
from spa3r.errors import FormatError, SceneError
from spa3r.images import MAX_SIDE, EncodedDepth, EncodedImage
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_MISSING, DROP_POSE, DROP_UNREGISTERED
from spa3r.storage import join, list_files, read_bytes

INFO_NAMES: Final = ("_info.txt", "info.txt")
SUBFOLDER: Final = "sequence"
_VERSION: Final = 4
_MAX_FRAMES: Final = 250_000  # more than an hour at 60 Hz
_SAME_VIEW: Final = 0.05
_FILE: Final = re.compile(r"frame-([0-9]{1,9})\.(color|depth|pose)(\.[a-z]+)")
_ENDINGS: Final = {
    "color": (".jpg", ".jpeg", ".png"),
    "depth": (".pgm", ".png"),
    "pose": (".txt",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesInfo:
    """What the info file says. Sizes are (width, height)."""

    color_size: Size
    depth_size: Size
    depth_shift: float
    """Depth units per metre."""
    K_color_33: np.ndarray
    K_depth_33: np.ndarray | None
    num_frames: int


class ImagesScene:
    """A scan in `frame-*` files; frames have no labels.

    Raises:
        FormatError: an info file that says too little or what cannot be true.
        SceneError: no info file, or no colour image at all.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        info_url, files = _listed(folder)
        self._info = read_info(info_url)
        self._color, self._depth, self._pose = (files[kind] for kind in _ENDINGS)
        self._exported = frozenset().union(*files.values())
        if not self._color:
            raise SceneError(f"{folder}: no colour images; expected frame-000000.color.jpg, ...")
        self.label_to_nyu40: np.ndarray | None = None
        self.problems: list[str] = []
        self._K_33 = self._info.K_color_33 if is_camera(self._info.K_color_33) else None
        if self._K_33 is None:
            self.problems.append(f"{info_url}: the colour intrinsics are no camera; ignored")
        elif self._depth and not self._sees_the_same():
            self._depth = {}
            self.problems.append(
                f"{info_url}: the depth camera has another field of view than the colour camera;"
                " depth left out"
            )
        beyond = sum(index >= self._info.num_frames for index in self._color)
        if beyond:
            self.problems.append(
                f"{info_url}: announces {self._info.num_frames} frames, {beyond} images more are"
                " there; left out"
            )

    @property
    def indices(self) -> Sequence[int]:
        """All frame numbers that the info file announces."""
        return range(self._info.num_frames)

    @property
    def screened(self) -> frozenset[int]:
        """Numbers of announced frames that were not exported; often only every n-th frame is."""
        return frozenset(self.indices) - self._exported

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """The given ones of the announced frames."""
        for index in self.indices if numbers is None else numbers:
            yield self._frame(index)

    def objects(self) -> dict[str, Any] | None:
        """None: the annotations lie beside the scan."""
        return None

    def _frame(self, index: int) -> Frame | Damage:
        if index not in self._exported:
            detail = f"{self._folder}: frame {index} was not exported"
            return Damage(index=index, reason=DROP_UNREGISTERED, detail=detail)
        pose = read_pose(self._pose.get(index))
        checks = (
            (index not in self._color, DROP_MISSING, "colour image"),
            (bool(self._depth) and index not in self._depth, DROP_DEPTH_IMAGE, "depth map"),
            (bool(self._pose) and pose is None, DROP_POSE, "4x4 pose"),
        )
        for wrong, reason, what in checks:
            if wrong:
                detail = f"{self._folder}: frame {index} has no {what}"
                return Damage(index=index, reason=reason, detail=detail)
        data = read_bytes(self._color[index])
        return Frame(
            index=index,
            color=EncodedImage(data=data, codec="file", size=self._info.color_size),
            depth=self._encoded_depth(self._depth[index]) if self._depth else None,
            labels=None,
            K_33=self._K_33,
            world_from_camera_44=pose,
            timestamp_us=-1,
        )

    def _encoded_depth(self, url: str) -> EncodedDepth:
        codec: Literal["pgm_u16", "png_u16"]
        codec = "pgm_u16" if url.lower().endswith(".pgm") else "png_u16"
        info = self._info
        return EncodedDepth(
            data=read_bytes(url),
            codec=codec,
            size=info.depth_size,
            units_per_metre=info.depth_shift,
        )

    def _sees_the_same(self) -> bool:
        """Whether depth, rescaled, lies on the colour image, as it does in ScanNet (issue #92)."""
        K_33 = self._info.K_depth_33
        if K_33 is None or not is_camera(K_33):
            return True
        views = (
            K[:2] / np.array(size)[:, None]
            for K, size in (
                (self._info.K_color_33, self._info.color_size),
                (K_33, self._info.depth_size),
            )
        )
        return bool(np.abs(np.subtract(*views)).max() < _SAME_VIEW)


def has_images(names: Sequence[str]) -> bool:
    """Whether the names of what a folder holds are those of this layout, `sequence/` aside."""
    return any(name in names for name in INFO_NAMES) and any(map(_is_frame, names))


def _is_frame(name: str) -> bool:
    return _FILE.fullmatch(name.lower()) is not None


def _listed(folder: str) -> tuple[str, dict[str, dict[int, str]]]:
    """URL of the info file; and of each kind of file, frame number -> URL."""
    urls = list_files(folder)
    names = [base_name(url) for url in urls]
    found = next((name for name in INFO_NAMES if name in names), None)
    if found is None:
        raise SceneError(f"{folder}: no {' or '.join(INFO_NAMES)}; expected beside the images")
    files: dict[str, dict[int, str]] = {kind: {} for kind in _ENDINGS}
    for url, name in zip(urls, names, strict=True):
        match = _FILE.fullmatch(name.lower())
        if match is None or match[3] not in _ENDINGS[match[2]]:
            continue
        if files[match[2]].setdefault(int(match[1]), url) != url:
            raise FormatError(
                f"{folder}: the {match[2]} of frame {int(match[1])} is there twice; remove one"
            )
    return join(folder, found), files


def read_info(url: str) -> ImagesInfo:
    """Reads an info file.

    Raises:
        FormatError: another version, a value missing, or one that cannot be true.
    """
    values = read_key_values(url)
    version = _number(values, "m_versionNumber", url, most=1 << 31)
    if version != _VERSION:
        raise FormatError(f"{url}: version {version}; only {_VERSION} can be read")
    sides = [
        _number(values, f"m_{stream}{side}", url, most=MAX_SIDE)
        for stream in ("color", "depth")
        for side in ("Width", "Height")
    ]
    if not all(sides):
        raise FormatError(f"{url}: an image side of 0; correct it")
    return ImagesInfo(
        color_size=(sides[0], sides[1]),
        depth_size=(sides[2], sides[3]),
        depth_shift=_depth_shift(values, url),
        K_color_33=_matrix(values, "m_calibrationColorIntrinsic", url),
        K_depth_33=(
            _matrix(values, key, url) if (key := "m_calibrationDepthIntrinsic") in values else None
        ),
        num_frames=_number(values, "m_frames.size", url, most=_MAX_FRAMES),
    )


def _number(values: dict[str, str], key: str, url: str, *, most: int) -> int:
    number = whole_number(values, key, url, most=most)
    if number is None:
        raise FormatError(f"{url}: no {key}; export the scan again")
    return number


def _depth_shift(values: dict[str, str], url: str) -> float:
    text = values.get("m_depthShift", "")
    try:
        shift = float(text)
    except ValueError:
        shift = 0.0
    if not (np.isfinite(shift) and shift > 0):
        raise FormatError(f"{url}: m_depthShift = {text[:40]!r} (units per metre) must be positive")
    return shift


def _matrix(values: dict[str, str], key: str, url: str) -> np.ndarray:
    matrix = parse_matrix(values.get(key, ""))
    if matrix is None:
        raise FormatError(f"{url}: {key} is not 16 numbers; export the scan again")
    return matrix[:3, :3]
