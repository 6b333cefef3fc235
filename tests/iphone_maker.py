"""Poses of a small ScanNet++ iPhone recording; its folder written, and the only one read back."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.scannetpp_iphone import find_iphone

FRAMES = 12
K = [[80.0, 0, 48], [0, 80.0, 32], [0, 0, 1]]


def pose(number: int) -> list[list[float]]:
    matrix = np.eye(4)
    matrix[0, 3] = number
    return matrix.tolist()


def entry(number: int, **changes: Any) -> dict[str, Any]:
    stated = {"timestamp": 90000.5 + number / 60, "pose": pose(99), "intrinsic": K}
    return stated | {"imu": {}, "aligned_pose": pose(number)} | changes


def entries(count: int = FRAMES) -> dict[str, Any]:
    return {f"frame_{number:06d}": entry(number) for number in range(count)}


def write(root: Path, files: dict[str, bytes], poses: Any = None, scene: str = "a1b2") -> Path:
    folder = root / "data" / scene / "iphone"
    folder.mkdir(parents=True)
    poses = entries() if poses is None else poses
    (folder / "pose_intrinsic_imu.json").write_text(json.dumps(poses))
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read(root: Path | str, numbers: list[int] | None = None) -> tuple[dict[int, Any], list[str]]:
    """Number -> entry of the only recording under a root, and its problems."""
    (source,) = find_iphone(str(root))
    with source.open() as scene:
        found = list(scene.frames(numbers))
        assert [f.index for f in found] == list(scene.indices if numbers is None else numbers)
        return {f.index: f for f in found}, scene.problems
