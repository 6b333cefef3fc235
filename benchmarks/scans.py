"""A `.sens` scan of ScanNet's sizes for benchmarks: real pictures where they are at hand.

Colour 1296x968 JPEG, depth 640x480 zlib, a few frames repeated.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np

from preprocessing.scene import Frame
from preprocessing.sens import SensReader

COLOR_SIZE, DEPTH_SIZE = (1296, 968), (640, 480)


def make_scan(path: Path, frames: int) -> tuple[Path, str]:
    """A scan of so many frames, and where its pictures are from."""
    shared = Path(os.environ.get("SPA3R_SHARED", Path(__file__).parents[2] / "shared"))
    real = shared / "data" / "scannet" / "sens" / "redkitchen_color1296.sens"
    pictures, origin = (
        (real_frames(real), "7-Scenes RedKitchen, colour resampled to 1296x968, 4 frames repeated")
        if real.exists()
        else (made_frames(), "smooth structure with sensor-like noise, 4 frames repeated")
    )
    matrix = [1100, 0, 648, 0, 0, 1100, 484, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    eye = np.eye(4).ravel().tolist()
    with path.open("wb") as f:
        f.write(struct.pack("<IQ64f", 4, 0, *matrix, *eye, *matrix, *eye))
        f.write(struct.pack("<iiIIIIfQ", 2, 1, *COLOR_SIZE, *DEPTH_SIZE, 1000.0, frames))
        for color, depth in islice(cycle(pictures), frames):
            f.write(struct.pack("<16fQQQQ", *eye, 0, 0, len(color), len(depth)) + color + depth)
        f.write(struct.pack("<Q", 0))
    return path, origin


def real_frames(path: Path) -> list[tuple[bytes, bytes]]:
    with path.open("rb") as f:
        reader = SensReader(f, str(path))
        assert (reader.header.color_size, reader.header.depth_size) == (COLOR_SIZE, DEPTH_SIZE)
        frames = [frame for frame in reader.frames() if isinstance(frame, Frame)]
    return [(frame.color.data, frame.depth.data) for frame in frames if frame.depth]


def made_frames() -> Iterator[tuple[bytes, bytes]]:
    rng = np.random.default_rng(0)
    for _ in range(4):
        coarse = rng.integers(0, 256, (24, 32, 3)).astype(np.float32)
        color = cv2.resize(coarse, COLOR_SIZE, interpolation=cv2.INTER_CUBIC)
        color += rng.normal(0, 4, color.shape)
        relief = cv2.resize(rng.uniform(500, 5000, (12, 16)), DEPTH_SIZE)
        depth = relief + rng.normal(0, 3, relief.shape)
        jpeg = cv2.imencode(".jpg", color.clip(0, 255).astype(np.uint8))[1].tobytes()
        yield jpeg, zlib.compress(depth.astype("<u2").tobytes())
