"""Views of a scene as the page shows them.

Legend: V views, H W pixels.
"""

import base64
import io
from typing import Any, Final

import numpy as np
from PIL import Image

from spa3r.chat_page.seen import Seen

_WIDTH: Final = 360
"""Pixels: twice of what a card shows, for screens of high density."""


def scene_views(seen: Seen) -> list[dict[str, Any]]:
    """For each view its name, its picture and its maps, as data URLs."""
    views = seen.views
    names = views.names or tuple(f"view {v + 1}" for v in range(len(views.rgb_VHW3)))
    return [
        {
            "name": name,
            "picture": picture_url(views.rgb_VHW3[v]),
            "maps": {kind: picture_url(maps[v]) for kind, maps in seen.maps.items()},
        }
        for v, name in enumerate(names)
    ]


def picture_url(rgb_HW3: np.ndarray) -> str:
    """A small JPEG as a data URL."""
    image = Image.fromarray(rgb_HW3)
    height = max(1, round(image.height * _WIDTH / image.width))
    buffer = io.BytesIO()
    image.resize((_WIDTH, height), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
