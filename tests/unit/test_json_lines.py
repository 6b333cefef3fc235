"""JSON files of rows: lines and lists give the same, whatever the pieces they are read in."""

import json
from pathlib import Path

import pytest

from spa3r import json_lines
from spa3r.errors import FormatError
from spa3r.json_lines import numbered_rows

ROWS = [{"a": i, "text": '],[ "}{ ' + "é椅🪑" * (i % 7)} for i in range(40)]


@pytest.mark.parametrize("piece", [1, 3, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, indent: int | None
):
    file = tmp_path / "a.json"
    text = json.dumps(ROWS, indent=indent, ensure_ascii=False)
    file.write_text("\ufeff" + text + "\n \n", encoding="utf-8")
    is_list = file.read_bytes()
    monkeypatch.setattr(json_lines, "_PIECE", max(piece, 4))  # the mark and the bracket in one
    assert is_list and [row for _, row in numbered_rows(str(file))] == ROWS
    assert [place for place, _ in numbered_rows(str(file))] == list(range(1, 41))


def test_lines(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": \xff}\n[1]\n' + b"[" * 100_000 + b"\n{}")
    found = list(numbered_rows(str(file)))
    assert [number for number, _ in found] == [1, 3, 4, 5, 6]
    assert found[0][1] == {"a": 1} and found[4][1] == {}
    for _, wrong in found[1:4]:
        assert isinstance(wrong, ValueError) and "\n" not in str(wrong)


@pytest.mark.parametrize("content", [b"[]", b" \n[ ]\n", b""])
def test_nothing_in_it(tmp_path: Path, content: bytes):
    (tmp_path / "a").write_bytes(content)
    assert list(numbered_rows(str(tmp_path / "a"))) == []


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'[{"a": 1}, {"a": ', "row 2 is not JSON"),
        (b'[{"a": 1}', "',' is missing before its end"),
        (b'[{"a": 1} {"a": 2}]', "',' is missing before '{'"),
        (b"[", "row 1 is not JSON"),
        (b'[{"a": "\xff"}]', "not UTF-8"),
        (b"[" * 100_000, "row 1 is not JSON"),
        (b'[{"a": 1}]\n[{"a": 2}]', r"'\[' follows its end"),
    ],
)
def test_a_damaged_list(tmp_path: Path, content: bytes, match: str):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FormatError, match=f"{match}.*download it again") as caught:
        list(numbered_rows(str(tmp_path / "a")))
    assert "\n" not in str(caught.value)


def test_rows_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_lines, "MAX_ROW", 1000)
    monkeypatch.setattr(json_lines, "_PIECE", 64)
    (tmp_path / "a").write_bytes(b'{"a": "' + b"x" * 5000)
    with pytest.raises(FormatError, match="line 1: longer than"):
        list(numbered_rows(str(tmp_path / "a")))
    (tmp_path / "a").write_bytes(b'[{"a": "' + b"x" * 1000 + b'"}]')
    with pytest.raises(FormatError, match="row 1 is longer than"):
        list(numbered_rows(str(tmp_path / "a")))
    (tmp_path / "a").write_bytes(b'[{"a": "' + b"x" * 5000)
    with pytest.raises(FormatError, match="row 1 is not JSON"):
        list(numbered_rows(str(tmp_path / "a")))
