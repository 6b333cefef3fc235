"""Finished answers of the teachers, published at once: what a killed run need not ask again.

A part lies under `.parts/` beside the scenes' files until its scene is complete. Its name holds a
hash of all that decides its content, so a part of other settings is never taken for this one; its
last sample holds the sums of its channels.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from preprocessing import shards
from spa3r import storage
from spa3r.data.shards import iter_samples
from spa3r.data.statistics import ChannelSums
from spa3r.errors import SceneError, ShardError, Spa3RError, TeacherError

PARTS_FOLDER: Final = ".parts"
_SUMS: Final = "sums"
_SUMS_PART: Final = "safetensors"

Sample = tuple[str, dict[str, bytes]]
"""Key, and payloads by part name."""
Sums = Mapping[str, ChannelSums]
"""By kind of value."""


class SceneFailedError(Exception):
    """What the teachers or a scene's frames are to blame for."""

    def __init__(self, cause: Spa3RError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class TeacherCrashError(TeacherError):
    """A teacher that stopped in the middle (memory, a kernel): another try may end otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One or a few calls of the teachers."""

    name: str
    """Of its file."""
    keys: tuple[str, ...]
    """Of the samples that it holds, in order; empty: sums alone."""
    look: Callable[[], Any]
    """Reads and decodes what `make` takes; may run in another thread."""
    make: Callable[[Any], tuple[list[Sample], Sums]]
    """Asks the teachers."""


@contextmanager
def blaming_the_scene() -> Iterator[None]:
    """Around what reads frames and asks teachers, and writes nothing. Raises SceneFailedError."""
    try:
        yield
    except (TeacherError, SceneError, ShardError) as error:
        raise SceneFailedError(error) from error
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        said = " ".join(str(error).split())
        cause = TeacherCrashError(
            f"{type(error).__name__}: {said}; run again, with more memory if that was lacking"
        )
        raise SceneFailedError(cause) from error


def make_missing(out: str, parts: Sequence[Part]) -> None:
    """Makes the parts that no earlier run has left.

    While the teachers work, the next part's frames are read and the last part is written.

    Raises:
        SceneFailedError: the teachers cannot answer; the parts before are kept.
        ShardError: a part cannot be written.
    """
    there = set(storage.list_names(storage.join(out, PARTS_FOLDER)))
    missing = deque(part for part in parts if part.name not in there)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        seen = reader.submit(missing[0].look) if missing else None
        written: Future[None] | None = None
        while missing and seen:
            part = missing.popleft()
            with blaming_the_scene():
                views = seen.result()
                seen = reader.submit(missing[0].look) if missing else None
                samples, sums = part.make(views)
            if written:
                written.result()
            written = writer.submit(_publish, _url(out, part), samples, sums)
        if written:
            written.result()


def samples_of(
    out: str, parts: Sequence[Part], states: list[Mapping[str, Tensor]]
) -> Iterator[Sample]:
    """The samples of finished parts, one in memory; each part's sums are put into `states`.

    Raises:
        ShardError: a part is damaged; it is deleted, so that another run makes it again.
    """
    for part in parts:
        url = _url(out, part)
        try:
            found = iter_samples(url)
            for key in part.keys:
                payloads = next(found)
                yield key, {n: data for n, data in payloads.items() if not n.startswith("__")}
            states.append(safetensors.torch.load(next(found)[_SUMS_PART]))
        except (ShardError, StopIteration, KeyError, SafetensorError) as error:
            shards.discard(url)
            raise ShardError(f"{url}: was damaged and is deleted now; run again") from error


def discard_parts(out: str, parts: Sequence[Part]) -> None:
    """Of a scene whose files are complete. Raises ShardError."""
    for part in parts:
        shards.discard(_url(out, part))


def clear_parts(out: str) -> None:
    """When all scenes are complete: parts of earlier settings are of no use to anybody.

    Raises:
        ShardError: they stay.
    """
    fs, path = storage.filesystem(storage.join(out, PARTS_FOLDER))
    try:
        if fs.exists(path):
            fs.rm(path, recursive=True)
    except OSError as error:
        raise ShardError(f"{path}: cannot be deleted ({error.strerror or error})") from error


def _url(out: str, part: Part) -> str:
    return storage.join(out, PARTS_FOLDER, part.name)


def _publish(url: str, samples: Sequence[Sample], sums: Sums) -> None:
    states = {name: x for kind, one in sums.items() for name, x in one.state(kind).items()}
    shards.write_tar(url, [*samples, (_SUMS, {_SUMS_PART: safetensors.torch.save(states)})])
