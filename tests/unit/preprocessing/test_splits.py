"""Official split lists."""

from pathlib import Path

import pytest

from preprocessing.splits import read_scannet_splits, read_splits
from spa3r.errors import FormatError


def test_lists_are_read_where_they_are(tmp_path: Path):
    assert read_scannet_splits(str(tmp_path)) == {}
    (tmp_path / "scannetv2_train.txt").write_text("scene0000_00\r\nscene0000_01\n\n")
    (tmp_path / "scannetv2_val.txt").write_text("scene0011_00")
    assert read_scannet_splits(str(tmp_path)) == {
        "scene0000_00": "train",
        "scene0000_01": "train",
        "scene0011_00": "val",
    }


def test_a_scan_in_two_lists_is_refused(tmp_path: Path):
    (tmp_path / "scannetv2_train.txt").write_text("scene0011_00\n")
    (tmp_path / "scannetv2_val.txt").write_text("scene0011_00\n")
    with pytest.raises(FormatError, match="scene0011_00 is in the train list too"):
        read_scannet_splits(str(tmp_path))


def test_lists_of_ones_own_name_folders_as_they_are(tmp_path: Path):
    assert read_splits(str(tmp_path)) == {}
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("hall\n")
    assert read_splits(str(tmp_path)) == {"hall": "train"}
    lines = "\ufeff# seen in May\r\nmy room\r\n\r\n  Flur Süd  \n#attic\n"
    (tmp_path / "train.txt").write_bytes(lines.encode())
    (tmp_path / "test.txt").write_text("cellar")
    expected = {"my room": "train", "Flur Süd": "train", "cellar": "test"}
    assert read_splits(str(tmp_path)) == expected


def test_a_list_that_is_no_text_or_contradicts_another_is_one_line(tmp_path: Path):
    (tmp_path / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FormatError, match=r"train\.txt: not a text of names"):
        read_splits(str(tmp_path))
    (tmp_path / "train.txt").write_text("my room\n")
    (tmp_path / "val.txt").write_text("my room\n")
    with pytest.raises(FormatError, match=r"val\.txt: scan my room is in the train list too"):
        read_splits(str(tmp_path))


def test_the_official_lists_do_not_overlap(shared: Path):
    folder = shared / "data/scannet/splits"
    lists = {p.stem.split("_")[1]: p.read_text().split() for p in folder.glob("scannetv2_*.txt")}
    if not lists:
        pytest.skip("no split lists in the reference material")
    split_of = read_scannet_splits(str(folder))
    assert len(split_of) == sum(map(len, lists.values()))
    assert all(split_of[name] == split for split, names in lists.items() for name in names)
