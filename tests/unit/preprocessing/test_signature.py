"""What a signature sees: names, sizes, times and shared files, from listings alone."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from preprocessing.signature import sign
from spa3r import storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """All of a source that signing asks for."""

    content: tuple[str, ...]
    fingerprint: str = ""


def digest(source: Content) -> str:
    return sign(source).digest  # pyright: ignore[reportArgumentType]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    folder = tmp_path / "raw" / "scan"
    (folder / "color").mkdir(parents=True)
    (folder / "color" / "0.jpg").write_bytes(b"12345")
    (folder / "a.sens").write_bytes(b"123")
    (folder / "a_2d-label.zip").write_bytes(b"1")
    return folder


def test_it_counts_files_and_bytes(scan: Path):
    whole = sign(Content(content=(str(scan),)))  # pyright: ignore[reportArgumentType]
    assert (whole.files, whole.bytes) == (3, 9) and len(whole.digest) == 16
    overlapping = Content(content=(str(scan), str(scan / "a.sens")))
    assert sign(overlapping).bytes == 12  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("change", ["touch", "grow", "add", "remove", "rename", "deep"])
def test_every_change_of_a_folder_is_seen(scan: Path, change: str):
    source = Content(content=(str(scan),))
    before = digest(source)
    assert digest(source) == before
    match change:
        case "touch":
            os.utime(scan / "a.sens", (1, 1))
        case "grow":
            kept = (scan / "a.sens").stat()
            (scan / "a.sens").write_bytes(b"1234")
            os.utime(scan / "a.sens", ns=(kept.st_atime_ns, kept.st_mtime_ns))
        case "add":
            (scan / "new").write_bytes(b"")
        case "remove":
            (scan / "a.sens").unlink()
        case "rename":
            (scan / "a.sens").rename(scan / "b.sens")
        case "deep":
            (scan / "color" / "1.jpg").write_bytes(b"")
    assert digest(source) != before


def test_only_what_is_named_counts(scan: Path):
    source = Content(content=(str(scan / "a.sens"), str(scan / "a_2d-label*.zip")))
    before = digest(source)
    (scan / "mesh.ply").write_bytes(b"123")
    assert digest(source) == before
    (scan / "a_2d-label-filt.zip").write_bytes(b"2")
    assert digest(source) != before


def test_shared_files_count(scan: Path):
    source = Content(content=(str(scan),))
    assert digest(source) != digest(replace(source, fingerprint="table"))


def test_a_moved_dataset_keeps_its_signature(scan: Path, tmp_path: Path):
    before = digest(Content(content=(str(scan), str(scan / "a*.zip"))))
    (tmp_path / "raw").rename(tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "scan"
    assert digest(Content(content=(str(moved), str(moved / "a*.zip")))) == before


def test_brackets_in_names_are_no_patterns(tmp_path: Path):
    folder = tmp_path / "scan [1]"
    folder.mkdir()
    (folder / "a [b]_x.zip").write_bytes(b"123")
    source = Content(content=(str(folder / "a [b]*.zip"),))
    assert sign(source).files == 1  # pyright: ignore[reportArgumentType]


def test_absent_files_and_memory_urls(tmp_path: Path):
    nothing = Content(content=(str(tmp_path / "no.sens"), str(tmp_path / "no" / "*.zip")))
    with pytest.raises(FileNotFoundError, match="none of its files is there"):
        sign(nothing)  # pyright: ignore[reportArgumentType]
    storage.write_bytes("memory://sign-test/scan/a.sens", b"123")
    source = Content(content=("memory://sign-test/scan/a.sens", "memory://sign-test/scan/*.zip"))
    before = digest(source)
    storage.write_bytes("memory://sign-test/scan/a.zip", b"4")
    assert digest(source) != before and sign(source).bytes == 4  # pyright: ignore[reportArgumentType]


def test_neighbours_cost_one_listing(scan: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    listing = LocalFileSystem.ls

    def counted(self: LocalFileSystem, path: str, detail: bool = False, **options: object):
        asked.append(path)
        return listing(self, path, detail=detail, **options)

    names = ("a.sens", "a.txt", "a_2d-label*.zip", "a_vh_clean_2.ply", "a.aggregation.json")
    source = Content(content=tuple(str(scan / name) for name in names))
    monkeypatch.setattr(LocalFileSystem, "ls", counted)
    assert sign(source).files == 2 and asked == [str(scan)]  # pyright: ignore[reportArgumentType]


def test_a_folder_among_named_files_counts_whole(scan: Path):
    source = Content(content=(str(scan / "color"), str(scan / "a.sens")))
    before = digest(source)
    (scan / "color" / "deep").mkdir()
    (scan / "color" / "deep" / "1.jpg").write_bytes(b"1")
    assert digest(source) != before
    assert sign(source).files == 3  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("named", ["file", "beside others", "folder", "inside"])
def test_a_link_is_signed_as_what_it_points_to(scan: Path, tmp_path: Path, named: str):
    linked = tmp_path / "raw" / "linked"
    linked.mkdir()
    (linked / "a.sens").symlink_to(scan / "a.sens")
    (linked / "color").symlink_to(scan / "color")
    (linked / "gone.sens").symlink_to(tmp_path / "nowhere")
    (linked / "folder").symlink_to(scan)
    content = {
        "file": (linked / "a.sens",),
        "beside others": (linked / "a.sens", linked / "a_2d-label*.zip"),
        "folder": (linked / "folder",),
        "inside": (linked,),
    }[named]
    source = Content(content=tuple(map(str, content)))
    before = sign(source)  # pyright: ignore[reportArgumentType]
    # Inside, the scan is met twice: color (5 bytes) once, as itself; a.sens once by each name.
    assert (before.files, before.bytes) == {
        "file": (1, 3), "beside others": (1, 3), "folder": (3, 9), "inside": (4, 12)
    }[named]  # fmt: skip
    os.utime(scan / "a.sens", (1, 1))
    touched = digest(source)
    assert touched != before.digest
    (scan / "a.sens").write_bytes(b"1234")
    os.utime(scan / "a.sens", (1, 1))
    assert digest(source) not in (touched, before.digest)


def test_circles_of_links_end(scan: Path):
    before = sign(Content(content=(str(scan),)))  # pyright: ignore[reportArgumentType]
    (scan / "color" / "up").symlink_to(scan)
    (scan / "color" / "here").symlink_to(".")
    (scan / "self").symlink_to("self")
    assert sign(Content(content=(str(scan),))) == before  # pyright: ignore[reportArgumentType]
