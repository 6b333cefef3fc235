"""The `.sens` reader against the reference writer's files, damaged ones, and hostile headers."""

import hashlib
import io
import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest

from preprocessing.scene import Damage, Frame
from preprocessing.sens import SensReader
from spa3r.errors import FormatError, ImageError
from spa3r.images import decode_color, decode_depth
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_IMAGE, DROP_TRUNCATED
from tests.conftest import shared_folder

SCANNET = shared_folder() / "data/scannet"
DESCRIBED = sorted(SCANNET.rglob("*.sens.expected.json"))
BAD = SCANNET / "sens_bad/expected.json"
CASES = json.loads(BAD.read_text()) if BAD.exists() else []


def small_sens(frames: int = 5, color: tuple[int, int] = (32, 24), **header) -> bytes:
    """A version 4 file written by hand; frame i has timestamp i and depth i + 1 everywhere."""
    values = {"color_codec": 2, "depth_codec": 1, "depth_shift": 1000.0, "frames": frames} | header
    rgb = np.full((24, 32, 3), 90, np.uint8)
    jpeg = cv2.imencode(".jpg", rgb)[1].tobytes()
    K = np.array([[30, 0, 16, 0], [0, 30, 12, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "<f4")
    matrices = [K, np.eye(4), K, np.eye(4)]
    out = struct.pack("<IQ", values.get("version", 4), 4) + b"test"
    out += b"".join(m.astype("<f4").tobytes() for m in matrices)
    out += struct.pack("<ii", values["color_codec"], values["depth_codec"])
    out += struct.pack("<IIIIfQ", *color, 16, 12, values["depth_shift"], values["frames"])
    for i in range(frames):
        depth = zlib.compress(np.full((12, 16), i + 1, "<u2").tobytes())
        out += np.eye(4, dtype="<f4").tobytes()
        out += struct.pack("<QQQQ", i, i, len(jpeg), len(depth)) + jpeg + depth
    return out + struct.pack("<Q", 0)


def open_small(data: bytes) -> SensReader:
    return SensReader(io.BytesIO(data), "scan.sens")


# --- files of the reference writer ----------------------------------------------------------------


@pytest.mark.parametrize("description", DESCRIBED, ids=lambda p: p.name.split(".")[0])
def test_reads_what_the_reference_writer_wrote(description: Path):
    expected = json.loads(description.read_text())
    with Path(str(description).removesuffix(".expected.json")).open("rb") as f:
        reader = SensReader(f, description.name)
        header = reader.header
        assert header.sensor == expected["sensor_name"]
        assert header.first_frame == expected["header_bytes"]
        assert header.color_size == (expected["color_width"], expected["color_height"])
        assert header.depth_size == (expected["depth_width"], expected["depth_height"])
        assert header.depth_shift == expected["depth_shift"]
        for ours, name in ((header.K_color_33, "color"), (header.K_depth_33, "depth")):
            stored = np.array(expected[f"intrinsic_{name}"])[:3, :3]
            np.testing.assert_allclose(ours, stored, rtol=1e-6)
        frames = list(reader.frames())
        assert [f.index for f in frames] == [e["index"] for e in expected["frames"]]
        for frame, entry in zip(frames, expected["frames"], strict=True):
            assert isinstance(frame, Frame)
            check_frame(frame, entry)
        assert reader.problems == []


def check_frame(frame: Frame, entry: dict) -> None:
    assert frame.world_from_camera_44 is not None and frame.depth is not None
    stored = np.array(entry["pose_camera_to_world"], dtype=np.float64)
    np.testing.assert_allclose(frame.world_from_camera_44, stored, rtol=1e-6)
    time = entry["timestamp_color"]
    assert frame.timestamp_us == (time if time < 1 << 63 else -1)
    assert hashlib.sha256(frame.color.data).hexdigest() == entry["color_sha256"]
    rgb, depth = decode_color(frame.color), decode_depth(frame.depth)
    assert list(rgb.shape) == entry["rgb_shape"]
    np.testing.assert_allclose(rgb.mean((0, 1)), entry["rgb_mean"], atol=0.5)
    assert hashlib.sha256(depth.tobytes()).hexdigest() == entry["depth_raw_sha256"]
    assert int(depth.sum(dtype=np.int64)) == entry["depth_sum"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["file"].removesuffix(".sens"))
def test_damaged_files_behave_as_described(case: dict):
    with (BAD.parent / case["file"]).open("rb") as f:
        if case["outcome"] == "reject":
            with pytest.raises(FormatError, match=case["file"]) as caught:
                SensReader(f, case["file"])
            assert "\n" not in str(caught.value)
            return
        reader = SensReader(f, case["file"])
        complete, colour, depth = [], [], []
        for frame in reader.frames():
            bad_colour, bad_depth = unusable(frame)
            colour += [frame.index] * bad_colour
            depth += [frame.index] * bad_depth
            if isinstance(frame, Frame) and not (bad_colour or bad_depth):
                complete.append(frame.index)
    assert complete == case["frames_complete"]
    assert colour == case["colour_unusable"]
    assert depth == case["depth_unusable"]
    if case["must_report"] is not None:
        assert bool(reader.problems or colour or depth) == case["must_report"]


def unusable(frame: Frame | Damage) -> tuple[bool, bool]:
    """Whether the frame's colour and depth cannot be used; a frame that is not there counts not."""
    if isinstance(frame, Damage):
        return frame.reason == DROP_IMAGE, frame.reason == DROP_DEPTH_IMAGE
    assert frame.depth is not None
    found = []
    for decode, stored in ((decode_color, frame.color), (decode_depth, frame.depth)):
        try:
            decode(stored)
            found.append(False)
        except ImageError:
            found.append(True)
    return found[0], found[1]


# --- written by hand ------------------------------------------------------------------------------


def test_stride_yields_every_nth_frame_and_reads_no_pixels_between():
    data = small_sens(frames=9)

    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            out = super().read(size)
            self.taken += len(out)
            return out

    file = Counting(data)
    reader = SensReader(file, "scan.sens")
    before, kept = file.taken, list(reader.frames(reader.indices[::4]))
    assert [(f.index, f.timestamp_us) for f in kept if isinstance(f, Frame)] == [
        (0, 0),
        (4, 4),
        (8, 8),
    ]
    pixels = sum(len(f.color.data) + len(f.depth.data) for f in kept if isinstance(f, Frame))
    assert file.taken - before == pixels + 9 * 96 + 8  # all frame headers, and the IMU count


def test_a_scan_can_be_read_twice_and_from_any_file_system():
    with fsspec.open("memory://scans/a.sens", "wb") as f:
        f.write(small_sens())
    with fsspec.open("memory://scans/a.sens", "rb") as f:
        reader = SensReader(f, "a.sens")
        first, second = (list(reader.frames(reader.indices[::2])) for _ in range(2))
    assert [f.index for f in first] == [f.index for f in second] == [0, 2, 4]


def test_every_truncation_keeps_whole_frames_and_accounts_for_the_rest():
    data = small_sens(frames=3)
    frame_bytes = (len(data) - 8 - 308) // 3
    for length in range(308 + 3 * 96, len(data) - 8, 37):
        reader = open_small(data[:length])
        frames = list(reader.frames())
        whole = sum(isinstance(f, Frame) for f in frames)
        assert [f.index for f in frames] == [0, 1, 2]
        assert whole == (length - 308) // frame_bytes
        assert all(f.reason == DROP_TRUNCATED for f in frames if isinstance(f, Damage))
        assert len(reader.problems) == 1


def test_a_header_cut_anywhere_is_refused():
    data = small_sens(frames=1)
    for length in range(0, 308, 7):
        with pytest.raises(FormatError, match="ends inside"):
            open_small(data[:length])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "version 3"),
        ({"color_codec": -1}, "colour compression -1"),
        ({"depth_codec": 2}, "OCCI"),
        ({"depth_codec": 7}, "depth compression 7"),
        ({"depth_shift": 0.0}, "depth shift 0.0"),
        ({"depth_shift": float("nan")}, "depth shift nan"),
        ({"depth_shift": -1000.0}, "depth shift -1000"),
        ({"color": (16385, 24)}, "16385"),
        ({"color": (32, 0)}, "1..16384"),
        ({"frames": 1 << 40}, "frames announced"),
    ],
)
def test_headers_that_cannot_be_true_are_refused(changes: dict, message: str):
    count = changes.pop("frames", None)
    data = bytearray(small_sens(frames=1, **changes))
    if count:
        data[300:308] = struct.pack("<Q", count)
    with pytest.raises(FormatError, match=message):
        open_small(bytes(data))


def test_a_block_larger_than_any_image_is_skipped_unread():
    data = bytearray(small_sens(frames=2))
    data += bytes(64 << 20)
    at = 308 + 64 + 16  # frame 0's colour_size
    _, depth_bytes = struct.unpack_from("<QQ", data, at)
    struct.pack_into("<Q", data, at, len(data) - 308 - 96 - depth_bytes)
    file = io.BytesIO(data)
    tracemalloc.start()
    first = next(iter(SensReader(file, "scan.sens").frames()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(first, Damage) and first.reason == DROP_IMAGE
    assert peak < 1 << 20


def test_intrinsics_that_are_no_camera_are_reported_and_left_out():
    data = bytearray(small_sens(frames=1))
    struct.pack_into("<f", data, 16, float("nan"))
    reader = open_small(bytes(data))
    (frame,) = reader.frames()
    assert isinstance(frame, Frame) and frame.K_33 is None
    assert "intrinsics" in reader.problems[0]


def check_mutations(rounds: int, seed: int) -> None:
    """Files with a few changed bytes are refused by name or read; nothing else, and bounded."""
    whole = small_sens(frames=4)
    rng = np.random.default_rng(seed)
    refused = 0
    for _ in range(rounds):
        data = bytearray(whole)
        # Half of the damage goes to the header and the first frame's lengths, where it lies best.
        reach = 420 if rng.random() < 0.5 else len(data)
        for at in rng.integers(0, reach, rng.integers(1, 5)):
            data[at] = rng.integers(256)
        tracemalloc.start()
        try:
            for frame in open_small(bytes(data)).frames():
                unusable(frame)
        except FormatError:
            refused += 1
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 64 << 20
    assert 0 < refused < rounds


def test_thirty_mutations():
    check_mutations(30, seed=0)


@pytest.mark.soak
def test_two_thousand_mutations():
    check_mutations(2000, seed=1)
