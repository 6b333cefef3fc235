"""COLMAP's text and binary files, read by their public description (colmap.github.io/format)."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PINHOLE = 1


@dataclass
class Image:
    name: str
    camera: int
    camera_from_world_34: np.ndarray
    pixels_M2: np.ndarray
    points_M: np.ndarray  # ids


@dataclass
class Point:
    xyz: np.ndarray
    rgb: tuple[int, ...]
    error: float
    track: list[tuple[int, ...]]  # image id, index of its pixel


@dataclass
class Model:
    cameras: dict[int, tuple[int, int, np.ndarray]]  # width, height, K
    images: dict[int, Image]
    points: dict[int, Point]


def read_text(folder: Path) -> Model:
    model = Model({}, {}, {})
    for words in lines(folder / "cameras.txt"):
        assert words[1] == "PINHOLE"
        numbers = [float(w) for w in words[4:]]
        model.cameras[int(words[0])] = (int(words[2]), int(words[3]), pinhole(*numbers))
    rows = lines(folder / "images.txt")
    for head, body in zip(rows[::2], rows[1::2], strict=True):
        entries = np.array([float(w) for w in body]).reshape(-1, 3)
        pose = rigid([float(w) for w in head[1:5]], [float(w) for w in head[5:8]])
        model.images[int(head[0])] = Image(
            head[9], int(head[8]), pose, entries[:, :2], entries[:, 2].astype(int)
        )
    for words in lines(folder / "points3D.txt"):
        track = [int(w) for w in words[8:]]
        model.points[int(words[0])] = Point(
            np.array([float(w) for w in words[1:4]]), tuple(int(w) for w in words[4:7]),
            float(words[7]), list(zip(track[::2], track[1::2], strict=True)),
        )  # fmt: skip
    return model


def read_binary(folder: Path) -> Model:
    model = Model({}, {}, {})
    cameras = Bytes(folder / "cameras.bin")
    for _ in range(cameras.take("Q")[0]):
        identity, kind, width, height, *params = cameras.take("IiQQ4d")
        assert kind == PINHOLE
        model.cameras[identity] = (width, height, pinhole(*params))
    images = Bytes(folder / "images.bin")
    for _ in range(images.take("Q")[0]):
        identity, *numbers, camera = images.take("I7dI")
        name = images.text()
        entries = images.records("<f8,<f8,<u8")
        pixels_M2 = np.stack([entries["f0"], entries["f1"]], axis=-1)
        pose = rigid(numbers[:4], numbers[4:])
        model.images[identity] = Image(name, camera, pose, pixels_M2, entries["f2"].astype(int))
    points = Bytes(folder / "points3D.bin")
    for _ in range(points.take("Q")[0]):
        identity, x, y, z, r, g, b, error = points.take("Q3d3Bd")
        track = [tuple(map(int, pair)) for pair in points.records("<u4,<u4").tolist()]
        model.points[identity] = Point(np.array([x, y, z]), (r, g, b), error, track)
    for file in (cameras, images, points):
        assert file.at == len(file.data), "bytes left over"
    return model


class Bytes:
    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0

    def take(self, kinds: str) -> tuple:
        found = struct.unpack_from("<" + kinds, self.data, self.at)
        self.at += struct.calcsize("<" + kinds)
        return found

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
        found, self.at = self.data[self.at : end].decode(), end + 1
        return found

    def records(self, kinds: str) -> np.ndarray:
        (count,) = self.take("Q")
        found = np.frombuffer(self.data, np.dtype(kinds), count, self.at)
        self.at += found.nbytes
        return found


def lines(path: Path) -> list[list[str]]:
    rows = path.read_text().splitlines()
    return [row.split() for row in rows if not row.startswith("#")]


def pinhole(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def rigid(quaternion_wxyz: list[float], translation: list[float]) -> np.ndarray:
    w, x, y, z = quaternion_wxyz
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.column_stack([rotation, translation])
