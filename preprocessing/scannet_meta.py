"""What `<scan>.txt` says of a ScanNet scan: `key = value` lines, with or without CR.

`numColorFrames` is one larger than the `.sens` file in a few scans (ScanNet issue #59), so frames
are never counted by it. Test scans have no `axisAlignment`.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from spa3r.errors import FormatError
from spa3r.geometry import is_rigid
from spa3r.images import MAX_SIDE
from spa3r.storage import open_read

META_SUFFIX: Final = ".txt"
MAX_TEXT_BYTES: Final = 1 << 16
_MAX_FRAMES: Final = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanMeta:
    """One scan's metadata; None wherever the file does not say. Sizes are (width, height)."""

    aligned_from_world_44: np.ndarray | None
    """Rigid, metres: from the frame of the scan's poses and mesh to one with walls along x, y."""
    color_size: tuple[int, int] | None
    depth_size: tuple[int, int] | None
    num_color_frames: int | None
    scene_type: str


def read_scan_meta(url: str) -> ScanMeta:
    """Reads `<scan>.txt`.

    Raises:
        FormatError: too long for such a file, a number that is none, or a matrix that does not turn
            and move only. OSError: it cannot be read.
    """
    values = read_key_values(url)
    return ScanMeta(
        aligned_from_world_44=_alignment(values.get("axisAlignment"), url),
        color_size=_size(values, "color", url),
        depth_size=_size(values, "depth", url),
        num_color_frames=whole_number(values, "numColorFrames", url, most=_MAX_FRAMES),
        scene_type=values.get("sceneType", ""),
    )


def read_key_values(url: str) -> dict[str, str]:
    """The `key = value` lines of a text file; lines without "=" are passed over.

    Raises:
        FormatError: longer than MAX_TEXT_BYTES.
    """
    lines = read_text(url).splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def read_text(url: str) -> str:
    """A small text file; bytes that are no UTF-8 become marks. Raises FormatError if it is not."""
    with open_read(url) as f:
        data = f.read(MAX_TEXT_BYTES + 1)
    if len(data) > MAX_TEXT_BYTES:
        raise FormatError(f"{url}: more than {MAX_TEXT_BYTES} bytes; such a text file is short")
    return data.decode("utf-8-sig", errors="replace")


def parse_matrix(text: str) -> np.ndarray | None:
    """4x4 float64 from text, inf and nan included; None: something else."""
    try:
        values = np.array(text.split(), dtype=np.float64)
    except ValueError:
        return None
    return values.reshape(4, 4) if values.size == 16 else None


def whole_number(values: dict[str, str], key: str, url: str, *, most: int) -> int | None:
    """The number in 0..most under a key; None: not there. Raises FormatError for all else."""
    if key not in values:
        return None
    text = values[key]
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
    if not 0 <= number <= most:
        raise FormatError(f"{url}: {key} = {text[:40]!r} is no number in 0..{most}; correct it")
    return number


def _size(values: dict[str, str], stream: str, url: str) -> tuple[int, int] | None:
    width, height = (
        whole_number(values, f"{stream}{side}", url, most=MAX_SIDE) for side in ("Width", "Height")
    )
    return (width, height) if width and height else None


def _alignment(text: str | None, url: str) -> np.ndarray | None:
    if text is None:
        return None
    matrix = parse_matrix(text)
    if matrix is None or not np.isfinite(matrix).all():
        raise FormatError(f"{url}: axisAlignment is not 16 finite numbers; download it again")
    if not is_rigid(matrix):
        raise FormatError(f"{url}: axisAlignment does not only turn and move; download it again")
    return matrix
