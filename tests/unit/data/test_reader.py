"""Ranges of remote files: asked for at once, in pieces; damage is told apart from failure."""

from collections.abc import Iterator
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from spa3r import storage
from spa3r.data import reader
from spa3r.data.reader import Range, ShardReader, joined
from spa3r.errors import DamageError, ShardError

URL = "memory://reader/a.tar"
DATA = bytes(range(100))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[tuple[int, int]]]]:
    """What was asked of a remote file, by call; a piece is 16 bytes."""
    storage.write_bytes(URL, DATA)
    calls: list[list[tuple[int, int]]] = []
    many = MemoryFileSystem.cat_ranges

    def cat_ranges(self: Any, paths: Any, starts: Any, ends: Any, **more: Any) -> Any:
        calls.append(list(zip(starts, ends, strict=True)))
        return many(self, paths, starts, ends, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_ranges", cat_ranges)
    monkeypatch.setattr(reader, "_PIECE", 16)
    yield calls
    storage.remove(URL)


def test_all_ranges_are_one_call_in_pieces(asked: list[list[tuple[int, int]]]) -> None:
    ranges = [Range(URL, 3, 40), Range(URL, 90, 10), Range(URL, 0, 0)]
    assert ShardReader().read_many(ranges) == [DATA[3:43], DATA[90:], b""]
    assert asked == [[(3, 19), (19, 35), (35, 43), (90, 100)]]


def test_one_bad_range_does_not_spoil_the_others(asked: list[list[tuple[int, int]]]) -> None:
    gone = Range("memory://reader/gone.tar", 0, 4)
    ranges = [Range(URL, 0, 4), gone, Range(URL, 98, 4), Range(URL, 0, 1 << 60), Range(URL, -1, 2)]
    first, *others = ShardReader().read_many(ranges)
    assert first == DATA[:4]
    assert [isinstance(one, DamageError) for one in others] == [True] * 4
    assert "gone.tar: absent" in str(others[0]) and "the file has 100" in str(others[1])
    assert len(asked[0]) == 3  # nothing that only a table says is there


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), PermissionError(13, "no")])
def test_a_failing_storage_is_no_damage(
    asked: list[list[tuple[int, int]]], monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    monkeypatch.setattr(MemoryFileSystem, "cat_ranges", lambda *_, **__: [b"\0\1", error])
    with pytest.raises(ShardError, match=r"a\.tar: cannot be read \((reset|no)\)") as raised:
        ShardReader().read_many([Range(URL, 0, 2), Range(URL, 4, 2)])
    assert not isinstance(raised.value, DamageError)


def test_a_refused_range_behind_the_end_is_damage(
    asked: list[list[tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As S3 answers it: the store's error says nothing of the file's length."""
    refused = OSError(22, "The requested range is not satisfiable")
    monkeypatch.setattr(MemoryFileSystem, "cat_ranges", lambda *_, **__: [refused])
    with pytest.raises(DamageError, match="the file has 100; shard and manifest do not belong"):
        ShardReader().read(URL, 200, 4)


def test_neighbours_become_one_range() -> None:
    a, b, far = Range("x", 10, 5), Range("x", 20, 5), Range("x", 90, 5)
    assert joined([b, a], gap=3) == Range("x", 10, 15)
    assert joined([a, b], gap=2) is None and joined([a, far], gap=3) is None
    assert joined([a, Range("y", 20, 5)], gap=99) is None
