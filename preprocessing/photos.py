"""A folder of photos: one scene without poses, intrinsics or depth.

A folder that holds images is one scene; otherwise each of its subfolders that does is one. Photos
are numbered in natural order of their names and turned upright by their EXIF orientation. Splits
come from train.txt, val.txt and test.txt in the root, where there are such lists.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from preprocessing.scene import (
    Damage,
    Frame,
    Scene,
    SourceAtUrl,
    base_name,
    natural_key,
    scene_name,
    subfolders,
)
from preprocessing.splits import read_splits
from spa3r import images
from spa3r.errors import ImageError, SceneError
from spa3r.images import EncodedImage
from spa3r.storage import list_files, open_read, read_bytes

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_HEAD_BYTES: Final = 1 << 18
"""A JPEG's size stands behind its EXIF data, thumbnail and colour profile."""


def list_photos(folder: str) -> list[str]:
    """URLs of the images directly in a folder, in natural order; [] if absent."""
    urls = [url for url in list_files(folder) if url.lower().endswith(SUFFIXES)]
    # macOS leaves "._name.jpg" companions that are no images.
    visible = (url for url in urls if not base_name(url).startswith("."))
    return sorted(visible, key=lambda url: natural_key(base_name(url)))


def find_scenes(root: str) -> list["PhotoSource"]:
    """The scenes under a root, by name; [] if there are no photos."""
    folders = [root] if list_photos(root) else [f for f in subfolders(root) if list_photos(f)]
    split_of = read_splits(root) if folders else {}
    return [
        PhotoSource(name=scene_name(folder), split=split_of.get(base_name(folder), ""), url=folder)
        for folder in folders
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoSource(SourceAtUrl):
    """One folder of photos; see preprocessing.scene.SceneSource."""

    dataset: str = "photos"

    @contextmanager
    def open(self, labels: bool = True) -> Iterator[Scene]:
        """The folder as a scene without labels. Raises SceneError if it has no photos any more."""
        photos = list_photos(self.url)
        if not photos:
            raise SceneError(f"{self.url}: no photos ({', '.join(SUFFIXES)}) in this folder")
        yield PhotoScene(photos)


class PhotoScene:
    """Photos in natural order; the frame number is the place in that order."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = urls
        self.indices: Sequence[int] = range(len(urls))
        self.label_to_nyu40: np.ndarray | None = None
        self.problems: list[str] = []

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """The given photos."""
        for index in self.indices if numbers is None else numbers:
            yield Frame(
                index=index,
                color=_upright(read_bytes(self._urls[index])),
                depth=None,
                labels=None,
                K_33=None,
                world_from_camera_44=None,
                timestamp_us=-1,
            )

    def stored_size(self, number: int) -> tuple[int, int]:
        """(width, height) of a photo, upright. Raises ImageError."""
        with open_read(self._urls[number]) as f:
            head = f.read(_HEAD_BYTES)
        try:
            return images.stored_size(_upright(head))
        except ImageError:  # of WebP all is needed
            return images.stored_size(_upright(read_bytes(self._urls[number])))

    def objects(self) -> dict[str, Any] | None:
        """None: photos are not annotated."""
        return None


def _upright(data: bytes) -> EncodedImage:
    return EncodedImage(data=data, codec="file", oriented=True)
