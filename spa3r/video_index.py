"""When each frame of a video is shown and where decoding can start, from its packets alone.

Times are whole numbers in the stream's own units, in order of presentation; packets are stored in
order of decoding.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace

import av
import numpy as np


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """A key frame: what is shown from its time on can be decoded from here."""

    time: int
    target: int  # what to seek for; containers differ in that


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """What the packets say: N frames in order of presentation, times in the stream's units."""

    times: list[int]  # (N,) ascending, all different
    keys: list[Key]  # ascending
    hidden: int  # packets of pictures that an edit list cuts off
    decoded: int | None  # when the last packet is decoded

    def key_before(self, number: int, earlier: int = 0) -> tuple[int, Key | None]:
        """(number of the last key frame at or before a frame, the key frame); 0, None: no such.

        Args:
            earlier: 1 for the key frame before that one, and so on.
        """
        place = bisect_right(self.keys, self.times[number], key=lambda key: key.time) - 1 - earlier
        if place < 0:
            return 0, None
        key = self.keys[place]
        return max(0, bisect_right(self.times, key.time) - 1), key

    def without_end(self) -> "VideoIndex":
        """Of a cut file: less the frames that are shown after some that may have been cut off.

        What is missing would have been decoded after the last packet there is, and shown no sooner.
        """
        if self.decoded is None:
            return self
        return replace(self, times=self.times[: bisect_right(self.times, self.decoded)])

    def gap(self) -> int | None:
        """The first frame behind a hole in otherwise even times: some may be lost before it."""
        steps = np.diff(np.array(self.times, np.int64))
        if len(steps) == 0:
            return None
        usual = float(np.median(steps))
        # A millisecond clock makes steps of 16 and 17 of 60 frames a second.
        even = np.abs(steps - usual) <= 1
        holes = np.flatnonzero(steps > 1.5 * usual + 1)
        return int(holes[0]) + 1 if len(holes) and even.mean() > 0.9 else None


def read_index(packets: Iterable[av.Packet], *, by_shown_time: bool) -> VideoIndex | None:
    """The index of all packets of a stream; None where they do not tell when they are shown.

    Args:
        by_shown_time: whether the container seeks by the times at which frames are shown
            (Matroska), or by those at which they are decoded.
    """
    times, keys, hidden = array("q"), list[Key](), 0
    timed, last = True, None
    for packet in packets:
        if packet.pts is None:
            timed = False
            continue
        last = packet.dts if packet.dts is not None else last
        if packet.is_keyframe:
            decoded = packet.pts if by_shown_time or packet.dts is None else packet.dts
            keys.append(Key(packet.pts, decoded))
        if packet.is_discard:
            hidden += 1
        else:
            times.append(packet.pts)
    if not timed or len(set(times)) < len(times):
        return None
    return VideoIndex(sorted(times), sorted(keys), hidden, last)
