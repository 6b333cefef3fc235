"""depth.bin: every encoding gives the same depths, and no file can make the reader lie or burst."""

import hashlib
import io
import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import lz4.block
import numpy as np
import pytest

from preprocessing.depth_bin import DepthBin, millimetres
from preprocessing.scene import Damage
from spa3r.errors import FormatError
from spa3r.schema import DROP_DEPTH_IMAGE, DROP_TRUNCATED

SIZE = (16, 12)
SHAPE = (12, 16)


def depth_of(index: int) -> np.ndarray:
    """(12, 16) uint16 mm, another one for every index."""
    return (np.arange(192).reshape(SHAPE) * 7 + 1000 * (index + 1)).astype("<u2")


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def metres_of(index: int) -> bytes:
    # Half a millimetre more: cutting off must give the whole number again.
    return ((depth_of(index) + np.float32(0.5)) / np.float32(1000)).astype("<f4").tobytes()


def lz4_record(index: int) -> bytes:
    return record(lz4.block.compress(depth_of(index).tobytes(), store_size=False))


def deflate_record(index: int) -> bytes:
    return record(deflate(metres_of(index)))


def record(payload: bytes) -> bytes:
    return struct.pack("<I", len(payload)) + payload


def global_stream(count: int) -> bytes:
    return deflate(b"".join(metres_of(index) for index in range(count)))


def reader(data: bytes) -> DepthBin:
    return DepthBin(io.BytesIO(data), "depth.bin", size=SIZE)


def reasons(found: list[tuple[int, np.ndarray | Damage]]) -> dict[int, str]:
    """Number -> "" for a depth map that is the right one, else the reason it is lost."""
    for number, depth in found:
        if isinstance(depth, Damage):
            assert depth.index == number and depth.detail.startswith("depth.bin")
            assert "\n" not in depth.detail
        else:
            assert depth.dtype == np.uint16
            assert np.array_equal(depth, depth_of(number))
    return {n: d.reason if isinstance(d, Damage) else "" for n, d in found}


FILES = {
    "lz4": b"".join(lz4_record(i) for i in range(5)),
    "deflate": b"".join(deflate_record(i) for i in range(5)),
    "mixed": b"".join([lz4_record, deflate_record][i % 2](i) for i in range(5)),
    "global": global_stream(5),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("numbers", [None, [0], [4], [1, 3], [0, 2, 4], [], [3, 5, 9]])
def test_any_frames_of_any_encoding(name: str, numbers: list[int] | None):
    depths = reader(FILES[name])
    assert depths.kind == ("zlib_global" if name == "global" else "records")
    expected = range(5) if numbers is None else numbers
    for _ in range(2):  # may be called again
        found = reasons(list(depths.frames(numbers)))
        assert found == {n: "" if n < 5 else DROP_TRUNCATED for n in expected}
    assert depths.problems == []
    assert depths.num_frames == (None if name == "global" else 5)


def test_floats_are_cut_off_and_wild_ones_are_no_measurement():
    wild = [1.2349, 0.0, -1.0, np.nan, np.inf, -np.inf, 65.535, 65.54, 3e38, 0.0009]
    assert millimetres(np.array(wild, np.float32)).tolist() == [
        *(1234, 0, 0, 0, 0, 0, 65535, 0, 0, 0)
    ]


@pytest.mark.parametrize("name", ["lz4", "deflate", "mixed"])
def test_cut_records(name: str):
    data = FILES[name][:-5]
    depths = reader(data)
    assert reasons(list(depths.frames())) == {**dict.fromkeys(range(4), ""), 4: DROP_TRUNCATED}
    assert len(depths.problems) == 1 and "record 4" in depths.problems[0]
    assert reasons(list(depths.frames([4, 6]))) == {4: DROP_TRUNCATED, 6: DROP_TRUNCATED}


def test_cut_stream():
    depths = reader(FILES["global"][:-40])
    found = reasons(list(depths.frames(range(5))))
    assert found[0] == "" and found[4] == DROP_TRUNCATED
    assert len(depths.problems) == 1 and "ends after" in depths.problems[0]


def test_damaged_stream():
    data = bytearray(FILES["global"])
    middle = len(data) * 2 // 3
    data[middle : middle + 20] = bytes([255] * 20)
    depths = reader(bytes(data))
    found = [d for _, d in depths.frames(range(5)) if isinstance(d, Damage)]
    assert found and {d.reason for d in found} <= {DROP_DEPTH_IMAGE, DROP_TRUNCATED}


@pytest.mark.parametrize("size", [0, 1 << 20, 0xFFFFFFFF])
def test_a_lying_size_loses_the_rest_and_says_so(size: int):
    data = FILES["lz4"] + struct.pack("<I", size) + b"something behind it"
    depths = reader(data)
    found = reasons(list(depths.frames(range(7))))
    expected = {5: DROP_DEPTH_IMAGE, 6: DROP_TRUNCATED}
    assert found == {**dict.fromkeys(range(5), ""), **expected}
    assert depths.problems == [
        f"depth.bin: record 5 at byte {len(FILES['lz4'])} claims {size} bytes; it and the 23 bytes"
        " from there are lost"
    ]


def test_one_bad_record_loses_one_frame():
    records = [lz4_record(i) for i in range(5)]
    for bad in (0, 2):
        broken = record(b"\xff" * (len(records[bad]) - 4))
        data = b"".join([*records[:bad], broken, *records[bad + 1 :]])
        found = reasons(list(reader(data).frames()))
        assert found == {n: DROP_DEPTH_IMAGE if n == bad else "" for n in range(5)}


@pytest.mark.parametrize("pixels", [191, 193, 192 * 100])
def test_records_of_another_size_are_refused(pixels: int):
    short = record(lz4.block.compress(bytes(pixels * 2), store_size=False))
    long = record(deflate(bytes(pixels * 4)))
    found = reasons(list(reader(lz4_record(0) + short + long + lz4_record(3)).frames()))
    assert found == {0: "", 1: DROP_DEPTH_IMAGE, 2: DROP_DEPTH_IMAGE, 3: ""}


def test_bytes_behind_the_stream_are_reported():
    for numbers in (None, range(5)):
        depths = reader(FILES["global"] + b"garbage")
        assert set(reasons(list(depths.frames(numbers))).values()) == {""}
        assert depths.problems == ["depth.bin: 7 bytes behind the end of the stream; left out"]
    few = reader(FILES["global"] + b"garbage")
    list(few.frames([1]))
    assert few.problems == []  # as far as it was read


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00" * 4000, b"\xff" * 4000, b"PK" * 100])
def test_files_of_something_else_are_refused(data: bytes):
    with pytest.raises(FormatError, match="no 16 x 12 depth map"):
        reader(data)


def test_the_encodings_of_the_reference_files(shared: Path):
    folder = shared / "data/scannetpp/depth_bin"
    for name, expected in json.loads((folder / "expected.json").read_text()).items():
        with (folder / f"{name}.bin").open("rb") as f:
            depths = DepthBin(f, name)
            found = [depth for _, depth in depths.frames()]
        if name == "lz4_truncated":
            assert [isinstance(d, Damage) for d in found] == [False, False, False, True]
            assert isinstance(found[3], Damage) and found[3].reason == DROP_TRUNCATED
            continue
        digests = [
            hashlib.sha256(d.tobytes()).hexdigest() for d in found if isinstance(d, np.ndarray)
        ]
        assert digests == expected["sha256_each_uint16_mm"]
        assert (depths.kind == "zlib_global") == (expected["branch"] == "zlib_global")


def check_mutations(rounds: int, seed: int) -> None:
    """Changed bytes lose frames by name or give depths; nothing else, in bounded memory."""
    rng = np.random.default_rng(seed)
    lost = 0
    for turn in range(rounds):
        data = bytearray(list(FILES.values())[turn % len(FILES)])
        for at in rng.integers(0, len(data), rng.integers(1, 5)):
            data[at] = rng.integers(256)
        tracemalloc.start()
        try:
            found = list(reader(bytes(data)).frames(range(5)))
        except FormatError as error:
            assert str(error).startswith("depth.bin") and "\n" not in str(error)
            found = [(n, Damage(index=n, reason=DROP_DEPTH_IMAGE, detail="")) for n in range(5)]
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 4 << 20
        assert [number for number, _ in found] == list(range(5))
        for _, depth in found:
            assert isinstance(depth, Damage) or (depth.dtype, depth.shape) == (np.uint16, SHAPE)
        lost += any(isinstance(depth, Damage) for _, depth in found)
    assert 0 < lost < rounds


def test_thirty_mutations():
    check_mutations(30, seed=0)


@pytest.mark.soak
def test_five_hundred_mutations():
    check_mutations(500, seed=1)
