"""Free space before a scene is started."""

from pathlib import Path

import pytest

from preprocessing.space import LEAST_BYTES, Room, free_bytes
from spa3r.errors import ShardError

GIB = 1 << 30


def sized(path: Path, count: int) -> Path:
    """A file that says it has so many bytes, without them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as f:
        f.truncate(count)
    return path


def test_free_space_is_asked_where_the_folder_will_lie(tmp_path: Path) -> None:
    free = free_bytes(str(tmp_path / "not" / "yet"))
    assert free is not None and free > 0
    assert not list(tmp_path.iterdir())
    assert free_bytes("memory://space-test/out") is None


def test_a_small_dataset_needs_two_gib(tmp_path: Path) -> None:
    assert Room(str(tmp_path), free=lambda _out: LEAST_BYTES).fits(0)
    tight = Room(str(tmp_path), free=lambda _out: LEAST_BYTES - 1)
    assert not tight.fits(1)
    with pytest.raises(ShardError) as caught:
        tight.fits(0)
    text = str(caught.value)
    assert "only 2.0 GiB free" in text and str(tmp_path) in text and "\n" not in text
    assert "run again: finished scenes are kept" in text


def test_large_tars_need_more_the_more_are_written(tmp_path: Path) -> None:
    sized(tmp_path / "a.tar", 2 * GIB)
    sized(tmp_path / "a.frames.parquet", 50 * GIB)
    room = Room(str(tmp_path), free=lambda _out: 7 * GIB)
    assert room.fits(0) and room.fits(1) and not room.fits(2)  # 3, 6 and 9 GiB
    sized(tmp_path / "b.tar", 4 * GIB)
    room.written("b")
    assert room.fits(0) and not room.fits(1)  # 6 and 12 GiB
    room.written("refused_without_a_tar")
    assert room.fits(0)


def test_object_stores_are_never_full() -> None:
    room = Room("memory://space-test/out")
    room.written("a")
    assert room.fits(0) and room.fits(100)
