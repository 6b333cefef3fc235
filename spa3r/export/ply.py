"""Point clouds as PLY: what MeshLab, CloudCompare, Blender and Open3D open.

Legend: N points.
"""

from pathlib import Path
from typing import Final

import numpy as np

from spa3r import storage
from spa3r.point_cloud import PointCloud

_POINT: Final = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"),
     ("confidence", "<f4")]
)  # fmt: skip
_NAMES: Final = {"<f4": "float", "|u1": "uchar"}


def write_ply(cloud: PointCloud, path: str | Path) -> None:
    """Binary little-endian PLY, atomically: x y z, red green blue, confidence.

    Axes stay OpenCV's (x right, y down, z forward; world = view 0's camera), lengths as they are.

    Args:
        path: file or URL.
    """
    points_N = np.empty(len(cloud), _POINT)
    for axis, name in enumerate("xyz"):
        points_N[name] = cloud.points_N3[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        points_N[name] = cloud.colours_N3[:, channel]
    points_N["confidence"] = cloud.confidence_N
    header = [
        "ply",
        "format binary_little_endian 1.0",
        "comment x right, y down, z forward; the origin is the camera of view 0",
        f"element vertex {len(cloud)}",
        *(f"property {_NAMES[_POINT[name].str]} {name}" for name in _POINT.names or ()),
        "end_header",
    ]
    storage.write_bytes(path, ("\n".join(header) + "\n").encode() + points_N.tobytes())
