"""ScanNet++'s `depth.bin`: the depth maps of an iPhone recording, one file in one of two kinds.

"zlib_global": the whole file is one raw DEFLATE stream of float32 metres, frame after frame.
"records":     for each frame a uint32 size and that many bytes, which are an LZ4 block of uint16
               millimetres (newer recordings) or raw DEFLATE of float32 metres (older ones).

Neither has a header or an index. Legend: H W pixels of a depth map; sizes are (width, height).
"""

import io
import itertools
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO, Final, Literal

import lz4.block
import numpy as np

from preprocessing.scene import Damage
from spa3r.errors import FormatError
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_TRUNCATED

SIZE: Final = (256, 192)
"""What the recording app writes."""
_SIZE_BYTES: Final = 4
_CHUNK: Final = 1 << 16
# Records looked at before a file whose first one is damaged is given up.
_LOOK: Final = 8
_MAX_MM: Final = 65535


def millimetres(metres: np.ndarray) -> np.ndarray:
    """uint16 of float metres, cut off as the toolkit does; 0 where negative, not finite or too far.

    Too far is what uint16 cannot hold, beyond 65.535 m.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = metres * np.float32(1000)
        known = (scaled >= 0) & (scaled < _MAX_MM + 1)
    return np.where(known, scaled, 0).astype(np.uint16)


class DepthBin:
    """Reads single frames out of a `depth.bin`; holds one at a time.

    Records are reached over their sizes without being read; a global stream must be inflated from
    its start. `problems` says what was wrong with the file besides single frames, one line each.
    """

    def __init__(self, file: IO[bytes], name: str, *, size: tuple[int, int] = SIZE) -> None:
        """Looks at the first frame to tell which kind it is.

        Args:
            file: seekable; stays open and is not closed here.
            name: path or URL, for messages.
            size: (width, height) of every frame.

        Raises:
            FormatError: neither kind: nothing in it can be read as a frame.
        """
        self._file, self._name = file, name
        self._shape = (size[1], size[0])
        self._pixels = size[0] * size[1]
        # No compressor makes more of its input than this; a longer record is a lie.
        self._longest = self._pixels * 4 + self._pixels // 16 + 1024
        self._bytes = file.seek(0, io.SEEK_END)
        self._starts = array("q")  # of the payloads of all records found up to now
        self._lengths = array("q")
        self._walked = 0  # where the next record's size stands
        self._stop: Damage | None = None  # why records after the last one found are lost
        self.problems: list[str] = []
        self.kind: Literal["records", "zlib_global"] = self._detect()

    @property
    def num_frames(self) -> int | None:
        """Records in the file, the last one counted though it be cut; None for a global stream."""
        if self.kind == "zlib_global":
            return None
        while self._find_record():
            pass
        return len(self._starts) + (self._stop is not None)

    def frames(
        self, numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[int, np.ndarray | Damage]]:
        """(number, uint16 millimetres (H, W), 0 = none, or what is wrong) for each given number.

        Args:
            numbers: ascending; those beyond the end come back as truncated. None: all there are.
        """
        if self.kind == "records":
            chosen = range(self.num_frames or 0) if numbers is None else numbers
            for number in chosen:
                yield number, self._record(number)
        else:
            yield from self._stream(numbers)

    # --- records ----------------------------------------------------------------------------------

    def _detect(self) -> Literal["records", "zlib_global"]:
        """Records if one of the first few decodes, else a global stream if its first frame does."""
        if self._find_record() and isinstance(self._record(0), np.ndarray):
            return "records"
        if self._first_frame_inflates():
            self.problems.clear()
            return "zlib_global"
        if any(isinstance(self._record(number), np.ndarray) for number in range(1, _LOOK)):
            return "records"
        raise FormatError(
            f"{self._name}: no {self._shape[1]} x {self._shape[0]} depth map can be read: neither"
            f" records (LZ4 or DEFLATE) nor one DEFLATE stream; download it again"
        )

    def _find_record(self) -> bool:
        """Notes where the next record lies, by its size alone; False if there is none."""
        left = self._bytes - self._walked
        if self._stop is not None or left == 0:
            return False
        self._file.seek(self._walked)
        head = self._file.read(_SIZE_BYTES)
        length = struct.unpack("<I", head)[0] if len(head) == _SIZE_BYTES else 0
        if 0 < length <= min(left - _SIZE_BYTES, self._longest):
            self._starts.append(self._walked + _SIZE_BYTES)
            self._lengths.append(length)
            self._walked += _SIZE_BYTES + length
            return True
        number = len(self._starts)
        where = f"{self._name}: record {number} at byte {self._walked}"
        if len(head) < _SIZE_BYTES or 0 < length <= self._longest:
            wrong = f"{where} is cut: {left} bytes are left of it"
            self._stop = Damage(index=number, reason=DROP_TRUNCATED, detail=wrong)
        else:
            wrong = f"{where} claims {length} bytes; it and the {left} bytes from there are lost"
            self._stop = Damage(index=number, reason=DROP_DEPTH_IMAGE, detail=wrong)
        self.problems.append(wrong)
        return False

    def _record(self, number: int) -> np.ndarray | Damage:
        while number >= len(self._starts):
            if not self._find_record():
                return self._lost(number)
        self._file.seek(self._starts[number])
        payload = self._file.read(self._lengths[number])
        depth = self._from_lz4(payload)
        if depth is None:
            depth = self._from_deflate(payload)
        if depth is None:
            detail = (
                f"{self._name}: record {number} ({len(payload)} bytes) is neither LZ4 nor DEFLATE"
                f" of one {self._shape[1]} x {self._shape[0]} depth map"
            )
            return Damage(index=number, reason=DROP_DEPTH_IMAGE, detail=detail)
        return depth

    def _lost(self, number: int) -> Damage:
        """For a record that is not in the file."""
        if self._stop is not None and self._stop.index == number:
            return self._stop
        detail = f"{self._name}: holds {len(self._starts)} whole records, none for frame {number}"
        return Damage(index=number, reason=DROP_TRUNCATED, detail=detail)

    def _from_lz4(self, payload: bytes) -> np.ndarray | None:
        try:
            raw = lz4.block.decompress(payload, uncompressed_size=self._pixels * 2)
        except lz4.block.LZ4BlockError:
            return None
        if len(raw) != self._pixels * 2:
            return None
        return np.frombuffer(raw, "<u2").reshape(self._shape)

    def _from_deflate(self, payload: bytes) -> np.ndarray | None:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            raw = inflater.decompress(payload, self._pixels * 4 + 1)
        except zlib.error:
            return None
        if len(raw) != self._pixels * 4 or not inflater.eof or inflater.unused_data:
            return None
        return self._from_floats(raw)

    def _from_floats(self, raw: bytes) -> np.ndarray:
        return millimetres(np.frombuffer(raw, "<f4").reshape(self._shape))

    # --- one stream -------------------------------------------------------------------------------

    def _first_frame_inflates(self) -> bool:
        try:
            return len(_Inflater(self._file).read(self._pixels * 4)) == self._pixels * 4
        except zlib.error:
            return False

    def _stream(self, numbers: Sequence[int] | None) -> Iterator[tuple[int, np.ndarray | Damage]]:
        """Inflates from the start, frame by frame, and keeps the wanted ones."""
        inflater = _Inflater(self._file)
        inflated, end = 0, None
        for number in itertools.count() if numbers is None else numbers:
            raw = b""
            while end is None and inflated <= number:
                raw, end = self._inflate(inflater, inflated)
                inflated += end is None
            if end is None:
                yield number, self._from_floats(raw)
            elif numbers is None:
                break
            else:
                yield number, replace(end, index=number)
        if rest := inflater.behind_end():
            self._note(f"{self._name}: {rest} bytes behind the end of the stream; left out")

    def _inflate(self, inflater: "_Inflater", number: int) -> tuple[bytes, Damage | None]:
        """One frame's bytes, or why there are no more."""
        try:
            raw = inflater.read(self._pixels * 4)
        except zlib.error as error:
            detail = f"{self._name}: the stream is damaged from frame {number} on ({error})"
            self._note(detail)
            return b"", Damage(index=number, reason=DROP_DEPTH_IMAGE, detail=detail)
        if len(raw) == self._pixels * 4:
            return raw, None
        detail = f"{self._name}: ends after {number} frames and {len(raw)} bytes"
        if raw:
            self._note(detail)
        return b"", Damage(index=number, reason=DROP_TRUNCATED, detail=detail)

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


class _Inflater:
    """Reads a raw DEFLATE stream in steps; holds a chunk of input and what was asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        self._file = file
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._input = b""

    def read(self, count: int) -> bytes:
        """`count` bytes, fewer at the stream's or the file's end. Raises zlib.error."""
        parts: list[bytes] = []
        while count > 0 and not self._inflater.eof:
            if not self._input:
                self._input = self._file.read(_CHUNK)
            part = self._inflater.decompress(self._input, count)
            at_end = not self._input and not part
            self._input = self._inflater.unconsumed_tail
            parts.append(part)
            count -= len(part)
            if at_end:
                break
        return b"".join(parts)

    def behind_end(self) -> int:
        """Bytes of the file behind the stream's end; 0 where it has more frames than were read."""
        try:
            self.read(1)  # the mark of the end may follow the last frame's bytes
        except zlib.error:
            return 0  # of frames that nobody asked for
        if not self._inflater.eof:
            return 0
        here = self._file.tell() - len(self._inflater.unused_data)
        return self._file.seek(0, io.SEEK_END) - here
