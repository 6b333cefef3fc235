"""Deterministic tars, Parquet and sidecars: same bytes, atomic, indexed."""

import errno
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from preprocessing import shards
from spa3r import storage
from spa3r.errors import SceneError, ShardError
from spa3r.schema import MANIFEST_COLUMNS

SAMPLES = [
    ("a-000001", {"color.jpg": b"\xff" * 700, "camera.json": b"{}"}),
    ("a-000002", {"color.jpg": b"", "camera.json": b"x" * 512}),
    ("b" * 120, {"clip.safetensors": b"long names need a second header" * 9}),
]


def test_index_points_at_every_payload(tmp_path: Path):
    url = str(tmp_path / "a.tar")
    index = shards.write_tar(url, iter(SAMPLES))
    data = Path(url).read_bytes()
    found = {(e.key, e.part): data[e.offset : e.offset + e.size] for e in index.entries}
    assert found == {(key, part): p for key, parts in SAMPLES for part, p in parts.items()}
    assert index.mark == shards.describe(url) == (len(data), storage.sha256(url))


def test_members_carry_no_trace_of_the_machine(tmp_path: Path):
    for name in ("one.tar", "two.tar"):
        shards.write_tar(str(tmp_path / name), SAMPLES)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        facts = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar}
    assert facts == {(0, 0, 0, "spa3r", "spa3r", 0o444)}


def test_memory_url_holds_the_same_bytes(tmp_path: Path):
    shards.write_tar("memory://shards-test/a.tar", SAMPLES)
    shards.write_tar(str(tmp_path / "a.tar"), SAMPLES)
    assert storage.read_bytes("memory://shards-test/a.tar") == (tmp_path / "a.tar").read_bytes()


@pytest.mark.parametrize("base", ["local", "memory://shards-failing"])
def test_a_failing_source_publishes_nothing(tmp_path: Path, base: str):
    folder = str(tmp_path) if base == "local" else base

    def failing() -> Iterator[tuple[str, dict[str, bytes]]]:
        yield SAMPLES[0]
        raise SceneError("scan ends here")

    with pytest.raises(SceneError, match="scan ends here"):
        shards.write_tar(f"{folder}/a.tar", failing())
    assert storage.list_files(folder) == []
    shards.write_tar(f"{folder}/a.tar", SAMPLES)  # and the next write is not disturbed
    assert storage.exists(f"{folder}/a.tar")


def test_keys_are_unique_and_no_paths(tmp_path: Path):
    for bad in ([SAMPLES[0], SAMPLES[0]], [("a/b", {})], [("a.b", {}), ("a_b", {})]):
        with pytest.raises(ShardError, match="rename the scene"):
            shards.write_tar(str(tmp_path / "a.tar"), bad)
    index = shards.write_tar(str(tmp_path / "a.tar"), [("v1.2-000001", {"x.bin": b"1"})])
    assert index.entries[0].key == "v1.2-000001"
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == ["v1_2-000001.x.bin"]


def test_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("spa3r.storage.os.fsync", full)
    url = str(tmp_path / "a.tar")
    for write in (
        lambda: shards.write_tar(url, SAMPLES),
        lambda: shards.write_json(url, {}),
        lambda: shards.write_parquet(url, [], shards.arrow_schema([("a", "int32")])),
    ):
        with pytest.raises(ShardError, match=r"a\.tar: .*No space left.* run again") as caught:
            write()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_parquet_is_deterministic_and_typed(tmp_path: Path):
    schema = shards.arrow_schema(MANIFEST_COLUMNS)
    assert [(f.name, f.nullable) for f in schema] == [(n, False) for n, _ in MANIFEST_COLUMNS]
    schema = shards.arrow_schema([("scene", "string"), ("K", "list<double>")])
    table = pa.table({"scene": ["a", "b"], "K": [[1.0, 2.0], []]}, schema=schema)
    marks = {shards.write_parquet(str(tmp_path / n), [table, table], schema) for n in "xy"}
    assert marks == {shards.describe(str(tmp_path / "x"))}


def test_sidecar_is_the_completion_mark(tmp_path: Path):
    out = str(tmp_path)
    assert not shards.is_complete(out, "s", "hash")
    index = shards.write_tar(f"{out}/s.tar", SAMPLES)
    files = {"s.tar": index.mark}
    shards.write_sidecar(out, "s", stage="t", spec_hash="hash", files=files, counts={"n": 3})
    assert shards.is_complete(out, "s", "hash")
    assert shards.read_sidecar(out, "s")["counts"] == {"n": 3}
    assert not shards.is_complete(out, "s", "other settings")
    with (tmp_path / "s.tar").open("ab") as f:
        f.write(b"!")
    assert not shards.is_complete(out, "s", "hash")
    (tmp_path / "s.tar").unlink()
    assert not shards.is_complete(out, "s", "hash")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 1}'])
def test_a_damaged_sidecar_means_not_complete(tmp_path: Path, content: bytes):
    (tmp_path / "s.done.json").write_bytes(content)
    assert not shards.is_complete(str(tmp_path), "s", "hash")
    with pytest.raises(ShardError, match=r"s\.done\.json"):
        shards.read_sidecar(str(tmp_path), "s")


def test_discard_says_whether_there_was_something(tmp_path: Path):
    (tmp_path / "x").write_text("")
    assert shards.discard(str(tmp_path / "x")) is True
    assert shards.discard(str(tmp_path / "x")) is False
