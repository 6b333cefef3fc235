"""A second, independent writer of small `.sens` files (version 4), after formats.md B1 alone."""

import struct
import zlib
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np


def pose(index: int) -> np.ndarray:
    """A camera that turns about y and walks along x: (4, 4), camera to world, metres."""
    angle = 0.05 * index
    matrix = np.eye(4)
    matrix[0, 0] = matrix[2, 2] = np.cos(angle)
    matrix[0, 2], matrix[2, 0] = np.sin(angle), -np.sin(angle)
    matrix[0, 3] = 0.1 * index
    return matrix


def make_sens(
    path: Path,
    frames: int = 6,
    *,
    size: tuple[int, int] = (160, 120),
    seed: int = 0,
    bad_poses: Collection[int] = (),
    bad_jpegs: Collection[int] = (),
    empty_depths: Collection[int] = (),
) -> Path:
    """Writes a scan of smooth pictures and slanted depth of half the size, all different."""
    rng = np.random.default_rng(seed)
    width, height = size
    focal = 0.9 * width
    K = [focal, 0, width / 2, 0, 0, focal, height / 2, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    eye = np.eye(4).ravel()
    sensor = b"StructureSensor"
    head = struct.pack("<IQ", 4, len(sensor)) + sensor
    head += struct.pack("<64f", *K, *eye, *K, *eye)
    head += struct.pack("<iiIIIIfQ", 2, 1, width, height, width // 2, height // 2, 1000.0, frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as f:
        f.write(head)
        for index in range(frames):
            coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
            image = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
            color = cv2.imencode(".jpg", image)[1].tobytes()
            if index in bad_jpegs:
                color = color[:64] + bytes(len(color) - 64)
            depth = np.add.outer(np.arange(height // 2), np.arange(width // 2)) + 1000 + index
            depth = depth.astype("<u2") * (index not in empty_depths)
            packed = zlib.compress(depth.astype("<u2").tobytes())
            matrix = pose(index) if index not in bad_poses else np.full((4, 4), -np.inf)
            f.write(struct.pack("<16f", *matrix.ravel()))
            f.write(struct.pack("<QQQQ", 33_333 * index, 0, len(color), len(packed)))
            f.write(color + packed)
        f.write(struct.pack("<Q", 0))
    return path


def make_dataset(root: Path, scans: int = 3, frames: int = 6, **options: object) -> Path:
    """root/scans/scene%04d_00/*.sens, the last scan in the validation split."""
    names = [f"scene{number:04d}_00" for number in range(scans)]
    for number, name in enumerate(names):
        make_sens(root / "scans" / name / f"{name}.sens", frames, seed=number, **options)  # pyright: ignore
    (root / "scannetv2_train.txt").write_text("\n".join(names[:-1]) + "\n")
    (root / "scannetv2_val.txt").write_text(names[-1] + "\n")
    return root
