"""`<scan>.txt`: what is read, in which notations, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from preprocessing.scannet_meta import ScanMeta, parse_matrix, read_scan_meta
from spa3r.errors import FormatError

ALIGNMENT = "0 -1 0 2.5 1 0 0 -0.5 0 0 1 0.1 0 0 0 1"


def read(folder: Path, text: str) -> ScanMeta:
    (folder / "a.txt").write_bytes(text.encode())
    return read_scan_meta(str(folder / "a.txt"))


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_every_field_is_read(tmp_path: Path, end: str):
    lines = [
        f"axisAlignment = {ALIGNMENT}",
        "colorHeight=968",
        "colorWidth = 1296",
        "depthHeight = 480",
        "depthWidth = 640",
        "not a line of this kind",
        "numColorFrames = 5578",
        "sceneType = Bedroom / Hotel",
    ]
    meta = read(tmp_path, end.join(lines))
    assert meta.aligned_from_world_44 is not None
    np.testing.assert_array_equal(
        meta.aligned_from_world_44 @ (1, 2, 3, 1), [-2 + 2.5, 1 - 0.5, 3.1, 1]
    )
    assert (meta.color_size, meta.depth_size) == ((1296, 968), (640, 480))
    assert (meta.num_color_frames, meta.scene_type) == (5578, "Bedroom / Hotel")


def test_what_is_not_said_is_none(tmp_path: Path):
    meta = read(tmp_path, "colorWidth = 5\n")
    assert meta == ScanMeta(
        aligned_from_world_44=None,
        color_size=None,
        depth_size=None,
        num_color_frames=None,
        scene_type="",
    )


def test_real_metadata(shared: Path):
    meta = read_scan_meta(str(shared / "data/scannet/meta/scene_meta_example.txt"))
    assert (meta.color_size, meta.depth_size) == ((1296, 968), (640, 480))
    assert meta.num_color_frames == 1912 and meta.aligned_from_world_44 is None


@pytest.mark.parametrize(
    "text",
    [
        "axisAlignment = 1 2 3",
        "axisAlignment = " + ALIGNMENT.replace("2.5", "nan"),
        "axisAlignment = " + ALIGNMENT.replace("2.5", "oops"),
        "axisAlignment = " + ALIGNMENT.replace("-1", "-2"),
        "axisAlignment = " + ALIGNMENT.replace("-1", "1"),
        "colorWidth = 12x\ncolorHeight = 9",
        "colorWidth = 99999\ncolorHeight = 9",
        "numColorFrames = -1",
        "numColorFrames = " + "9" * 5000,
        "a" * (1 << 16) + "=1",
    ],
    ids=["short", "nan", "word", "scales", "mirrors", "12x", "wide", "negative", "long", "huge"],
)
def test_lies_are_refused_in_one_line(tmp_path: Path, text: str):
    with pytest.raises(FormatError, match=r"a\.txt: ") as caught:
        read(tmp_path, text)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_matrices_keep_their_invalid_values():
    matrix = parse_matrix("-inf nan 0 0 " * 4)
    assert matrix is not None and matrix[3, 0] == -np.inf and np.isnan(matrix[0, 1])
    assert parse_matrix("1 " * 15) is None
