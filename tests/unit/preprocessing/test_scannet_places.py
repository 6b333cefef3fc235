"""Where ScanNet scans, split lists and the label table are looked for."""

import shutil
from pathlib import Path

import pytest

from preprocessing import scannet, sources
from preprocessing.scannet import LABEL_TABLE, find_scans
from tests.sens_maker import make_sens
from tests.unit.preprocessing.test_scannet import only_scan, read_all


def test_the_test_scans_of_the_release_are_read_too(tmp_path: Path):
    for place in ("scans/scene0000_00", "scans_test/scene0707_00"):
        make_sens(tmp_path / place / f"{place.partition('/')[2]}.sens", frames=1)
    (tmp_path / "scannetv2_test.txt").write_text("scene0707_00\n")
    found = sources.open_scenes(str(tmp_path), "scannet")
    assert [(s.name, s.split) for s in found] == [("scene0000_00", ""), ("scene0707_00", "test")]
    shutil.rmtree(tmp_path / "scans")
    assert find_scans(str(tmp_path)) == found[1:]


def test_the_only_sens_file_in_a_scans_folder_is_that_scan(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = tmp_path / "scans/scene0000_00"
    make_sens(folder / "capture.sens", frames=2)
    (folder / "scene0000_00.txt").write_text("sceneType = Office\n")
    for root in (tmp_path, tmp_path / "scans", folder):
        source = only_scan(root)
        assert (source.name, source.url) == ("scene0000_00", str(folder / "capture.sens"))
        assert str(folder / "scene0000_00.txt") in source.content, "what lies beside it"
        assert [frame.index for frame in read_all(source)] == [0, 1]
    assert not caplog.records


def test_several_sens_files_in_one_folder_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = tmp_path / "scans/scene0000_00"
    for name in ("a", "b"):
        make_sens(folder / f"{name}.sens", frames=1)
    for root in (tmp_path, folder):
        caplog.clear()
        assert find_scans(str(root)) == []
        (line,) = caplog.messages
        assert "scene0000_00 holds several .sens files; left out: a.sens, b.sens" in line
    make_sens(folder / "scene0000_00.sens", frames=1)
    assert only_scan(tmp_path).url == str(folder / "scene0000_00.sens")
    assert "left out: a.sens, b.sens" in caplog.messages[-1]


def test_a_scans_folder_without_content_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "scans/scene0000_00").mkdir(parents=True)
    assert find_scans(str(tmp_path)) == []
    (line,) = caplog.messages
    assert "scene0000_00 holds neither a .sens file nor a color folder" in line


@pytest.mark.parametrize("depth", range(1, 4))
def test_lists_and_label_table_lie_up_to_two_folders_above(tmp_path: Path, depth: int):
    root = tmp_path / "a/b/c/d"  # lists far above are another dataset's
    scan = root / "scans/scene0000_00/scene0000_00.sens"
    make_sens(scan, frames=1)
    (tmp_path / "a/scannetv2_train.txt").write_text("scene0000_00\n")
    assert only_scan(root).split == "", "three above"
    (root / "scannetv2_val.txt").write_text("scene0000_00\n")
    (root / LABEL_TABLE).write_text("id\tnyu40id\n2\t5\n")
    place = (root, root / "scans", scan.parent, scan)[depth]
    source = only_scan(place)
    assert (source.split, source.label_table) == ("val", str(root / LABEL_TABLE))
    if place.is_dir():
        (place / "scannetv2_test.txt").write_text("scene0000_00\n")
        assert (only_scan(place).split, only_scan(place).label_table) == ("test", "")


def test_looking_for_lists_ends_at_the_bucket(monkeypatch: pytest.MonkeyPatch):
    looked: list[str] = []
    monkeypatch.setattr(scannet, "exists", lambda url: looked.append(url))
    monkeypatch.setattr(scannet, "list_names", lambda url: [])
    monkeypatch.setattr(scannet, "subfolders", lambda url: [])
    monkeypatch.setattr(scannet, "list_files", lambda url, suffix: [])
    monkeypatch.setattr(scannet, "read_scannet_splits", lambda url: {})
    assert find_scans("s3://bucket/scans/") == []
    folders = {url.rpartition("/")[0] for url in looked}
    assert folders == {"s3://bucket/scans", "s3://bucket"}

    def forbidden(url: str) -> bool:
        if url.startswith("s3://bucket/scans/"):
            return False
        raise PermissionError("Forbidden")

    monkeypatch.setattr(scannet, "exists", forbidden)
    assert find_scans("s3://bucket/scans") == []
