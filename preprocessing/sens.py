"""Streaming reader of ScanNet's `.sens` files, version 4.

The layout is ScanNet's SensReader/c++/src/sensorData.h: little endian, no padding, no checksum;
poses camera-to-world, float32, row-major. Nothing in such a file can be trusted: every length is
checked against the bytes left before anything is read, one frame at most is in memory.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final, Literal, NamedTuple

import numpy as np

from preprocessing.scene import Damage, Frame
from spa3r.errors import FormatError
from spa3r.images import MAX_SIDE, EncodedDepth, EncodedImage
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_IMAGE, DROP_TRUNCATED

_VERSION: Final = 4
_MAX_NAME: Final = 4096
_MATRICES: Final = struct.Struct("<64f")  # colour K, colour extrinsic, depth K, depth extrinsic
_FORMAT: Final = struct.Struct("<iiIIIIfQ")  # codecs, colour w h, depth w h, depth shift, frames
_FRAME: Final = struct.Struct("<16fQQQQ")  # pose, two timestamps, colour and depth bytes
_COUNT: Final = struct.Struct("<Q")
_IMU_BYTES: Final = 128
_COLOR_CODECS: Final[dict[int, Literal["raw_rgb8", "file"]]] = {
    0: "raw_rgb8",
    1: "file",  # PNG
    2: "file",  # JPEG
}
_DEPTH_CODECS: Final[dict[int, Literal["raw_u16", "zlib_u16"]]] = {0: "raw_u16", 1: "zlib_u16"}
_DEPTH_OCCI: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SensHeader:
    """What a `.sens` file says about all of its frames. Sizes are (width, height)."""

    sensor: str
    K_color_33: np.ndarray
    K_depth_33: np.ndarray
    color_codec: Literal["raw_rgb8", "file"]
    depth_codec: Literal["raw_u16", "zlib_u16"]
    color_size: tuple[int, int]
    depth_size: tuple[int, int]
    depth_shift: float
    """Depth units per metre."""
    num_frames: int
    first_frame: int
    """Byte offset of the first frame."""


class FrameTable(NamedTuple):
    """One frame's header, and where its bytes lie."""

    index: int
    world_from_camera_44: np.ndarray
    timestamp: int
    offset: int
    color_bytes: int
    depth_bytes: int

    @property
    def color_offset(self) -> int:
        return self.offset + _FRAME.size

    @property
    def depth_offset(self) -> int:
        return self.color_offset + self.color_bytes

    @property
    def end(self) -> int:
        return self.depth_offset + self.depth_bytes


class SensReader:
    """One open `.sens` file; a Scene without labels.

    Args:
        file: any seekable binary file, local or not.
        name: what errors call it.

    Raises:
        FormatError: not a version 4 file, or a header that cannot be true.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._bytes = file.seek(0, 2)
        file.seek(0)
        self.header = self._read_header()
        K_33 = self.header.K_color_33
        focal = K_33[[0, 1], [0, 1]]
        self._K_33 = K_33 if np.isfinite(K_33).all() and (focal > 0).all() else None
        self.problems: list[str] = []
        self.label_to_nyu40: np.ndarray | None = None

    @property
    def indices(self) -> Sequence[int]:
        """All frame numbers the header announces."""
        return range(self.header.num_frames)

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """The given frames; once the file is cut short, Damage for each one it still owes."""
        numbers = self.indices if numbers is None else numbers
        wanted = frozenset(numbers)
        self.problems.clear()
        if self._K_33 is None:
            self.problems.append(f"{self._name}: the colour intrinsics are no camera; ignored")
        end = self.header.first_frame
        for index in self.indices:
            entry = self._frame_entry(index, end)
            if isinstance(entry, str):
                self.problems.append(f"{self._name}: {entry}")
                for lost in numbers:
                    if lost >= index:
                        yield Damage(index=lost, reason=DROP_TRUNCATED, detail=entry)
                return
            if index in wanted:
                yield self._frame(entry)
            end = entry.end
        self._check_tail(end)

    def objects(self) -> dict[str, Any] | None:
        """None: a `.sens` file holds no annotations."""
        return None

    # --- header -----------------------------------------------------------------------------------

    def _fail(self, what: str) -> FormatError:
        return FormatError(f"{self._name}: {what}")

    def _read(self, count: int, what: str) -> bytes:
        left = self._bytes - self._file.tell()
        if count > left:
            raise self._fail(
                f"the file ends inside the {what} ({count} bytes needed, {left} left); download it"
                " again"
            )
        return self._file.read(count)

    def _read_header(self) -> SensHeader:
        (version,) = struct.unpack("<I", self._read(4, "version number"))
        if version != _VERSION:
            raise self._fail(
                f"version {version} is not a .sens file of version {_VERSION}; older scans must be"
                " converted with ScanNet's SensReader"
            )
        (length,) = _COUNT.unpack(self._read(_COUNT.size, "sensor name"))
        if length > _MAX_NAME:
            raise self._fail(f"a sensor name of {length} bytes; download the file again")
        sensor = self._read(length, "sensor name").decode("utf-8", errors="replace")
        matrices = np.array(_MATRICES.unpack(self._read(_MATRICES.size, "calibration")))
        K_color, _, K_depth, _ = matrices.reshape(4, 4, 4)[:, :3, :3]
        values = _FORMAT.unpack(self._read(_FORMAT.size, "header"))
        color_codec, depth_codec = self._codecs(*values[:2])
        sides, depth_shift, num_frames = values[2:6], values[6], values[7]
        if not all(1 <= side <= MAX_SIDE for side in sides):
            raise self._fail(f"image sides {sides} do not lie in 1..{MAX_SIDE}; download it again")
        if not (np.isfinite(depth_shift) and depth_shift > 0):
            raise self._fail(
                f"depth shift {depth_shift} (units per metre) is not positive; export it again"
            )
        first_frame = self._file.tell()
        if num_frames * _FRAME.size > self._bytes - first_frame:
            raise self._fail(
                f"{num_frames} frames announced, more than {self._bytes} bytes can hold; download"
                " the file again"
            )
        return SensHeader(
            sensor=sensor,
            K_color_33=K_color,
            K_depth_33=K_depth,
            color_codec=color_codec,
            depth_codec=depth_codec,
            color_size=sides[:2],
            depth_size=sides[2:],
            depth_shift=depth_shift,
            num_frames=num_frames,
            first_frame=first_frame,
        )

    def _codecs(
        self, color: int, depth: int
    ) -> tuple[Literal["raw_rgb8", "file"], Literal["raw_u16", "zlib_u16"]]:
        if color not in _COLOR_CODECS:
            raise self._fail(f"unknown colour compression {color}; export it with JPEG or PNG")
        if depth == _DEPTH_OCCI:
            raise self._fail(
                "depth is in the proprietary OCCI codec; re-export the scan with zlib depth"
            )
        if depth not in _DEPTH_CODECS:
            raise self._fail(f"unknown depth compression {depth}; export it with zlib")
        return _COLOR_CODECS[color], _DEPTH_CODECS[depth]

    # --- frames -----------------------------------------------------------------------------------

    def _frame_entry(self, index: int, offset: int) -> FrameTable | str:
        """The frame that starts at an offset, or what keeps it from being complete."""
        left = self._bytes - offset
        if left < _FRAME.size:
            return f"the file ends before frame {index} of {self.header.num_frames}"
        self._file.seek(offset)
        *pose, time, _, color_bytes, depth_bytes = _FRAME.unpack(self._read(_FRAME.size, "frame"))
        entry = FrameTable(
            index=index,
            world_from_camera_44=np.array(pose).reshape(4, 4),
            timestamp=time,
            offset=offset,
            color_bytes=color_bytes,
            depth_bytes=depth_bytes,
        )
        if entry.end > self._bytes:
            return (
                f"frame {index} of {self.header.num_frames} claims {color_bytes} + {depth_bytes}"
                f" bytes, {left - _FRAME.size} are left"
            )
        return entry

    def _frame(self, entry: FrameTable) -> Frame | Damage:
        header = self.header
        sizes = (
            (DROP_IMAGE, entry.color_bytes, header.color_size),
            (DROP_DEPTH_IMAGE, entry.depth_bytes, header.depth_size),
        )
        for reason, count, (width, height) in sizes:
            # Generous for any codec (16-bit RGBA, incompressible): only lies are larger.
            if count > width * height * 8 + (1 << 20):
                detail = f"frame {entry.index}: {count} bytes for an image of {width} x {height}"
                return Damage(index=entry.index, reason=reason, detail=detail)
        self._file.seek(entry.color_offset)
        color = self._read(entry.color_bytes, "colour image")
        depth = self._read(entry.depth_bytes, "depth map")
        return Frame(
            index=entry.index,
            color=EncodedImage(data=color, codec=header.color_codec, size=header.color_size),
            depth=EncodedDepth(
                data=depth,
                codec=header.depth_codec,
                size=header.depth_size,
                units_per_metre=header.depth_shift,
            ),
            labels=None,
            K_33=self._K_33,
            world_from_camera_44=entry.world_from_camera_44,
            # Some scans hold rubbish here; what does not fit in int64 certainly is.
            timestamp_us=entry.timestamp if entry.timestamp < 1 << 63 else -1,
        )

    def _check_tail(self, end: int) -> None:
        """Reports bytes after the last frame that are not the IMU section; its absence is fine."""
        left = self._bytes - end
        if left == 0:
            return
        self._file.seek(end)
        count = _COUNT.unpack(self._read(_COUNT.size, "IMU"))[0] if left >= _COUNT.size else 0
        if left != _COUNT.size + count * _IMU_BYTES:
            self.problems.append(
                f"{self._name}: {left} bytes after the last announced frame are not a complete IMU"
                " section: the file is cut short or announces too few frames"
            )
