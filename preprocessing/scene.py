"""What every reader of raw data returns: a scene is metadata plus a stream of still-encoded frames.

`preprocessing.sources.open_scenes(root, dataset)` lists a dataset's scenes without opening any of
them; `with source.open() as scene` then reads one, frame by frame, never as a whole. A new dataset
is one module with two classes, a source and a scene (docs/data.md, "Adding a reader").
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from spa3r.images import EncodedDepth, EncodedImage
from spa3r.lens import Undistortion
from spa3r.listing import natural_key as natural_key
from spa3r.schema import Damage as Damage  # readers take it from here
from spa3r.storage import list_folders


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame as stored. Decoding happens once, later, at the size that is needed."""

    index: int
    """Number of the frame in the scan."""
    color: EncodedImage
    depth: EncodedDepth | None
    """None: the dataset has no depth."""
    labels: bytes | None
    """PNG of 8 or 16 bits, values are the dataset's label ids; None: not labelled."""
    mask: EncodedImage | None = None
    """255 = use, 0 = made unrecognisable; of the colour image's size. None: all of it is used."""
    lens: Undistortion | None = None
    """What turns colour image and mask into a pinhole camera's, one object for a whole scene; None:
    they are a pinhole's as stored. Depth and labels must be registered to the result."""
    K_33: np.ndarray | None
    """float64, pixels of the colour image as stored, or after `lens`; None: unknown (photos)."""
    world_from_camera_44: np.ndarray | None
    """float64. None: the dataset has no poses. Invalid values are kept for `quality` to judge."""
    timestamp_us: int
    """-1: unknown."""


class Scene(Protocol):
    """An open scene."""

    @property
    def indices(self) -> Sequence[int]:
        """Numbers of all frames announced, in order; `range(num_frames)` for a `.sens` file."""
        ...

    @property
    def label_to_nyu40(self) -> np.ndarray | None:
        """uint8 table from the dataset's label ids to NYU40 ids; None: the scene has no labels."""
        ...

    @property
    def problems(self) -> list[str]:
        """What was wrong with the scene's files, one line each; complete once `frames` has run."""
        ...

    def frames(self, numbers: Sequence[int] | None = None) -> Iterator[Frame | Damage]:
        """One entry for each of the given frame numbers, in order; frames between are seeked past.

        Args:
            numbers: ascending, out of `indices`; None: all. May be called again with others.
        """
        ...

    def objects(self) -> dict[str, Any] | None:
        """What schema.OBJECTS_SUFFIX describes; None: the scene is not annotated.

        Raises:
            FormatError: annotations that contradict each other or are damaged.
        """
        ...


@runtime_checkable
class Timed(Protocol):
    """A scene whose frames' times are known before they are read."""

    def time_us(self, number: int) -> int:
        """Microseconds from the first frame; -1: unknown."""
        ...


@runtime_checkable
class Screened(Protocol):
    """A scene that knows beforehand which frames cannot be had."""

    @property
    def screened(self) -> frozenset[int]:
        """Frame numbers without picture or pose, or held out: reading them gives Damage, cheaply.

        With them whatever else is known to be lost before a picture is read.
        """
        ...


@runtime_checkable
class Sized(Protocol):
    """A scene of pictures from any camera, which may differ in shape."""

    def stored_size(self, number: int) -> tuple[int, int]:
        """(width, height) of a frame's picture as it will decode, from its header.

        Raises:
            ImageError: not an image.
        """
        ...


class SceneSource(Protocol):
    """A scene that can be opened. Picklable, so that a worker process can be handed one."""

    @property
    def dataset(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def split(self) -> str:
        """ "train", "val", "test", or "" when the dataset has no split list."""
        ...

    @property
    def url(self) -> str:
        """File or folder the scene is read from."""
        ...

    @property
    def content(self) -> tuple[str, ...]:
        """URLs of all that is read: files, whole folders, or globs ("*" in the last part).

        Their names, sizes and times are the scene's signature: a change makes ingest read it again.
        """
        ...

    @property
    def fingerprint(self) -> str:
        """Of files that the dataset's scenes share and that change what is read; "" for none."""
        ...

    def open(self, labels: bool = True) -> AbstractContextManager[Scene]:
        """Without `labels` they are not read, so nothing wrong with them matters.

        Raises FormatError (not such a file), SceneError (missing or empty).
        """
        ...


def screened(scene: Scene) -> frozenset[int]:
    """Frame numbers of a scene that are known beforehand to be lost; most readers know none."""
    return scene.screened if isinstance(scene, Screened) else frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceAtUrl:
    """A source that reads nothing but what lies at its URL; a reader adds `dataset` and `open`."""

    name: str
    split: str = ""
    url: str
    fingerprint: str = ""

    @property
    def content(self) -> tuple[str, ...]:
        """The file or the whole folder."""
        return (self.url,)


# --- what listing scenes needs --------------------------------------------------------------------


def base_name(url: str) -> str:
    """Last part of a path or URL."""
    return url.rstrip("/").rsplit("/", 1)[-1]


def scene_name(url: str) -> str:
    """Name of the scene in a file or folder, fit for shard keys: no dots, blanks or slashes.

    Where letters are lost that are not ASCII, a hash of the name keeps scenes apart.
    """
    name = base_name(url).removesuffix(".sens")
    fit = re.sub(r"[^A-Za-z0-9_-]+", "_", name)
    if name.isascii():
        return fit
    return f"{fit.strip('_') or 'scene'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def subfolders(url: str) -> list[str]:
    """Sorted URLs of the folders directly in a folder; [] if it is absent."""
    return list_folders(url)
