"""Byte ranges of shards, from a local disk or an object store.

What is damaged (absent, cut short) is told apart from what failed (network, permissions): the first
belongs to a sample, the second to the storage.
"""

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import IO, Any, Final, NamedTuple, TypeAlias

from spa3r import storage
from spa3r.data.buffers import Buffers
from spa3r.errors import DamageError, ShardError

_PIECE: Final = 16 << 20
"""Bytes of one request: an object store gives a single one a fraction of the line."""
_ABSENT: Final = (FileNotFoundError, NotADirectoryError)
Bytes: TypeAlias = bytes | memoryview
CURE: Final = "run the stage that wrote it again"


class Range(NamedTuple):
    """Bytes [offset, offset + size) of a file."""

    url: str
    offset: int
    size: int


def joined(ranges: Sequence[Range], gap: int) -> Range | None:
    """One range over all, of one file; None if they do not lie together.

    Args:
        gap: bytes between neighbours, at most, on average.
    """
    begin = min(one.offset for one in ranges)
    end = max(one.offset + one.size for one in ranges)
    close = 0 <= end - begin <= sum(one.size for one in ranges) + gap * len(ranges)
    if not close or len({one.url for one in ranges}) > 1:
        return None
    return Range(ranges[0].url, begin, end - begin)


class ShardReader:
    """Random access to byte ranges of shards; local files stay open, the least used is closed.

    May be used from several threads.

    Args:
        max_open: how many local files may be open at a time.
        buffers: memory to read local files into; what comes back can then be written to. None:
            bytes come back.
    """

    def __init__(self, max_open: int = 64, buffers: Buffers | None = None) -> None:
        self._max_open, self._buffers = max_open, buffers
        self._open: OrderedDict[str, IO[bytes]] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._lock = Lock()

    @property
    def open_files(self) -> int:
        """How many local files are open now."""
        return len(self._open)

    def read(self, url: str, offset: int, size: int) -> Bytes:
        """Bytes [offset, offset + size) of a shard.

        Raises:
            DamageError: the shard is missing, or the range leaves it.
            ShardError: it cannot be read.
        """
        (data,) = self.read_many([Range(url, offset, size)])
        if isinstance(data, DamageError):
            raise data
        return data

    def read_many(self, ranges: Sequence[Range]) -> list[Bytes | DamageError]:
        """Bytes of each range of one file system, or what is wrong with it.

        Remote ones are asked for at once.

        Raises:
            ShardError: a shard cannot be read, which says nothing about its content.
        """
        if not ranges:
            return []
        fs, _ = storage.filesystem(ranges[0].url)
        if storage.is_local(ranges[0].url):
            return [self._of_a_file(one) for one in ranges]
        # A large range is only asked for, in pieces, of a file that has it.
        odd = {one for one in ranges if one.size > _PIECE or min(one.offset, one.size) < 0}
        broken = {one: error for one in odd if (error := self._leaves(fs, one)) is not None}
        pieces = [piece for one in ranges if one not in broken for piece in _pieces(one)]
        found = dict(zip(pieces, _fetch(fs, pieces), strict=True))
        return [broken.get(one) or self._joined(fs, one, found) for one in ranges]

    def _of_a_file(self, one: Range) -> Bytes | DamageError:
        """Bytes of a local file. Raises ShardError."""
        try:
            file = self._file(one.url)
            if (outside := _outside(one, os.fstat(file.fileno()).st_size)) is not None:
                return outside
            data = self._positioned_read(file, one)
        except _ABSENT:
            return _absent(one)
        except OSError as error:
            raise _unreadable(one, error) from error
        return data if len(data) == one.size else _short(one, len(data))

    def _positioned_read(self, file: IO[bytes], one: Range) -> Bytes:
        if self._buffers is None:
            return os.pread(file.fileno(), one.size, one.offset)
        memory = self._buffers.take(one.size).data
        return memory[: os.preadv(file.fileno(), [memory], one.offset)]

    def _joined(
        self, fs: Any, one: Range, found: dict[Range, bytes | Exception]
    ) -> bytes | DamageError:
        """Bytes of a remote file, of the pieces that came back. Raises ShardError."""
        try:
            data = b"".join([_raised(found[piece]) for piece in _pieces(one)])
        except _ABSENT:
            return _absent(one)
        except OSError as error:  # an object store refuses a range behind the end
            if (outside := self._leaves(fs, one)) is not None:
                return outside
            raise _unreadable(one, error) from error
        if len(data) == one.size:
            return data
        return self._leaves(fs, one) or _short(one, len(data))

    def _leaves(self, fs: Any, one: Range) -> DamageError | None:
        """What is wrong with a range of a remote file that is absent or too short.

        Sizes are kept: published shards do not change. Raises ShardError.
        """
        try:
            if one.url not in self._sizes:
                self._sizes[one.url] = int(fs.size(storage.filesystem(one.url)[1]))
        except _ABSENT:
            return _absent(one)
        except OSError as error:
            raise _unreadable(one, error) from error
        return _outside(one, self._sizes[one.url])

    def _file(self, url: str) -> IO[bytes]:
        """Positioned reads share no file position, so threads need no lock to use it; and the
        reference keeps the file open even if it is dropped from the cache meanwhile."""
        with self._lock:
            file = self._open.get(url)
            if file is None:
                path = Path(storage.filesystem(url)[1])
                file = self._open[url] = path.open("rb", buffering=0)
                if len(self._open) > self._max_open:
                    self._open.popitem(last=False)
            self._open.move_to_end(url)
            return file


def _pieces(one: Range) -> Iterator[Range]:
    for start in range(0, one.size, _PIECE):
        yield Range(one.url, one.offset + start, min(_PIECE, one.size - start))


def _fetch(fs: Any, pieces: Sequence[Range]) -> list[bytes | Exception]:
    if not pieces:
        return []
    paths = [storage.filesystem(piece.url)[1] for piece in pieces]
    starts = [piece.offset for piece in pieces]
    ends = [piece.offset + piece.size for piece in pieces]
    return fs.cat_ranges(paths, starts, ends, on_error="return")


def _raised(outcome: bytes | Exception) -> bytes:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _outside(one: Range, total: int) -> DamageError | None:
    if min(one.offset, one.size) >= 0 and one.offset + one.size <= total:
        return None
    return DamageError(
        f"{one.url}: bytes {one.offset}..{one.offset + one.size} asked for, the file has {total};"
        f" shard and manifest do not belong together, {CURE}"
    )


def _absent(one: Range) -> DamageError:
    return DamageError(f"{one.url}: absent; {CURE}")


def _short(one: Range, got: int) -> DamageError:
    return DamageError(f"{one.url}: {got} of {one.size} bytes read at {one.offset}; {CURE}")


def _unreadable(one: Range, error: OSError) -> ShardError:
    return ShardError(f"{one.url}: cannot be read ({error.strerror or error}); {CURE}")
