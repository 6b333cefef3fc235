"""Moving pictures as GIF or MP4.

Legend: H W pixels.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from spa3r import storage
from spa3r.errors import ConfigError
from spa3r.extras import needed_for

_PALETTE_FRAMES: Final = 8
_QUALITY: Final = "18"  # x264's constant rate factor: hardly a visible loss


def write_movie(frames: Sequence[np.ndarray], path: str | Path, fps: int = 20) -> None:
    """Writes frames by the path's ending, atomically: .gif (loops for ever) or .mp4 (H.264).

    Args:
        frames: (H, W, 3) uint8 RGB, all of one size. An MP4's sides are even: an odd one gains a
            row or column like its last.
        path: file or URL.
        fps: frames a second; a GIF counts in hundredths of a second.

    Raises:
        ConfigError: another ending, no frames, or PyAV is not installed.
    """
    write = _writer(path)
    if not len(frames):
        raise ConfigError(f"{path}: a movie needs at least one frame")
    storage.write_bytes(path, write(frames, fps))


def check_movie_path(path: str | Path) -> None:
    """Raises ConfigError unless `write_movie` knows the ending: asked before frames are made."""
    _writer(path)


def _writer(path: str | Path) -> Callable[[Sequence[np.ndarray], int], bytes]:
    suffix = Path(str(path)).suffix.lower()
    if suffix not in _WRITERS:
        raise ConfigError(f"{path}: movies end in {' or '.join(_WRITERS)}")
    return _WRITERS[suffix]


def _gif(frames: Sequence[np.ndarray], fps: int) -> bytes:
    """One palette for all frames: a palette of its own for each would flicker."""
    chosen = np.linspace(0, len(frames) - 1, min(_PALETTE_FRAMES, len(frames))).astype(int)
    sheet = Image.fromarray(np.concatenate([frames[i] for i in chosen]))
    palette = sheet.quantize(256, method=Image.Quantize.MEDIANCUT)
    images = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    buffer = io.BytesIO()
    milliseconds = 10 * max(1, round(100 / fps))
    images[0].save(
        buffer, "GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0
    )
    return buffer.getvalue()


def _mp4(frames: Sequence[np.ndarray], fps: int) -> bytes:
    with needed_for("an MP4 file", "view"):
        import av

    height, width = frames[0].shape[:2]
    odd = ((0, height % 2), (0, width % 2), (0, 0))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": _QUALITY})
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.pad(frame, odd, mode="edge"), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


_WRITERS: Final = {".gif": _gif, ".mp4": _mp4}
