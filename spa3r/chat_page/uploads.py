"""Photos as they come in: bounded while they stream, decoded at once, kept as small pictures.

Nothing of an upload touches the disk, and its name is a label that is shown, never a path.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
from starlette.requests import Request

from spa3r.errors import ConfigError, ImageError
from spa3r.given_images import ImageBytes, to_working_size
from spa3r.images import EncodedImage, WorkingSize, stored_size
from spa3r.vision_input import SceneViews

MAX_BYTES: Final = 20_000_000
"""Of one photo."""
MAX_PIXELS: Final = 64_000_000
"""Of one photo: 20 MB of PNG can decode to gigabytes."""
SECONDS: Final = 60.0
"""That an upload may take."""
_NAME: Final = 80
"""Characters of a name that are kept."""

Kept = TypeVar("Kept")


class TooLargeError(Exception):
    """A body that passes its limit; the message is one line."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """A photo at working size."""

    name: str
    rgb_HW3: np.ndarray
    size: WorkingSize


class Store(Generic[Kept]):
    """The last few of something, under names that nobody guesses."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what = most, what
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def add(self, one: Kept) -> str:
        """Keeps it, forgetting the one that was longest not asked for; returns its name."""
        name = secrets.token_urlsafe(9)
        self._kept[name] = one
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return name

    def get(self, name: str) -> Kept:
        """Raises ConfigError for one that is not kept (any more)."""
        if name not in self._kept:
            raise ConfigError(f"this {self._what} is no longer kept here: choose it again")
        self._kept.move_to_end(name)
        return self._kept[name]


async def read_body(request: Request, limit: int, what: str) -> bytes:
    """The body, of which never more than `limit` bytes are held.

    Raises:
        TooLargeError: it is larger, or says so. TimeoutError: it took longer than SECONDS.
    """
    declared = request.headers.get("content-length", "")
    too_large = TooLargeError(f"{what}: larger than {limit:,} bytes; make it smaller")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                if len(body) + len(part) > limit:
                    raise too_large
                body += part
    except TimeoutError as error:
        raise TimeoutError(f"{what}: not received within {SECONDS:.0f} s; send it again") from error
    return bytes(body)


def label_of(name: str) -> str:
    """What is shown of a file's name: its last part, printable, not long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    shown = "".join(c for c in last if c.isprintable())[:_NAME].strip()
    return shown or "photo"


def open_photo(data: bytes, name: str, *, width: int, multiple: int) -> Photo:
    """Decoded as photos on the disk are: EXIF orientation, transparency, crop.

    Raises:
        ImageError: not an image, a damaged or an over-large one.
    """
    image = ImageBytes(data, label_of(name))
    try:
        columns, rows = stored_size(EncodedImage(data=data, codec="file", oriented=True))
    except ImageError as error:
        raise ImageError(f"{image.name}: {error}") from error
    if columns * rows > MAX_PIXELS:
        raise ImageError(
            f"{image.name}: {columns} x {rows} pixels, {MAX_PIXELS:,} are allowed; make it smaller"
        )
    found = to_working_size([image], width=width, multiple=multiple)
    return Photo(name=image.name, rgb_HW3=found.rgb_VHW3[0], size=found.sizes[0])


def views_of(photos: Sequence[Photo]) -> SceneViews:
    """Photos as the views of one scene.

    Raises:
        ImageError: none, or not of one shape.
    """
    if not photos:
        raise ImageError("no photos: drop at least one")
    shapes = {(p.size.width, p.size.height): p.name for p in reversed(photos)}
    if len(shapes) > 1:
        named = ", ".join(f"{name} comes to {w} x {h}" for (w, h), name in shapes.items())
        raise ImageError(f"photos of {len(shapes)} shapes: {named}; use photos of one shape")
    return SceneViews(
        rgb_VHW3=np.stack([photo.rgb_HW3 for photo in photos]),
        names=tuple(photo.name for photo in photos),
        source_sizes=tuple((p.size.source_width, p.size.source_height) for p in photos),
    )
