"""Frame n of a video is frame n, in every container, order of storage and state of damage."""

import errno
import io
import random
from pathlib import Path

import av
import numpy as np
import pytest

from spa3r import video_decoder
from spa3r.errors import FormatError
from spa3r.schema import DROP_IMAGE, DROP_TRUNCATED, Damage
from spa3r.video_decoder import VideoDecoder
from tests.video_maker import SIZE, make_video, numbered, read_number, turned

FRAMES = 60
VIDEOS: dict[str, dict[str, object]] = {
    "mkv": {},
    "mp4": {"container": "mp4"},
    "mov": {"container": "mov", "codec": "mpeg4"},
    "avi": {"container": "avi", "codec": "mpeg4"},
    "lossless": {"codec": "ffv1", "options": {}},
    "open_gop": {"options": {"bf": "3", "g": "10", "x264-params": "open-gop=1"}},
    "no_key_frames": {"options": {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}},
    "uneven": {"times": [i * i // 3 + i for i in range(FRAMES)]},
    "uneven_mp4": {"container": "mp4", "times": [i * i // 3 + i for i in range(FRAMES)]},
}


@pytest.fixture(scope="module")
def videos() -> dict[str, bytes]:
    return {name: make_video(FRAMES, **options) for name, options in VIDEOS.items()}  # pyright: ignore


def numbers_in(decoder: VideoDecoder, numbers: list[int] | None) -> dict[int, int | str]:
    """Number asked for -> number in the picture, or the reason why there is none."""
    found: dict[int, int | str] = {}
    for number, picture in decoder.frames(numbers):
        if isinstance(picture, Damage):
            assert picture.index == number and "\n" not in picture.detail
            assert picture.detail.startswith("clip: ")
        found[number] = picture.reason if isinstance(picture, Damage) else read_number(picture)
    return found


@pytest.mark.parametrize("name", VIDEOS)
def test_any_frames_of_any_video(videos: dict[str, bytes], name: str):
    rng = random.Random(name)
    with VideoDecoder(io.BytesIO(videos[name]), "clip") as decoder:
        assert decoder.num_frames == FRAMES
        assert numbers_in(decoder, None) == {n: n for n in range(FRAMES)}
        for count in (1, 3, 20):
            numbers = sorted(rng.sample(range(FRAMES), count))
            assert numbers_in(decoder, numbers) == {n: n for n in numbers}
        assert numbers_in(decoder, [0, 30, 59, 60]) == {0: 0, 30: 30, 59: 59, 60: DROP_TRUNCATED}
        assert numbers_in(decoder, []) == {}
        assert decoder.problems == []


def test_distant_frames_are_sought(videos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch):
    decoded: list[int] = []
    advance = video_decoder._advance

    def counted(reel, frame, time):
        def each():
            for picture in reel:
                decoded.append(picture.pts)
                yield picture

        return advance(each(), frame, time)

    monkeypatch.setattr(video_decoder, "_advance", counted)
    with VideoDecoder(io.BytesIO(videos["mkv"]), "clip") as decoder:
        assert numbers_in(decoder, [41]) == {41: 41}
        assert len(decoded) <= 12  # key frames are at most 10 apart


def test_times(videos: dict[str, bytes]):
    with VideoDecoder(io.BytesIO(videos["uneven_mp4"]), "clip") as decoder:
        expected = [round((i * i // 3 + i) * 1e6 / 30) for i in range(FRAMES)]
        assert [decoder.time_us(n) for n in range(FRAMES)] == expected
        assert decoder.time_us(FRAMES) == -1 and decoder.gap is None
    with VideoDecoder(io.BytesIO(videos["mp4"]), "clip") as decoder:
        assert decoder.rate == 30
    with VideoDecoder(io.BytesIO(videos["avi"]), "clip") as decoder:
        assert decoder.time_us(3) == -1  # AVI stores none


@pytest.mark.parametrize(
    ("codec", "pixels"), [("ffv1", "gray"), ("libx264", "yuv420p"), ("libx264", "yuvj420p")]
)
def test_gray_keeps_black_and_white(codec: str, pixels: str):
    ramp = np.tile(np.array([0, 128, 254, 255], np.uint8).repeat(24), (64, 1))
    video = make_video(3, codec=codec, pixels=pixels, options={}, picture=lambda _: ramp)
    with VideoDecoder(io.BytesIO(video), "clip") as decoder:
        ((_, gray_HW),) = decoder.gray([1])
    assert isinstance(gray_HW, np.ndarray) and gray_HW.shape == (64, 96)
    middles = [int(np.median(gray_HW[:, 24 * i + 4 : 24 * i + 20])) for i in range(4)]
    assert middles[0] == 0 and abs(middles[1] - 128) <= 1 and middles[3] == 255


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_phone_held_any_way(quarters: int):
    video = turned(make_video(3, container="mp4", codec="libx264", options={}), quarters)
    expected = np.rot90(numbered(1), -quarters)  # quarter turns clockwise
    with VideoDecoder(io.BytesIO(video), "clip") as decoder:
        for pictures, wanted in ((decoder.frames, expected), (decoder.gray, expected[..., 0])):
            ((_, picture),) = pictures([1])
            assert isinstance(picture, np.ndarray) and picture.shape == wanted.shape
            assert np.abs(picture.astype(int) - wanted).mean() < 10


def test_colours_are_right_way_round():
    red = np.zeros((64, 96, 3), np.uint8)
    red[..., 0] = 255
    with VideoDecoder(io.BytesIO(make_video(1, picture=lambda _: red)), "clip") as decoder:
        ((_, rgb_HW3),) = decoder.frames()
    assert isinstance(rgb_HW3, np.ndarray)
    assert np.abs(rgb_HW3.reshape(-1, 3).mean(axis=0) - [255, 0, 0]).max() < 8


# --- damage ---------------------------------------------------------------------------------------


def packets(video: bytes) -> list[tuple[int, int]]:
    """(place, bytes) of each packet, in order of storage."""
    places, end = [], 0
    with av.open(io.BytesIO(video), "r") as container:
        for packet in container.demux(video=0):
            if packet.size > 0:
                places.append((video.index(bytes(packet), end), packet.size))
                end = sum(places[-1])
    return places


def test_a_corrupt_packet_loses_what_builds_on_it_and_no_more():
    video = bytearray(make_video(FRAMES, options={"bf": "0", "g": "10", "sc_threshold": "0"}))
    place, size = packets(bytes(video))[23]
    video[place + 4 : place + size] = b"\xff" * (size - 4)
    with VideoDecoder(io.BytesIO(bytes(video)), "clip") as decoder:
        found = numbers_in(decoder, None)
        sparse = numbers_in(decoder, [5, 22, 25, 45])
    assert len(found) == FRAMES
    assert {n for n in found if found[n] != n} == set(range(23, 30))
    assert {found[n] for n in range(23, 30)} == {DROP_IMAGE}
    assert sparse == {5: 5, 22: 22, 25: DROP_IMAGE, 45: 45}


def with_table_first(mp4: bytes, path: Path) -> bytes:
    """The MP4 as it is put on the web: what a player must know stands before the pictures."""
    options = {"movflags": "faststart"}
    with (
        av.open(io.BytesIO(mp4), "r") as source,
        av.open(str(path), "w", format="mp4", options=options) as output,
    ):
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size > 0:
                packet.stream = stream
                output.mux(packet)
    return path.read_bytes()


def test_a_cut_mp4_reports_the_missing_frames(tmp_path: Path):
    video = make_video(FRAMES, container="mp4", options={"bf": "2", "g": "10", "crf": "1"})
    first = with_table_first(video, tmp_path / "first.mp4")
    with VideoDecoder(io.BytesIO(first[: len(first) * 7 // 10]), "clip") as decoder:
        found = numbers_in(decoder, None)
        assert decoder.num_frames == FRAMES
        assert len(decoder.problems) == 1 and "clip: is cut; only its" in decoder.problems[0]
    good = [n for n in found if found[n] == n]
    assert len(found) == FRAMES and 15 < len(good) < 50
    assert {found[n] for n in found if n not in good} == {DROP_TRUNCATED}
    assert found[FRAMES - 1] == DROP_TRUNCATED
    with pytest.raises(FormatError, match="not a video that can be read"):
        VideoDecoder(io.BytesIO(video[: len(video) // 2]), "clip")  # its table is cut off


def test_a_frame_count_that_cannot_be_is_refused(tmp_path: Path):
    first = with_table_first(make_video(FRAMES, container="mp4"), tmp_path / "first.mp4")
    count = first.index(b"stts") + 12
    lying = first[:count] + (1 << 28).to_bytes(4, "big") + first[count + 4 :]
    sizes = first.index(b"stsz") + 8  # one size for all, and as many frames
    lying = lying[:sizes] + b"\0\0\0\1" + (1 << 28).to_bytes(4, "big") + lying[sizes + 8 :]
    with pytest.raises(FormatError, match="clip: announces 268435456 frames, which"):
        VideoDecoder(io.BytesIO(lying), "clip")


def test_a_cut_avi_says_how_much_is_there(videos: dict[str, bytes]):
    data = videos["avi"]
    with VideoDecoder(io.BytesIO(data[: len(data) * 6 // 10]), "clip") as decoder:
        found = numbers_in(decoder, None)
        count = decoder.num_frames
        assert 10 < count < FRAMES and list(found) == list(range(count))
        assert all(found[n] in (n, DROP_IMAGE) for n in found)
        expected = f"clip: announces {FRAMES} frames, only {count} can be decoded"
        assert expected in decoder.problems


@pytest.mark.parametrize("percent", [20, 50, 90])
def test_a_cut_mkv_gives_no_frame_a_wrong_number(percent: int):
    video = make_video(240)
    video = video[: len(video) * percent // 100]
    with VideoDecoder(io.BytesIO(video), "clip") as decoder:
        count = decoder.num_frames
        found = numbers_in(decoder, None)
        assert 20 < count < 239 and len(found) == count
        assert all(found[n] in (n, DROP_IMAGE) for n in found)
        assert f"clip: is cut; only its first {count} frames can be read" in decoder.problems


def test_a_hole_in_even_times_is_noted():
    times = [n if n < 40 else n + 7 for n in range(FRAMES)]
    with VideoDecoder(io.BytesIO(make_video(FRAMES, times=times)), "clip") as decoder:
        assert decoder.gap == 40
        assert decoder.problems == ["clip: the times of its frames leap before frame 40"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 5000,
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
    ],
)
def test_what_is_no_video_is_refused(data: bytes):
    with pytest.raises(FormatError, match=r"^clip: not a video that can be read"):
        VideoDecoder(io.BytesIO(data), "clip")


def test_an_empty_file_is_refused(tmp_path: Path):
    path = tmp_path / "clip.mkv"
    path.write_bytes(b"")
    with path.open("rb") as file, pytest.raises(FormatError) as caught:
        VideoDecoder(file, str(path))
    assert str(caught.value).startswith(f"{path}: not a video that can be read (it is empty); ")


def test_a_place_that_no_file_has_is_the_videos_fault(tmp_path: Path):
    video = bytearray(make_video(30))
    head = video.index(bytes.fromhex("114d9b74"))  # where the tables stand
    entry = video.index(bytes.fromhex("53ab841c53bb6b53ac82"), head)  # the key frames' table
    video[head + 4] += 6  # its length, all of one byte; the place becomes 6 bytes longer
    video[head + 5] = 0xEC  # instead of a checksum
    video[entry - 1] += 6
    video[entry + 20] -= 6  # the blank behind it, whose length has 8 bytes
    del video[entry + 21 : entry + 27]
    video[entry + 9 : entry + 12] = b"\x88" + (1 << 60).to_bytes(8, "big")
    path = tmp_path / "clip.mkv"
    path.write_bytes(video)
    with path.open("rb") as file, VideoDecoder(file, "clip") as decoder:
        assert numbers_in(decoder, [3, 25]) == {3: 3, 25: 25}


@pytest.mark.parametrize("name", ["mkv", "mp4", "avi"])
@pytest.mark.parametrize("percent", [0, 5, 30, 60, 95])
def test_a_storage_that_fails_is_not_the_videos_fault(
    videos: dict[str, bytes], name: str, percent: int
):
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() + (size or 0) > len(videos[name]) * percent // 100:
                raise OSError(errno.EINVAL, "connection lost")
            return super().read(size)

    with pytest.raises(OSError, match="connection lost"):
        VideoDecoder(Broken(videos[name]), "clip")


def test_a_storage_that_fails_later(videos: dict[str, bytes]):
    class Broken(io.BytesIO):
        lost = False

        def read(self, size: int | None = -1) -> bytes:
            if self.lost:
                raise OSError(errno.EIO, "connection lost")
            return super().read(size)

    for video in videos.values():
        with VideoDecoder(file := Broken(video), "clip") as decoder:
            file.lost = True
            with pytest.raises(OSError, match="connection lost"):
                list(decoder.frames([5, 40]))


def test_huge_pictures_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(video_decoder, "MAX_SIDE", 90)
    with pytest.raises(FormatError, match=f"pictures of {SIZE[0]} x {SIZE[1]}"):
        VideoDecoder(io.BytesIO(make_video(2)), "clip")


@pytest.mark.parametrize("name", ["mkv", "mp4", "avi", "lossless"])
def test_random_damage_never_crashes_or_invents_frames(videos: dict[str, bytes], name: str):
    rng = random.Random(7)
    for trial in range(30):
        data = bytearray(videos[name])
        if trial % 2:
            del data[rng.randrange(len(data)) :]
        for _ in range(trial % 2 or 10):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            with VideoDecoder(io.BytesIO(bytes(data)), "clip") as decoder:
                numbers = range(0, min(decoder.num_frames, 100), 3)
                found = [n for n, _ in decoder.frames(numbers)]
        except FormatError as error:
            assert "\n" not in str(error)
        else:
            assert found == list(numbers)
