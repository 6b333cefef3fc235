"""Single frames of a video, exactly: number n is the n-th picture that a player would show.

A first pass over the packets, without decoding, notes the time and kind of each. Times in order are
the frames in order of presentation, whatever order they are stored in and whatever the frame rate;
the last key frame before a wanted one is where decoding starts. Every picture is recognised by its
time; where that fails, the video is decoded from its start. All on one CPU thread.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import IO, Any, Final, Self

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError

from spa3r.errors import FormatError
from spa3r.images import MAX_SIDE
from spa3r.schema import DROP_IMAGE, DROP_TRUNCATED, Damage
from spa3r.video_index import Key, VideoIndex, read_index

# Only demuxers that read one file: playlists would make FFmpeg open others.
_OPTIONS: Final = {
    "format_whitelist": "matroska,webm,mov,mp4,avi",
    "max_pixels": "178956970",  # as for images; looked at before anything is allocated
    "threads": "1",
    "err_detect": "explode",  # a damaged picture is lost, not made up from its neighbours
}
# Decoding on is cheaper than seeking over fewer frames than this.
_SEEK_GAP: Final = 12
# A stored frame takes more; a container that announces more frames than fit is lying.
_LEAST_BYTES: Final = 16


class VideoDecoder:
    """A context manager over one video; frames come as arrays, one at a time.

    `problems` says what was wrong with the file besides single frames, one line each.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        """Reads all packets once, decoding nothing.

        Args:
            file: seekable; stays open and is not closed here.
            name: path or URL, for messages.

        Raises:
            OSError: the file cannot be read.
            FormatError: empty, not a Matroska, WebM, MP4, QuickTime or AVI video, one without
                pictures, of a codec that is not built in, of a side beyond MAX_SIDE, or with a
                frame count that cannot be true.
        """
        self._file, self._name = _File(file), name
        self.problems: list[str] = []
        self.cut = False
        """Whether the file ends before the video does, as far as it is read."""
        self._container = self._open()
        self._time_base = self._stream.time_base
        self._seekable = True
        self._earlier = 0  # key frames to go back further than should be needed
        self._suspect: set[int] = set()
        self._broken = False
        self._counted: int | None = None
        self.gap: int | None = None
        """The first frame behind a hole in otherwise even times: some may be lost before it."""
        self._missing = 0  # frames announced behind the last one there is
        self._index = self._read_index()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._container.close()

    @property
    def num_frames(self) -> int:
        """Frames the video has; cut ones that the container announces count too."""
        if self._index is not None:
            return len(self._index.times) + self._missing
        if self._counted is None:
            self._counted = sum(1 for _ in self._decode(None))
            if (announced := self._stream.frames) > self._counted:
                found = f"only {self._counted} can be decoded"
                self._note(f"{self._name}: announces {announced} frames, {found}", cut=True)
        return self._counted

    @property
    def rate(self) -> float:
        """Frames per second on average; 0: unknown."""
        return float(self._stream.average_rate or 0)

    def time_us(self, number: int) -> int:
        """Microseconds from the first frame to this one; -1: unknown."""
        if self._index is None or number >= len(self._index.times) or self._time_base is None:
            return -1
        ticks = self._index.times[number] - self._index.times[0]
        return round(ticks * self._time_base * 1_000_000)

    def frames(
        self, numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[int, np.ndarray | Damage]]:
        """(number, RGB uint8 (H, W, 3) turned upright, or why it is lost) for each given number.

        Args:
            numbers: ascending; those beyond the end come back as truncated. None: all.
        """
        return self._arrays(numbers, _rgb)

    def gray(
        self, numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[int, np.ndarray | Damage]]:
        """As `frames`, but the brightness alone, uint8 (H, W): 0 is black and 255 white."""
        return self._arrays(numbers, _gray)

    # --- opening ----------------------------------------------------------------------------------

    def _open(self) -> InputContainer:
        if self._file.size == 0:
            raise self._no_video("it is empty")
        self._file.seek(0, io.SEEK_SET)
        try:
            container = av.open(
                self._file,
                "r",
                options=_OPTIONS,
                metadata_errors="replace",
                io_open=_refuse,
            )
        except FFmpegError as error:
            raise self._no_video(str(error.strerror)) from error
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            container.close()
            raise FormatError(f"{self._name}: holds no video stream; name another file")
        self._stream = stream
        context = stream.codec_context
        if context is None:  # pyright: ignore[reportUnnecessaryComparison]
            container.close()
            raise FormatError(f"{self._name}: of a codec that is not built in; convert it")
        if not (1 <= context.width <= MAX_SIDE and 1 <= context.height <= MAX_SIDE):
            container.close()
            raise FormatError(
                f"{self._name}: pictures of {context.width} x {context.height};"
                f" sides must lie in 1..{MAX_SIDE}"
            )
        context.options = _OPTIONS
        context.thread_count = 1
        return container

    def _no_video(self, why: str) -> FormatError:
        return FormatError(
            f"{self._name}: not a video that can be read ({why}); needed is an"
            " undamaged mp4, mov, mkv, webm or avi file"
        )

    def _packets(self) -> Iterator[av.Packet]:
        """All packets of the stream from where the container stands; an end by damage is noted."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.size > 0:
                    yield packet
        except FFmpegError as error:
            self._note(f"{self._name}: reading stopped ({error.strerror})", cut=True)

    def _read_index(self) -> VideoIndex | None:
        """None where the video must be decoded in order.

        AVI does not store when a picture is shown, and VP8 has packets without a picture.
        """
        container, codec = self._container.format.name, self._stream.codec_context.name
        index = read_index(self._packets(), by_shown_time="matroska" in container)
        if index is None or container == "avi" or codec == "vp8":
            return None
        index = self._without_end(index)
        self.gap = index.gap()
        if self.gap is not None:
            self._note(f"{self._name}: the times of its frames leap before frame {self.gap}")
        return index

    def _without_end(self, index: VideoIndex) -> VideoIndex:
        """The index, less the frames of a cut file before which others may be lost."""
        announced = self._stream.frames
        lost = max(0, announced - index.hidden - len(index.times))
        if lost:
            if announced * _LEAST_BYTES > (size := self._file.size):
                raise FormatError(
                    f"{self._name}: announces {announced} frames, which {size} bytes cannot hold;"
                    " download it again"
                )
        elif announced or not self._ends_early(index):
            return index
        sure = index.without_end()
        if lost:
            self._missing = lost + len(index.times) - len(sure.times)
        count = len(sure.times)
        self._note(f"{self._name}: is cut; only its first {count} frames can be read", cut=True)
        return sure

    def _ends_early(self, index: VideoIndex) -> bool:
        """Whether the frames end well before the container says that it does."""
        total, base = self._container.duration, self._time_base
        if len(index.times) < 2 or total is None or base is None:
            return False
        seconds = total / av.time_base
        # Sound may go on a little longer than the pictures do.
        alone = len(self._container.streams) == 1
        slack = 2.5 * max(np.diff(index.times)) * base if alone else max(1.0, 0.05 * seconds)
        return seconds - index.times[-1] * base > slack

    def _note(self, problem: str, *, cut: bool = False) -> None:
        self.cut |= cut
        if problem not in self.problems:
            self.problems.append(problem)

    # --- decoding ---------------------------------------------------------------------------------

    def _go_to(self, key: Key | None) -> None:
        """Puts the container at a key frame; None: at its start."""
        if key is not None:
            try:
                self._container.seek(key.target, stream=self._stream, backward=True)
            except FFmpegError:
                self._seekable = False
            else:
                return
        self._container.close()
        self._container = self._open()

    def _decode(self, key: Key | None) -> Iterator[av.VideoFrame]:
        """Pictures from a key frame on, as the decoder gives them; None: from the start.

        Whatever was stored between damage and the next key frame is built on what is lost: the
        times of such pictures are put down in `_suspect`.
        """
        self._go_to(key)
        self._suspect.clear()
        self._broken = False
        for packet in self._packets():
            # Shown before the key frame and stored behind it: they need what the seek left out.
            leads = key is not None and packet.pts is not None and packet.pts < key.time
            self._broken &= not packet.is_keyframe
            frames: list[av.VideoFrame] = []
            try:
                frames = self._stream.decode(packet)
            except FFmpegError:
                self._broken |= not leads
            self._broken |= packet.is_corrupt
            if self._broken and packet.pts is not None:
                self._suspect.add(packet.pts)
            yield from frames
        try:
            yield from self._stream.decode(None)
        except FFmpegError as error:
            self._note(f"{self._name}: the last pictures do not decode ({error.strerror})")

    def _pictures(self, numbers: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame | Damage]]:
        """Each wanted picture, recognised by its time."""
        assert self._index is not None
        times = self._index.times
        reel: Iterator[av.VideoFrame] = iter(())
        frame: av.VideoFrame | None = None
        at, sought = -1, False  # number of the last picture decoded; whether a seek led there
        for number in numbers:
            if number >= len(times):
                yield number, self._lost(number, DROP_TRUNCATED, "the file ends before it")
                continue
            before, key = self._index.key_before(number, self._earlier)
            if at < 0 or (self._seekable and before - at > _SEEK_GAP):
                sought = self._seekable and before > 0
                reel, frame = self._decode(key if sought else None), None
            frame = _advance(reel, frame, times[number])
            if sought and not self._is_whole(frame, times[number]):
                reel, frame, sought = self._retry(number)
            at = number
            if frame is not None and self._is_whole(frame, times[number]):
                yield number, frame
            else:
                yield number, self._lost(number, DROP_IMAGE, "it does not decode")

    def _retry(self, number: int) -> tuple[Iterator[av.VideoFrame], av.VideoFrame | None, bool]:
        """Looks again for a picture that was not whole after a seek, from further ahead.

        Pictures between two key frames may need what is before the first ("open GOP"): then all
        seeks go one key frame further from now on. If there is no damage either, seeking leads
        astray in this file, and it is decoded from its start, which happens once.

        Returns:
            (the pictures that follow, the picture if it is there, whether a seek led there).
        """
        assert self._index is not None
        time = self._index.times[number]
        _, key = self._index.key_before(number, 1)
        reel = self._decode(key)
        frame = _advance(reel, None, time)
        if self._is_whole(frame, time):
            self._earlier = 1
        elif not self._suspect:
            self._seekable, key = False, None
            reel = self._decode(None)
            frame = _advance(reel, None, time)
        return reel, frame, key is not None

    def _is_whole(self, frame: av.VideoFrame | None, time: int) -> bool:
        found = frame is not None and frame.pts == time and not frame.is_corrupt
        return found and time not in self._suspect

    def _pictures_in_order(
        self, numbers: Sequence[int]
    ) -> Iterator[tuple[int, av.VideoFrame | Damage]]:
        """Each wanted picture, by counting from the start."""
        reel = enumerate(self._decode(None))
        count, frame = -1, None
        for number in numbers:
            while count < number:
                count, frame = next(reel, (number, None))
            if frame is None:
                yield number, self._lost(number, DROP_TRUNCATED, "the file ends before it")
            elif self._broken or frame.is_corrupt:
                yield number, self._lost(number, DROP_IMAGE, "it does not decode")
            else:
                yield number, frame

    def _arrays(
        self, numbers: Sequence[int] | None, convert: Callable[[av.VideoFrame], np.ndarray]
    ) -> Iterator[tuple[int, np.ndarray | Damage]]:
        chosen = range(self.num_frames) if numbers is None else numbers
        found = self._pictures if self._index is not None else self._pictures_in_order
        for number, frame in found(chosen):
            if isinstance(frame, Damage):
                yield number, frame
            elif max(frame.width, frame.height) > MAX_SIDE:
                what = f"it is {frame.width} x {frame.height}"
                yield number, self._lost(number, DROP_IMAGE, what)
            else:
                # Rotation is counted against the clock, as numpy does.
                upright = np.rot90(convert(frame), round(frame.rotation / 90))
                yield number, np.ascontiguousarray(upright)

    def _lost(self, number: int, reason: str, why: str) -> Damage:
        return Damage(index=number, reason=reason, detail=f"{self._name}: frame {number}: {why}")


class _File:
    """What FFmpeg reads through: a damaged video sends it to places that no file has.

    Storages refuse those with OSError or ValueError, as they do where they fail; so only the places
    that there are get to the storage, and every OSError that comes back is the storage's own.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size: Final = file.seek(0, io.SEEK_END)
        self.read: Final = file.read
        self.tell: Final = file.tell

    def seek(self, offset: int, whence: int) -> int:
        """The place reached, behind the end too; negative: there is none, as FFmpeg is told."""
        place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self.size}[whence]
        if place < 0:
            return -1
        self._file.seek(min(place, self.size))
        return place


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    """FFmpeg asks for other files that the video names: none is opened."""
    raise PermissionError(f"a video names another file, {url!r}")


def _advance(
    reel: Iterator[av.VideoFrame], frame: av.VideoFrame | None, time: int
) -> av.VideoFrame | None:
    """The first picture of that time or later, the given one included; None: there is none."""
    while frame is None or frame.pts is None or frame.pts < time:
        frame = next(reel, None)
        if frame is None:
            return None
    return frame


def _rgb(frame: av.VideoFrame) -> np.ndarray:
    return frame.reformat(format="rgb24", threads=1).to_ndarray()


def _gray(frame: av.VideoFrame) -> np.ndarray:
    """Brightness as shown: what a video stores as 16 to 235 is spread over 0 to 255."""
    return frame.reformat(format="gray", dst_color_range="JPEG", threads=1).to_ndarray()
