"""Label images beside ScanNet scans, in archives and folders, and the table of their ids."""

import shutil
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from preprocessing import scannet_labels
from preprocessing.scannet_labels import read_label_table
from preprocessing.scene import Damage, Frame
from spa3r.errors import FormatError
from spa3r.images import decode_labels
from spa3r.schema import DROP_LABEL_IMAGE
from tests.unit.preprocessing.test_scannet import only_scan, read_all, write_export
from tests.unit.preprocessing.test_sens import small_sens

TABLE = "id\traw_category\tnyu40id\n2\tchair\t5\n1191\tceiling fan\t40\n7\todd\t149\n9\tnone\t\n"


def label_png(*ids: int) -> bytes:
    return cv2.imencode(".png", np.array([ids], np.uint16))[1].tobytes()


def test_labels_come_from_the_archive_beside_the_scan(tmp_path: Path):
    (tmp_path / "scannetv2-labels.combined.tsv").write_text(TABLE)
    folder = tmp_path / "scans/scene0000_00"
    folder.mkdir(parents=True)
    (folder / "scene0000_00.sens").write_bytes(small_sens(frames=2))
    with zipfile.ZipFile(folder / "scene0000_00_2d-label-filt.zip", "w") as archive:
        archive.writestr("label-filt/1.png", label_png(2, 1191, 7, 9, 60000))
    with only_scan(tmp_path).open() as scene:
        first, second = scene.frames()
        table = scene.label_to_nyu40
    assert isinstance(first, Frame) and isinstance(second, Frame)
    assert first.labels is None
    assert second.labels is not None and table is not None
    assert decode_labels(second.labels, table).tolist() == [[5, 40, 0, 0, 0]]


def test_labels_of_an_exported_folder(tmp_path: Path):
    (tmp_path / "scannetv2-labels.combined.tsv").write_text(TABLE)
    folder = write_export(tmp_path / "scan", ["0"])
    (folder / "label").mkdir()
    (folder / "label/0.png").write_bytes(label_png(2))
    (frame,) = read_all(only_scan(tmp_path))
    assert isinstance(frame, Frame) and frame.labels == label_png(2)


@pytest.mark.parametrize("place", ["scans/a/label/0.png", "scans/a/a_2d-label.zip"])
def test_labels_lie_in_folders_or_archives_beside_any_layout(tmp_path: Path, place: str):
    (tmp_path / "scannetv2-labels.combined.tsv").write_text(TABLE)
    for layout in ("sens", "export"):
        shutil.rmtree(tmp_path / "scans", ignore_errors=True)
        folder = write_export(tmp_path / "scans/a", ["0", "1"])
        if layout == "sens":
            shutil.rmtree(folder)
            folder.mkdir()
            (folder / "a.sens").write_bytes(small_sens(frames=2))
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("any/folder/0.PNG", label_png(2))
                archive.writestr("__MACOSX/._0.png", b"left by another system")
                archive.writestr("../../1.txt", b"no picture")
        else:
            path.write_bytes(label_png(2))
        first, second = read_all(only_scan(tmp_path))
        assert isinstance(first, Frame) and first.labels == label_png(2)
        assert isinstance(second, Frame) and second.labels is None


def test_scans_that_lie_side_by_side_do_not_share_a_label_folder(tmp_path: Path):
    (tmp_path / "scannetv2-labels.combined.tsv").write_text(TABLE)
    (tmp_path / "a.sens").write_bytes(small_sens(frames=1))
    (tmp_path / "label").mkdir()
    (tmp_path / "label/0.png").write_bytes(label_png(2))
    (frame,) = read_all(only_scan(tmp_path))
    assert isinstance(frame, Frame) and frame.labels is None


def test_labels_are_ignored_without_the_table(tmp_path: Path):
    folder = write_export(tmp_path / "scan", ["0"])
    (folder / "label").mkdir()
    (folder / "label/0.png").write_bytes(label_png(2))
    (frame,) = read_all(only_scan(tmp_path))
    assert isinstance(frame, Frame) and frame.labels is None


@pytest.mark.parametrize(
    "text", ["id\tcategory\n1\twall\n", "id\tnyu40id\none\t1\n", "id\tnyu40id\n70000\t1\n"]
)
def test_a_label_table_without_its_columns_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "labels.tsv"
    path.write_text(text)
    with pytest.raises(FormatError, match=r"labels\.tsv"):
        read_label_table(str(path))


def test_a_damaged_label_archive_is_refused(tmp_path: Path):
    (tmp_path / "scannetv2-labels.combined.tsv").write_text(TABLE)
    (tmp_path / "a.sens").write_bytes(small_sens(frames=1))
    (tmp_path / "a_2d-label-filt.zip").write_bytes(b"PK not a zip")
    with pytest.raises(FormatError, match="damaged archive"):
        read_all(only_scan(tmp_path))


def label_archive(root: Path, *images: bytes) -> Path:
    """A scan `a` with a label table and these members, numbered from 0, in its archive."""
    (root / "scannetv2-labels.combined.tsv").write_text(TABLE)
    (root / "a.sens").write_bytes(small_sens(frames=len(images)))
    with zipfile.ZipFile(root / "a_2d-label-filt.zip", "w") as archive:
        for i, image in enumerate(images):
            archive.writestr(f"label-filt/{i}.png", image)
    return root / "a_2d-label-filt.zip"


def test_one_damaged_label_image_loses_its_frame_alone(tmp_path: Path):
    path = label_archive(tmp_path, label_png(2, 2, 2), label_png(7, 7, 7), label_png(9, 9, 9))
    path.write_bytes(path.read_bytes().replace(label_png(7, 7, 7), bytes(len(label_png(7, 7, 7)))))
    first, second, third = read_all(only_scan(tmp_path))
    assert isinstance(first, Frame) and first.labels == label_png(2, 2, 2)
    assert isinstance(second, Damage) and second.reason == DROP_LABEL_IMAGE
    assert "a_2d-label-filt.zip: label-filt/1.png is damaged" in second.detail
    assert isinstance(third, Frame) and third.labels == label_png(9, 9, 9)


def test_a_label_image_that_claims_too_much_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scannet_labels, "_MAX_LABEL_BYTES", 100)
    label_archive(tmp_path, bytes(101), bytes(100))
    large, small = read_all(only_scan(tmp_path))
    assert isinstance(large, Damage) and "claims 101 bytes" in large.detail
    assert isinstance(small, Frame)


@pytest.mark.parametrize(("summed", "wrong"), [(1000, "Bad CRC"), (1001, "more are there")])
def test_a_label_image_larger_than_it_claims_is_not_unpacked(
    tmp_path: Path, summed: int, wrong: str
):
    path = label_archive(tmp_path)
    (tmp_path / "a.sens").write_bytes(small_sens(frames=1))
    size = 40 << 20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("label-filt/0.png", bytes(size))
    data = path.read_bytes()
    for real, claim in ((size, 1000), (zlib.crc32(bytes(size)), zlib.crc32(bytes(summed)))):
        assert data.count(real.to_bytes(4, "little")) == 2
        data = data.replace(real.to_bytes(4, "little"), claim.to_bytes(4, "little"))
    path.write_bytes(data)
    tracemalloc.start()
    try:
        (frame,) = read_all(only_scan(tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(frame, Damage) and wrong in frame.detail
    assert peak < 4 << 20


def test_a_label_image_smaller_than_it_claims_loses_its_frame(tmp_path: Path):
    path = label_archive(tmp_path, bytes(777))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("label-filt/0.png", bytes(777))
    claim, real = (7777).to_bytes(4, "little"), (777).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(real, claim))
    (frame,) = read_all(only_scan(tmp_path))
    assert isinstance(frame, Damage) and frame.reason == DROP_LABEL_IMAGE
    assert "label-filt/0.png claims 7777 bytes, 777 are there" in frame.detail


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_only_stored_and_deflated_label_images_are_unpacked(tmp_path: Path, method: int):
    path = label_archive(tmp_path, b"")
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("label-filt/0.png", label_png(2))
    (frame,) = read_all(only_scan(tmp_path))
    assert isinstance(frame, Damage) and frame.reason == DROP_LABEL_IMAGE
    assert f"label-filt/0.png has compression method {method}" in frame.detail


def test_who_wants_no_labels_is_not_bothered_by_them(tmp_path: Path):
    label_archive(tmp_path, b"").write_bytes(b"PK not a zip")
    (tmp_path / "scannetv2-labels.combined.tsv").write_text("no table")
    with only_scan(tmp_path).open(labels=False) as scene:
        (frame,) = scene.frames()
        assert isinstance(frame, Frame) and frame.labels is scene.label_to_nyu40 is None
    folder = write_export(tmp_path / "scan", ["0"])
    (folder / "label").mkdir()
    (folder / "label/0.png").write_bytes(label_png(2))
    shutil.copy(tmp_path / "scannetv2-labels.combined.tsv", folder)
    with only_scan(folder).open(labels=False) as scene:
        (frame,) = scene.frames()
        assert isinstance(frame, Frame) and frame.labels is scene.label_to_nyu40 is None


def test_changed_bytes_of_a_label_archive_raise_nothing_but_format_error(tmp_path: Path):
    image = b"no image, which is for the decoder to say"
    path = label_archive(tmp_path, image, image)
    whole, noticed = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            noticed += any(isinstance(frame, Damage) for frame in read_all(only_scan(tmp_path)))
        except FormatError as error:
            noticed += "a_2d-label-filt.zip" in str(error)
    assert noticed > len(whole) // 4


def test_a_label_file_that_holds_too_much_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scannet_labels, "_MAX_LABEL_BYTES", 100)
    (tmp_path / "scannetv2-labels.combined.tsv").write_text(TABLE)
    folder = write_export(tmp_path / "scan", ["0", "1"])
    (folder / "label").mkdir()
    (folder / "label/0.png").write_bytes(bytes(101))
    (folder / "label/1.png").write_bytes(bytes(100))
    large, small = read_all(only_scan(tmp_path))
    assert isinstance(large, Damage) and large.reason == DROP_LABEL_IMAGE
    assert isinstance(small, Frame)
