"""Pictures of a question: the frames that were seen, each with its share of the answer.

Legend: V frames, H W pixels.
"""

import io
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from spa3r.viz.vlm_report_data import QuestionExample

_WIDTH: Final = 240
"""Pixels: twice of what a column shows, for screens of high density."""


@dataclass(frozen=True, slots=True)
class FramePicture:
    """One frame as it is shown."""

    jpeg: bytes
    name: str
    share: float | None
    """Of the answer, 0 to 1."""
    bar: float
    """Width in percent of the widest bar of this question."""


def frame_pictures(example: QuestionExample) -> list[FramePicture]:
    """The frames of an example, in order.

    Raises:
        ValueError: names or shares of another number than frames.
    """
    count = len(example.frames_VHW3)
    shares = example.view_shares or (None,) * count
    names = example.frame_names or ("",) * count
    if len(shares) != count or len(names) != count:
        raise ValueError(
            f"{example.id}: {count} frames, but {len(names)} names and {len(shares)} shares"
        )
    widest = max((share for share in shares if share is not None), default=0.0) or 1.0
    return [
        FramePicture(_jpeg(image_HW3), _short(name), share, round(100 * (share or 0) / widest, 1))
        for image_HW3, name, share in zip(example.frames_VHW3, names, shares, strict=True)
    ]


def _short(name: str) -> str:
    """ "frame-000120" -> "frame 120"."""
    return re.sub(r"^frame-0*(?=\d)", "frame ", name)


def _jpeg(image_HW3: np.ndarray) -> bytes:
    image = Image.fromarray(image_HW3)
    height = max(1, round(image.height * _WIDTH / image.width))
    buffer = io.BytesIO()
    image.resize((_WIDTH, height), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
