"""Writer of ScanNet's `.sens` container, version 4 (formats.md B1): little endian, no padding."""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SENSOR_NAME = b"StructureSensor"
JPEG, ZLIB_USHORT = 2, 1  # ScanNet's codes of the two compressions
DEPTH_SHIFT = 1000.0
# Level 3: depth of smooth surfaces packs nearly as small as at 9, several times faster.
ZLIB_LEVEL = 3
MICROSECONDS_A_FRAME = 33_333


@dataclass(frozen=True, slots=True)
class SensFrame:
    """One record.

    Attributes:
        world_from_camera: (4, 4); all -inf where tracking was lost.
        jpeg: Bytes of the colour image.
        depth: (H, W) uint16 millimetres, 0 = no measurement.
    """

    world_from_camera: np.ndarray
    jpeg: bytes
    depth: np.ndarray


def intrinsic_matrix(focal: float, width: int, height: int) -> np.ndarray:
    """(4, 4) float32 with the principal point in the middle (pixel centres at +0.5)."""
    matrix = np.eye(4, dtype=np.float32)
    matrix[0, 0] = matrix[1, 1] = focal
    matrix[:2, 2] = width / 2, height / 2
    return matrix


def write_sens(
    path: Path, intrinsic: np.ndarray, width: int, height: int, frames: Iterable[SensFrame]
) -> int:
    """Write frames as they come; colour and depth share size, intrinsics and viewpoint.

    Args:
        path: File to write; the caller gives it its final name when the scan is whole.
        intrinsic: (4, 4) of both images.
        width: Pixels. height: Pixels.
        frames: Records in the order of time.

    Returns:
        How many frames were written.
    """
    identity = np.eye(4, dtype=np.float32)
    count = 0
    with path.open("wb") as file:
        file.write(struct.pack("<IQ", 4, len(SENSOR_NAME)) + SENSOR_NAME)
        for matrix in (intrinsic, identity, intrinsic, identity):
            file.write(matrix.astype("<f4").tobytes())
        sides = (width, height, width, height)
        file.write(struct.pack("<ii4If", JPEG, ZLIB_USHORT, *sides, DEPTH_SHIFT))
        count_at = file.tell()
        file.write(struct.pack("<Q", 0))
        for frame in frames:
            depth = zlib.compress(frame.depth.astype("<u2").tobytes(), ZLIB_LEVEL)
            time = count * MICROSECONDS_A_FRAME
            file.write(frame.world_from_camera.astype("<f4").tobytes())
            file.write(struct.pack("<4Q", time, time, len(frame.jpeg), len(depth)))
            file.write(frame.jpeg)
            file.write(depth)
            count += 1
        file.write(struct.pack("<Q", 0))  # no IMU records
        file.seek(count_at)
        file.write(struct.pack("<Q", count))
    return count
