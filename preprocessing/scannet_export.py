"""A scan exported to single files, as ScanNet's Python exporter and those after it write them.

    color/<i>.jpg  [depth/<i>.png]  [pose/<i>.txt]
    [intrinsic/intrinsic_color.txt]  [intrinsic/intrinsic_depth.txt]  [<scan>.txt]

Numbers may be zero-padded or not, in one folder even, and are often every n-th frame. Seen in the
wild and mended here: colour made smaller beside the K of its first size, which the scan's metadata
tell, or that K itself: one of released colour has its principal point where no other has it.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from preprocessing.scannet_meta import META_SUFFIX, parse_matrix, read_scan_meta, read_text
from preprocessing.scene import Damage, Frame, base_name
from spa3r.errors import FormatError, ImageError, SceneError
from spa3r.images import EncodedDepth, EncodedImage, stored_size
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_POSE
from spa3r.storage import exists, join, list_files, read_bytes

log = logging.getLogger(__name__)

COLOR_FILES: Final = (".jpg", ".jpeg", ".png")
_MAX_NUMBER: Final = (1 << 31) - 1
_OFF_CENTRE: Final = 0.1  # of the side; ScanNet's principal points are within 0.02 of the middle
_RELEASED_OFF_CENTRE: Final = 0.03
_SAME_FACTOR: Final = 0.03
Size = tuple[int, int]
_RELEASED_COLOR: Final[Size] = (1296, 968)  # of all scans but a few, which have 640 x 480


def numbered_files(folder: str, endings: Sequence[str]) -> dict[int, str]:
    """Frame number (at the end of the stem) -> URL, in numeric order; {} if the folder is absent.

    Hidden files and such of other endings, in any case, are passed over.

    Raises:
        FormatError: a number is there twice, or beyond what a scan can have.
    """
    urls: dict[int, str] = {}
    for url in list_files(folder):
        number = frame_number(base_name(url), endings)
        if number is None:
            continue
        if number in urls:
            raise FormatError(f"{folder}: frame {number} is there twice; remove one of the files")
        if number > _MAX_NUMBER:
            raise FormatError(f"{url}: a frame number beyond {_MAX_NUMBER}; rename the file")
        urls[number] = url
    return dict(sorted(urls.items()))


def frame_number(name: str, endings: Sequence[str]) -> int | None:
    """Number at the end of a file's stem, zero-padded or not; None: not a frame."""
    match = re.search(r"([0-9]+)(\.[A-Za-z0-9]+)$", name)
    if match is None or name.startswith(".") or match[2].lower() not in endings:
        return None
    return int(match[1])


class ExportedScene:
    """An exported scan; all but colour is optional. Frames have no labels.

    Raises:
        SceneError: no colour images.
        FormatError: intrinsics that are none, or of an image size that cannot be told.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._color = numbered_files(join(folder, "color"), COLOR_FILES)
        self._depth = numbered_files(join(folder, "depth"), (".png",))
        self._pose = numbered_files(join(folder, "pose"), (".txt",))
        if not self._color:
            raise SceneError(f"{folder}/color: no numbered images; expected 0.jpg, 1.jpg, ...")
        self.problems: list[str] = []
        self._size: Size | None = None
        self._K_33 = self._read_intrinsics()
        self.label_to_nyu40: np.ndarray | None = None

    @property
    def indices(self) -> Sequence[int]:
        """The colour images' numbers; exports are often every n-th frame."""
        return list(self._color)

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """The given ones of the exported frames."""
        for index in self.indices if numbers is None else numbers:
            yield self._frame(index)

    def objects(self) -> dict[str, Any] | None:
        """None: the annotations lie beside the export."""
        return None

    def _frame(self, index: int) -> Frame | Damage:
        depth, pose = None, None
        if self._depth:
            if index not in self._depth:
                detail = f"{self._folder}/depth has no frame {index}"
                return Damage(index=index, reason=DROP_DEPTH_IMAGE, detail=detail)
            depth = EncodedDepth(data=read_bytes(self._depth[index]), codec="png_u16")
        if self._pose:
            pose = read_pose(self._pose.get(index))
            if pose is None:
                detail = f"{self._folder}/pose has no 4x4 matrix for frame {index}"
                return Damage(index=index, reason=DROP_POSE, detail=detail)
        return Frame(
            index=index,
            # K belongs to one size only; an image of another is no use with it.
            color=EncodedImage(data=read_bytes(self._color[index]), codec="file", size=self._size),
            depth=depth,
            labels=None,
            K_33=self._K_33,
            world_from_camera_44=pose,
            timestamp_us=-1,
        )

    # --- intrinsics -------------------------------------------------------------------------------

    def _read_intrinsics(self) -> np.ndarray | None:
        """K of the colour images as they are, of whichever files can tell it; None: unknown."""
        K_color_33, K_depth_33 = (self._read_matrix(kind) for kind in ("color", "depth"))
        if K_color_33 is None and K_depth_33 is None:
            return None
        self._size = _first_size(self._color)
        if K_color_33 is None:
            assert K_depth_33 is not None
            return self._from_depth(K_depth_33)
        if is_centred(K_color_33, self._size):
            return K_color_33
        return self._mended(K_color_33, K_depth_33)

    def _mended(self, K_33: np.ndarray, K_depth_33: np.ndarray | None) -> np.ndarray:
        """K whose principal point is not in the middle of the images: does it belong to others?"""
        size = self._image_size()
        where = f"{self._folder}/intrinsic/intrinsic_color.txt"
        released = self._released_size("color")
        if released is not None and is_centred(K_33, released):
            return self._rescaled(K_33, released, where)
        if K_depth_33 is not None and self._depth:
            stored = _first_size(self._depth)
            if is_centred(K_depth_33, stored) and _same_shape(stored, size):
                self.problems.append(
                    f"{where}: K of other images than these of {size[0]} x {size[1]}; that of the"
                    f" depth images of {stored[0]} x {stored[1]} is used instead"
                )
                return rescale(K_depth_33, stored, size)
        known = is_centred(K_33, _RELEASED_COLOR, _RELEASED_OFF_CENTRE)
        if released is None and known and _same_shape(_RELEASED_COLOR, size):
            return self._rescaled(K_33, _RELEASED_COLOR, where)
        return self._taken_as_it_is(K_33, size, where)

    def _rescaled(self, K_33: np.ndarray, stored: Size, where: str) -> np.ndarray:
        size = self._image_size()
        self.problems.append(
            f"{where}: K of {stored[0]} x {stored[1]} images beside images of"
            f" {size[0]} x {size[1]}; rescaled to them"
        )
        return rescale(K_33, stored, size)

    def _from_depth(self, K_33: np.ndarray) -> np.ndarray:
        """K of the colour images from that of the depth camera: ScanNet's are aligned."""
        size = self._image_size()
        stored = _first_size(self._depth) if self._depth else size
        for candidate in (stored, self._released_size("depth"), size):
            if candidate is not None and is_centred(K_33, candidate):
                return rescale(K_33, candidate, size)
        where = f"{self._folder}/intrinsic/intrinsic_depth.txt"
        return rescale(self._taken_as_it_is(K_33, stored, where), stored, size)

    def _taken_as_it_is(self, K_33: np.ndarray, size: Size, where: str) -> np.ndarray:
        """K of a camera that looks past the middle; refused if it rather is of another size."""
        factor_x, factor_y = 2 * K_33[0, 2] / size[0], 2 * K_33[1, 2] / size[1]
        inside = 0 < factor_x < 2 and 0 < factor_y < 2
        if not inside or abs(factor_x / factor_y - 1) < _SAME_FACTOR:
            raise FormatError(
                f"{where}: principal point {K_33[0, 2]:g}, {K_33[1, 2]:g} lies"
                f" {'off the middle of' if inside else 'outside'} the {size[0]} x {size[1]} images;"
                " put the K of these images there, or the scan's metadata beside them"
            )
        self.problems.append(f"{where}: principal point far from the middle; taken as it is")
        return K_33

    def _image_size(self) -> Size:
        assert self._size is not None
        return self._size

    def _released_size(self, stream: str) -> Size | None:
        """Size of the images before they were exported, from the scan's metadata."""
        url = join(self._folder, base_name(self._folder) + META_SUFFIX)
        if not exists(url):
            return None
        meta = read_scan_meta(url)
        return meta.color_size if stream == "color" else meta.depth_size

    def _read_matrix(self, kind: str) -> np.ndarray | None:
        url = join(self._folder, "intrinsic", f"intrinsic_{kind}.txt")
        if not exists(url):
            return None
        matrix = parse_matrix(read_text(url))
        if matrix is None or not is_camera(matrix):
            raise FormatError(f"{url}: not a 4x4 camera matrix; export it again")
        return matrix[:3, :3]


# --- what other exports need too ------------------------------------------------------------------


def read_pose(url: str | None) -> np.ndarray | None:
    """4x4 from a file, invalid values included; None: no file, or something else in it."""
    if url is None:
        return None
    try:
        return parse_matrix(read_text(url))
    except FormatError as error:  # one frame's fault
        log.debug("%s", error)
        return None


def is_camera(matrix: np.ndarray) -> bool:
    """Whether a matrix holds finite intrinsics with positive focal lengths."""
    return bool(np.isfinite(matrix).all() and (np.diag(matrix)[:2] > 0).all())


def is_centred(K_33: np.ndarray, size: Size, within: float = _OFF_CENTRE) -> bool:
    """Whether the principal point is about in the middle of images of a size (width, height).

    Args:
        within: largest distance from the middle, as a share of the side.
    """
    return bool((np.abs(K_33[:2, 2] / np.array(size) - 0.5) < within).all())


def _same_shape(a: Size, b: Size) -> bool:
    """Whether images of one size can be those of the other, made larger or smaller but not cut."""
    return abs((a[0] * b[1]) / (a[1] * b[0]) - 1) < _SAME_FACTOR


def rescale(K_33: np.ndarray, stored: Size, size: Size) -> np.ndarray:
    """K in pixels of images of one size -> of the same images made another size."""
    return np.diag([size[0] / stored[0], size[1] / stored[1], 1.0]) @ K_33


def _first_size(images: dict[int, str]) -> Size:
    """(width, height) of the first image whose header can be read."""
    for url in images.values():
        try:
            return stored_size(EncodedImage(data=read_bytes(url), codec="file"))
        except ImageError as error:
            log.warning("%s: %s", url, error)
    raise SceneError(f"{next(iter(images.values()))}: none of the images here can be read")
