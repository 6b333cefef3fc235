"""Vertices and triangles of a binary PLY mesh; colours, labels and whatever else are skipped.

Nothing in the header is trusted: an element is read only if all its bytes are there.
"""

from typing import IO, Final

import numpy as np

from spa3r.errors import FormatError
from spa3r.storage import open_read

_MAX_HEADER: Final = 1 << 16
_MAX_VERTICES: Final = 1 << 25  # the largest meshes of ScanNet have a few million
_MAX_REACH: Final = 1000.0  # metres
_SCALARS: Final = {
    **dict.fromkeys(("char", "int8"), "<i1"),
    **dict.fromkeys(("uchar", "uint8"), "<u1"),
    **dict.fromkeys(("short", "int16"), "<i2"),
    **dict.fromkeys(("ushort", "uint16"), "<u2"),
    **dict.fromkeys(("int", "int32"), "<i4"),
    **dict.fromkeys(("uint", "uint32"), "<u4"),
    **dict.fromkeys(("float", "float32"), "<f4"),
    **dict.fromkeys(("double", "float64"), "<f8"),
}
_CORNERS: Final = ("vertex_indices", "vertex_index")
Element = tuple[str, int, list[tuple]]
"""Name, count, and numpy fields; a list property is taken to hold three values each time."""


def read_mesh(url: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, 3) float64 metres, N > 0, and triangles (F, 3) int64 of a little-endian PLY.

    F is 0 where there are no faces, or some of them are no triangles.

    Raises:
        FormatError: another format, cut short, or vertices that no scan has. OSError: unreadable.
    """
    with open_read(url) as f:
        size = f.seek(0, 2)
        f.seek(0)
        elements = _read_header(f, url)
        (name, count, fields), rest = elements[0], elements[1:]
        if name != "vertex" or any(field[0].startswith("#") for field in fields):
            raise FormatError(f"{url}: its first element must be vertices without lists")
        if not {"x", "y", "z"} <= {field[0] for field in fields}:
            raise FormatError(f"{url}: its vertices have no x, y, z")
        if not 0 < count <= _MAX_VERTICES:
            raise FormatError(f"{url}: {count} vertices; 1 to {_MAX_VERTICES} can be read")
        vertices = _read_rows(f, np.dtype(fields), count, size, url)
        with np.errstate(invalid="ignore"):  # numpy warns of some NaNs; they are refused below
            mesh_N3 = np.stack([vertices[axis].astype(np.float64) for axis in "xyz"], axis=-1)
        # Written so that NaN fails it too.
        if not (np.abs(mesh_N3) <= _MAX_REACH).all():
            raise FormatError(f"{url}: vertices beyond {_MAX_REACH:g} m, or none at all (NaN)")
        if not rest or rest[0][0] != "face":
            return mesh_N3, np.zeros((0, 3), np.int64)
        return mesh_N3, _read_triangles(f, rest[0], count, size, url)


def _read_triangles(
    f: IO[bytes], element: Element, vertices: int, size: int, url: str
) -> np.ndarray:
    _, count, fields = element
    lists = [field[0][1:] for field in fields if field[0].startswith("#")]
    names = [name for name in lists if name in _CORNERS]
    faces = _read_rows(f, np.dtype(fields), count, size, url)
    if not names or not all((faces["#" + name] == 3).all() for name in lists):
        return np.zeros((0, 3), np.int64)
    corners_F3 = faces[names[0]].astype(np.int64)
    if count and not (corners_F3.min() >= 0 and corners_F3.max() < vertices):
        raise FormatError(f"{url}: faces between vertices that are not there; download it again")
    return corners_F3


def _read_rows(f: IO[bytes], dtype: np.dtype, count: int, size: int, url: str) -> np.ndarray:
    left = size - f.tell()
    if count * dtype.itemsize > left:
        raise FormatError(
            f"{url}: {count} entries of {dtype.itemsize} bytes announced, {left} bytes are left;"
            " download it again"
        )
    return np.frombuffer(f.read(count * dtype.itemsize), dtype, count)


def _read_header(f: IO[bytes], url: str) -> list[Element]:
    """The elements announced, in order; the file then stands at the first one's bytes."""
    head = f.read(_MAX_HEADER)
    text, end, _ = head.partition(b"\nend_header")
    newline = head.find(b"\n", len(text) + 1)
    first, *lines = text.decode("ascii", errors="replace").split("\n")
    if not end or newline < 0 or first.strip() != "ply":
        raise FormatError(f"{url}: not a PLY file, or one without the end of its header")
    f.seek(newline + 1)
    elements: list[Element] = []
    binary = False
    for line in lines:
        match line.split():
            case ["format", kind, _]:
                binary = kind == "binary_little_endian"
            case ["element", name, count] if count.isascii() and count.isdecimal():
                elements.append((name, int(count[:20]), []))
            case ["property", *words] if elements:
                elements[-1][2].extend(_fields(words, elements[-1], line, url))
            case ["comment" | "obj_info", *_] | []:
                pass
            case _:
                raise FormatError(f"{url}: header line {line[:80]!r} is not PLY")
    if not binary or not elements:
        raise FormatError(f"{url}: only binary little-endian PLY with elements can be read")
    return elements


def _fields(words: list[str], element: Element, line: str, url: str) -> list[tuple]:
    """numpy fields of one property; a list's are its length, named with a "#", and 3 values."""
    taken = {field[0] for field in element[2]}
    match words:
        case [kind, name] if kind in _SCALARS and name.isidentifier() and name not in taken:
            return [(name, _SCALARS[kind])]
        case ["list", length, kind, name] if (
            length in _SCALARS and kind in _SCALARS and name.isidentifier() and name not in taken
        ):
            return [("#" + name, _SCALARS[length]), (name, _SCALARS[kind], (3,))]
    raise FormatError(f"{url}: header line {line[:80]!r} is no property of its own")
