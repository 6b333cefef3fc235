"""Small videos in memory whose pictures spell their own number in bright and dark blocks."""

import io
from collections.abc import Callable, Sequence
from fractions import Fraction

import av
import numpy as np

BITS = 8
SIZE = (96, 64)


def numbered(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """RGB (H, W, 3): 4 x 2 blocks, white for the ones of the number, lowest bit at the top left."""
    width, height = size
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    blocks = np.array(bits, np.uint8).reshape(2, 4) * 255
    gray = blocks.repeat(height // 2, axis=0).repeat(width // 4, axis=1)
    return np.repeat(gray[..., None], 3, axis=2)


def read_number(pixels: np.ndarray) -> int:
    """The number in an (H, W) or (H, W, 3) picture; fails where a block is neither of both."""
    gray = pixels if pixels.ndim == 2 else pixels.mean(axis=2)
    height, width = gray.shape
    blocks = gray.reshape(2, height // 2, 4, width // 4)[:, 8:-8, :, 6:-6].mean(axis=(1, 3))
    assert ((blocks < 60) | (blocks > 195)).all(), f"blurred blocks: {blocks}"
    return int(((blocks.ravel() > 128) << np.arange(BITS)).sum())


def make_video(
    frames: int = 40,
    *,
    container: str = "matroska",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    rate: int = 30,
    times: Sequence[int] | None = None,
    size: tuple[int, int] = SIZE,
    picture: Callable[[int], np.ndarray] | None = None,
) -> bytes:
    """A video's bytes.

    Args:
        options: the codec's; default: B-frames and a key frame at least every 10 frames.
        times: of each frame in units of 1 / rate s; default: 0, 1, 2, ...
        picture: RGB (H, W, 3) or gray (H, W) of a number; default: `numbered`.
    """
    file = io.BytesIO()
    if options is None:
        options = {"bf": "2", "g": "10"}
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
        for number in range(frames):
            array = picture(number) if picture else numbered(number, size)
            frame = av.VideoFrame.from_ndarray(array, "rgb24" if array.ndim == 3 else "gray")
            frame.pts = times[number] if times else number
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def turned(mp4: bytes, quarters: int = 1) -> bytes:
    """The MP4 with the note that phones write: show it so many quarter turns clockwise."""
    one, none, minus = 1 << 16, 0, (1 << 32) - (1 << 16)
    a, b, c, d = [(one, none, none, one), (none, one, minus, none),
                  (minus, none, none, minus), (none, minus, one, none)][quarters]  # fmt: skip
    plain, new = (
        b"".join(cell.to_bytes(4, "big") for cell in (*rows[:2], 0, *rows[2:], 0, 0, 0, 1 << 30))
        for rows in ((one, none, none, one), (a, b, c, d))
    )
    place = mp4.index(plain, mp4.index(b"tkhd"))
    return mp4[:place] + new + mp4[place + len(new) :]
