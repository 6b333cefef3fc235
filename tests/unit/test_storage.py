"""Atomic publishing, on local disks and on another fsspec file system."""

import os
from pathlib import Path

import pytest

from spa3r import storage
from spa3r.errors import ConfigError, ShardError
from spa3r.schema import SCHEMA_VERSION


@pytest.fixture(params=["local", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}"


def test_round_trip_and_listing(base: str) -> None:
    url = storage.join(base, "a", "x.json")
    storage.write_json(url, {"b": 1, "a": [2]})
    assert storage.read_json(url) == {"a": [2], "b": 1}
    assert storage.list_files(storage.join(base, "a"), ".json") == [url]
    assert storage.exists(url)
    assert storage.size(url) == len(storage.read_bytes(url))
    assert len(storage.sha256(url)) == 64


def test_bulk_reads_keep_their_order_and_miss_nothing_silently(base: str) -> None:
    urls = [storage.join(base, f"{name}.json") for name in ("b", "a [1]*", "lost", "c")]
    for number, url in enumerate(urls):
        storage.write_bytes(url, bytes([number]) * number)
    assert storage.remove(urls[2]) and not storage.remove(urls[2])
    assert storage.read_many(urls) == [b"", b"\1", None, b"\3\3\3"]
    assert storage.read_many(urls[:1]) == [b""]
    assert storage.read_many([]) == []
    assert storage.list_sizes(base) == {"b.json": 0, "a [1]*.json": 1, "c.json": 3}
    assert storage.list_sizes(storage.join(base, "none")) == {}
    assert storage.list_sizes(urls[0]) == {}


def test_a_bulk_read_does_not_hide_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        storage.read_many([str(tmp_path), str(tmp_path)])


def test_ten_thousand_sidecars_are_one_listing_and_one_bulk_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

    from preprocessing.shards import Snapshot

    fs = MemoryFileSystem()
    for number in range(10_000):
        path = f"/many/scene{number:05d}.done.json"
        fs.store[path] = MemoryFile(fs, path, b'{"schema": %d}' % SCHEMA_VERSION)
    asked: list[str] = []
    for name in ("ls", "info", "exists", "isdir", "find", "cat_ranges"):
        real = getattr(MemoryFileSystem, name)

        def counted(self, *args, real=real, name=name, **options):
            asked.append(name)
            return real(self, *args, **options)

        monkeypatch.setattr(MemoryFileSystem, name, counted)
    try:
        assert len(Snapshot("memory://many").units) == 10_000
        assert asked == ["ls", "cat_ranges"]
    finally:
        for path in [path for path in fs.store if path.startswith("/many/")]:
            del fs.store[path]


def test_a_failed_write_leaves_nothing(base: str) -> None:
    url = storage.join(base, "half.bin")
    with pytest.raises(RuntimeError), storage.atomic_write(url) as f:
        f.write(b"half")
        raise RuntimeError("killed")
    assert not storage.exists(url)
    assert storage.list_files(base) == []


def test_a_failed_rewrite_keeps_the_old_file(base: str) -> None:
    url = storage.join(base, "kept.bin")
    storage.write_bytes(url, b"old")
    with pytest.raises(RuntimeError), storage.atomic_write(url) as f:
        f.write(b"new")
        raise RuntimeError("killed")
    assert storage.read_bytes(url) == b"old"


def blocked(folder: Path) -> dict[str, str]:
    """Places where no file can be written, by why."""
    (folder / "file").write_bytes(b"")
    places = {"a folder": str(folder), "below a file": str(folder / "file" / "x"),
              "no real disk": "/proc/x", "far below a file": str(folder / "file" / "a" / "b" / "x"),
              "long": str(folder / ("x" * 300))}  # fmt: skip
    shut = folder / "shut"
    shut.mkdir(mode=0o555)
    if not os.access(shut, os.W_OK):  # root may write everywhere
        places["no permission"] = str(shut / "x")
    return places


def test_a_place_that_cannot_be_written_is_one_line_before_and_while_writing(tmp_path: Path):
    for why, place in blocked(tmp_path).items():
        for write in (storage.check_writable, lambda place: storage.write_bytes(place, b"x")):
            with pytest.raises(ConfigError, match="cannot be written") as caught:
                write(place)
            said = str(caught.value)
            assert said.startswith(f"{place}: cannot") and "\n" not in said, why
    with pytest.raises(ConfigError, match="name a file in it"):
        storage.check_writable(tmp_path)


def test_asking_for_permission_leaves_nothing(base: str, tmp_path: Path):
    storage.write_bytes(storage.join(base, "old"), b"old")
    for place in ("old", "new", "a/b/new"):
        storage.check_writable(storage.join(base, place))
    for place in ("", "a/b"):
        storage.check_writable(storage.join(base, place), folder=True)
    assert storage.list_files(base) == [storage.join(base, "old")]
    assert not storage.exists(storage.join(base, "a"))
    assert storage.read_bytes(storage.join(base, "old")) == b"old"
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        storage.check_writable(tmp_path / "file", folder=True)


def test_the_stages_still_see_the_systems_own_error(tmp_path: Path):
    """`preprocessing.shards` names it in its own words."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError), storage.atomic_write(tmp_path / "file" / "x"):
        pass


def test_leftovers_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".x.tar.1234.tmp").write_bytes(b"half")
    (tmp_path / "x.tar").write_bytes(b"whole")
    assert storage.remove_leftovers(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.tar"]


def test_damaged_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(ShardError, match=r"m\.json"):
        storage.read_json(tmp_path / "m.json")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://lab:hunter2@db:5432/m", "postgresql://lab:***@db:5432/m"),
        ("away: http://lab:a/b@c@host:5000/api (no)", "away: http://lab:***@host:5000/api (no)"),
        ("postgresql://db/m?user=lab&password=hunter2&x=1",
         "postgresql://db/m?user=lab&password=***&x=1"),
        ("http://host:5000 models:/spa3r-encoder@candidate",
         "http://host:5000 models:/spa3r-encoder@candidate"),
        ("sqlite:////home/a/mlflow.db", "sqlite:////home/a/mlflow.db"),
        ("http://127.0.0.1:4200/api", "http://127.0.0.1:4200/api"),
    ],
)  # fmt: skip
def test_no_line_shows_a_password(text: str, shown: str) -> None:
    assert storage.redacted(text) == shown


@pytest.mark.parametrize("url", ["foo://bucket/a", "nope://x"])
def test_an_unknown_protocol_is_one_line(url: str):
    for ask in (storage.exists, storage.read_bytes, storage.is_local, storage.check_writable):
        with pytest.raises(ConfigError, match=f"{url}: .*another URL"):
            ask(url)


def test_double_colons_are_part_of_a_local_name(tmp_path: Path):
    folder = tmp_path / "a::b"
    folder.mkdir()
    storage.write_bytes(folder / "x.bin", b"1")
    assert storage.read_bytes(str(folder / "x.bin")) == b"1" and storage.is_local(folder)
    assert storage.list_sizes(folder) == {"x.bin": 1}


def test_links_are_what_they_point_to(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (there / "deep").mkdir(parents=True)
    (there / "a.txt").write_bytes(b"12345")
    here.mkdir()
    (here / "a.txt").symlink_to(there / "a.txt")
    (here / "folder").symlink_to(there)
    (here / "gone.txt").symlink_to(there / "gone.txt")
    (here / "self.txt").symlink_to("self.txt")
    assert storage.list_names(here) == ["a.txt", "folder"]
    assert storage.list_files(here, ".txt") == [str(here / "a.txt")]
    assert storage.list_folders(here) == [str(here / "folder")]
    assert storage.list_sizes(here) == {"a.txt": 5}
    assert storage.list_sizes(here / "folder") == {"a.txt": 5}
    assert not storage.exists(here / "gone.txt") and not storage.exists(here / "self.txt")


def test_many_listings_keep_their_order(base: str) -> None:
    folders = [storage.join(base, f"f{number}") for number in range(600)]
    for number in range(0, 600, 7):
        storage.write_bytes(storage.join(folders[number], f"{number}.txt"), b"")
    expected = [[f"{n}.txt"] if n % 7 == 0 else [] for n in range(600)]
    assert list(storage.list_many(folders)) == expected
    with storage.one_look():
        assert list(storage.list_many(folders)) == list(storage.list_many(folders)) == expected
    assert list(storage.list_many([])) == []
