"""What every reader of raw data returns: a scene is metadata plus a stream of still-encoded frames.

`preprocessing.sources.open_scenes(root, dataset)` lists a dataset's scenes without opening any of
them; `with source.open() as scene` then reads one, frame by frame, never as a whole.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from fsspec.core import url_to_fs

from spa3r.images import EncodedDepth, EncodedImage
from spa3r.storage import join


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
    K_33: np.ndarray | None
    """float64, pixels of the colour image as stored; None: unknown (photos)."""
    world_from_camera_44: np.ndarray | None
    """float64. None: the dataset has no poses. Invalid values are kept for `quality` to judge."""
    timestamp_us: int
    """-1: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Stands in the stream for an announced frame that could not be read."""

    index: int
    reason: str
    """One of schema.DROP_REASONS."""
    detail: str
    """One line for the log: which file, what was wrong."""


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

    def frames(self, stride: int = 1) -> Iterator[Frame | Damage]:
        """One entry for each of `indices[::stride]`, in order; frames between are seeked past."""
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
    def fingerprint(self) -> str:
        """Of files that the dataset's scenes share and that change what is read; "" for none."""
        ...

    def open(self, labels: bool = True) -> AbstractContextManager[Scene]:
        """Without `labels` they are not read, so nothing wrong with them matters.

        Raises FormatError (not such a file), SceneError (missing or empty).
        """
        ...


# --- what listing scenes needs --------------------------------------------------------------------


def base_name(url: str) -> str:
    """Last part of a path or URL."""
    return url.rstrip("/").rsplit("/", 1)[-1]


def scene_name(url: str) -> str:
    """Name of the scene in a file or folder, fit for shard keys: no dots, blanks or slashes."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", base_name(url).removesuffix(".sens"))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts 9.jpg before 10.jpg, zero-padded or not, and numbers before letters."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"([0-9]+)", name)
        if part
    ]


def subfolders(url: str) -> list[str]:
    """Sorted URLs of the folders directly in a folder; [] if it is absent."""
    fs, path = url_to_fs(url)
    if not fs.isdir(path):
        return []
    entries = fs.ls(path, detail=True)
    folders = (base_name(str(e["name"])) for e in entries if e["type"] == "directory")
    return [join(url, name) for name in sorted(folders)]
