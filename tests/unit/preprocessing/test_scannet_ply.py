"""PLY meshes: fields in any order, and what becomes of cut and hostile files."""

import struct
from pathlib import Path

import numpy as np
import pytest

from preprocessing.scannet_ply import read_mesh
from spa3r.errors import FormatError

VERTICES = [(0.0, 1.0, 2.0), (3.0, 4.0, 5.0), (6.0, 7.0, 8.5)]


def header(*lines: str, kind: str = "binary_little_endian") -> bytes:
    return "\n".join(["ply", f"format {kind} 1.0", *lines, "end_header", ""]).encode()


def plain(faces: int = 1) -> bytes:
    """As released: three vertices with colours, and triangles."""
    head = header(
        "comment MLIB generated",
        "element vertex 3",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {c}" for c in ("red", "green", "blue", "alpha")),
        f"element face {faces}",
        "property list uchar int vertex_indices",
    )
    body = b"".join(struct.pack("<3f4B", *xyz, 1, 2, 3, 255) for xyz in VERTICES)
    return head + body + struct.pack("<B3i", 3, 0, 2, 1) * faces


def read(folder: Path, data: bytes) -> tuple[list, list]:
    (folder / "a.ply").write_bytes(data)
    mesh_N3, faces_F3 = read_mesh(str(folder / "a.ply"))
    return [tuple(row) for row in mesh_N3.tolist()], faces_F3.tolist()


def test_a_mesh_as_released(tmp_path: Path):
    assert read(tmp_path, plain(2)) == (VERTICES, [[0, 2, 1]] * 2)


def test_fields_in_any_order_with_others_between(tmp_path: Path):
    head = header(
        "obj_info anything",
        "element vertex 3",
        "property uint8 red",
        "property double z",
        "property ushort label",
        "property float32 y",
        "property float x",
        "element face 2",
        "property uchar flags",
        "property list uchar uint vertex_index",
    ).replace(b"\n", b"\r\n")
    body = b"".join(struct.pack("<BdHff", 9, z, 7, y, x) for x, y, z in VERTICES)
    body += struct.pack("<BB3I", 1, 3, 2, 1, 0) * 2
    assert read(tmp_path, head + body) == (VERTICES, [[2, 1, 0]] * 2)


def test_faces_that_are_no_triangles_are_not_used(tmp_path: Path):
    quad = plain(0).replace(b"face 0", b"face 1") + struct.pack("<B4i", 4, 0, 1, 2, 0)
    assert read(tmp_path, quad) == (VERTICES, [])
    without = plain(0).replace(b"element face 0\nproperty list uchar int vertex_indices\n", b"")
    assert read(tmp_path, without) == (VERTICES, [])


@pytest.mark.parametrize("kept", range(0, len(plain()), 3))
def test_no_cut_file_is_taken_for_a_whole_one(tmp_path: Path, kept: int):
    with pytest.raises(FormatError, match=r"a\.ply: "):
        read(tmp_path, plain()[:kept])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"ply\n", b"plx\n"),
        (b"little", b"big"),
        (b"vertex 3", b"vertex 4000000000"),
        (b"vertex 3", b"vertex 20000000"),
        (b"vertex 3", b"vertex 0"),
        (b"vertex 3", b"vertex -3"),
        (b"face 1", b"face 99999999999999999999999999"),
        (b"float z", b"float w"),
        (b"float z", b"float x"),
        (b"float z", b"string z"),
        (b"float z", b"list uchar float z"),
        (b"element vertex", b"element edge"),
        (b"comment", b"surprise"),
        (struct.pack("<f", 8.5), struct.pack("<f", np.nan)),
        (struct.pack("<f", 8.5), struct.pack("<f", 1e30)),
        (struct.pack("<3i", 0, 2, 1), struct.pack("<3i", 0, 3, 1)),
        (struct.pack("<3i", 0, 2, 1), struct.pack("<3i", 0, -1, 1)),
    ],
)
def test_lies_are_refused(tmp_path: Path, before: bytes, after: bytes):
    assert plain().count(before) == 1
    with pytest.raises(FormatError, match=r"a\.ply: "):
        read(tmp_path, plain().replace(before, after))


@pytest.mark.filterwarnings("error")
def test_a_signalling_nan_is_refused_without_a_warning(tmp_path: Path):
    data = plain().replace(struct.pack("<f", 8.5), struct.pack("<I", 0x7F80_0001))
    with pytest.raises(FormatError, match="vertices beyond 1000 m, or none at all"):
        read(tmp_path, data)


def test_a_header_without_end_or_beginning(tmp_path: Path):
    for data in (b"ply\n" + b"comment x\n" * 10_000, b"\nend_header\n", b"", bytes(100)):
        with pytest.raises(FormatError, match="not a PLY file"):
            read(tmp_path, data)
