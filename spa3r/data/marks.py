"""SPAR's markers: points and boxes drawn on images before any tower sees them.

As SPAR publishes its drawing: in pixels of the image as stored, whatever its size; a point is a
disc of radius 20, a box a frame 20 wide that lies around it, seven eighths of it outside. Places
are thousandths of width and height, cut to whole pixels. Of the four tasks with written labels SPAR
uses OpenCV's letters and a frame 12.5 pixels further out; here all look alike.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from spa3r.instructions import MARK_SCALE, Mark

RADIUS: Final = 20
STROKE: Final = 20
OUTSIDE: Final = STROKE * 7 / 8
_LETTERS: Final = 48
"""Height of a label, in pixels."""


def draw_marks(rgb_HW3: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """Copy of an image with marks on it, in their order; whatever image they name.

    Args:
        rgb_HW3: uint8, at its own size, upright.
    """
    picture = Image.fromarray(rgb_HW3)
    draw = ImageDraw.Draw(picture)
    for mark in marks:
        colour = ImageColor.getrgb(mark.colour)
        place = _pixels(mark, picture.size)
        if mark.kind == "point":
            x, y = (int(at) for at in place)
            box = (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)
            draw.ellipse(box, fill=colour)
        else:
            left, top, right, bottom = place
            box = tuple(
                int(at) for at in (left - OUTSIDE, top - OUTSIDE, right + OUTSIDE, bottom + OUTSIDE)
            )
            draw.rectangle(box, outline=colour, width=STROKE)
        if mark.label:
            _write(draw, mark.label, box, picture.size)
    return np.asarray(picture)


def _pixels(mark: Mark, size: tuple[int, int]) -> list[float]:
    """x, y, x, y ... of a mark in pixels of an image of (width, height)."""
    return [at * size[i % 2] / MARK_SCALE for i, at in enumerate(mark.xy)]


def _write(
    draw: ImageDraw.ImageDraw, label: str, box: tuple[int, ...], size: tuple[int, int]
) -> None:
    """A label below the lower right corner of its mark, moved so that all of it is seen."""
    font = ImageFont.load_default(_LETTERS)
    _, _, width, height = draw.textbbox((0, 0), label, font=font)
    x = max(0, min(box[2], size[0] - width))
    y = max(0, min(box[3], size[1] - height))
    draw.text((x, y), label, fill="lime", font=font, stroke_width=2, stroke_fill="black")
