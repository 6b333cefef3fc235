"""Instruction sets: what is written is read back, same bytes; what is damaged says so in a line."""

import gc
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spa3r import storage
from spa3r.data import instruction_rows, instruction_sets
from spa3r.data.instruction_sets import MANIFEST, TABLE, read_set, told, write_set
from spa3r.errors import ConfigError, FormatError
from spa3r.instructions import FORMAT, Instruction, Mark
from tests.conversations import conversation, said

MARKED = conversation(
    1, media_kind="images", media=("a.jpg", "b.jpg"), turns=said("<image>A? <image>", "b"),
    marks=(Mark(kind="point", colour="red", image=1, xy=(0.0, 1000.0)),
           Mark(kind="box", colour="green", image=0, xy=(1.5, 2, 3, 4), label="object0")),
)  # fmt: skip
SOME = [
    conversation(0),
    MARKED,
    conversation(2, turns=said("<video>A?", "b", "And?", "ß 椅子 🪑")),
    conversation(3, media_kind="none", media=(), turns=said("2 + 2?", "4"), dataset="", scene=""),
    conversation(4, media_kind="scan", media=("scene0004_00",), dataset="rooms"),
]


def test_round_trip_same_conversations_same_bytes(tmp_path: Path):
    written = write_set(tmp_path / "a" / "set", SOME, source="test", media_root="/media")
    back = read_set(tmp_path / "a" / "set")
    for found in (written, back):
        assert list(found.instructions) == SOME
        assert [found.instructions[i] for i in range(len(SOME))] == SOME
        assert found.instructions[-1] == SOME[-1] and found.instructions[1:3] == SOME[1:3]
        assert found.media_root == "/media" and found.hash == written.hash
    with pytest.raises(IndexError):
        back.instructions[len(SOME)]
    write_set(tmp_path / "b", back.instructions, source="test", media_root="/media")
    for name in (TABLE, MANIFEST):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a/set" / name).read_bytes()


def test_the_manifest_says_what_is_in_it(tmp_path: Path):
    bad = [conversation(0), conversation(9, turns=()), conversation(8, media=()), conversation(0)]
    bad.append(conversation(7, id="half \ud83d"))
    dropped = Counter({"missing_media": 3})
    found = write_set(tmp_path, [*SOME, *bad], source="vsi-590k", dropped=dropped).manifest
    assert found["format"] == FORMAT and found["rows"] == 5 and found["marked"] == 1
    assert found["dropped"] == {"missing_media": 3, "same_id": 2, "no_turns": 1, "media_count": 1,
                                "not_unicode": 1}  # fmt: skip
    assert found["media_kinds"] == {"images": 1, "none": 1, "scan": 1, "video": 2}
    assert found["datasets"] == {"": 1, "made": 3, "rooms": 1}
    assert found["licences"]["rooms"]["name"] == "apache-2.0"
    assert found["licences"]["vsi-590k"]["url"].endswith("VSI-590K")
    assert "\n" not in told(found["dropped"]) and told({}) == "none dropped"


def test_a_home_can_be_moved(tmp_path: Path):
    home = tmp_path / "home"
    (home / "shards" / "rooms").mkdir(parents=True)
    write_set(
        home / "instructions" / "rooms", SOME, source="rooms", media_root=home / "shards/rooms"
    )
    home.rename(tmp_path / "moved")
    found = read_set(tmp_path / "moved" / "instructions" / "rooms")
    assert found.media_root == str(tmp_path / "moved" / "shards" / "rooms")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_media_root_is_absolute_or_beside(
    tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    home = f"{scheme}{tmp_path}/home"
    inside = write_set(f"{home}/sets/a", SOME, source="test", media_root=f"{home}/shards")
    assert inside.manifest["media_root"] == "../../shards"
    assert read_set(f"{home}/sets/a").media_root == str(tmp_path / "home" / "shards")
    outside = write_set("memory://sets/relative", SOME, source="test", media_root="media")
    assert outside.media_root == str(tmp_path / "media")
    other = write_set(f"{home}/sets/b", SOME, source="test", media_root=f"{scheme}{tmp_path}/b")
    assert other.media_root == str(tmp_path / "b")


def test_a_set_anywhere(tmp_path: Path):
    storage.filesystem("memory://")[0].store.clear()
    written = write_set("memory://sets/a", SOME, source="test", media_root="s3://lab/media")
    back = read_set("memory://sets/a")
    assert list(back.instructions) == SOME and back.media_root == "s3://lab/media"
    assert back.hash == write_set(tmp_path / "x", SOME, source="test").hash == written.hash


def test_writing_takes_them_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(instruction_sets, "BLOCK", 100)
    most = {"objects": 0, "arrow": 0}

    def many() -> Iterator[Instruction]:
        for number in range(3000):
            if number % 1000 == 999:
                alive = sum(type(x) is Instruction for x in gc.get_objects())
                most["objects"] = max(most["objects"], alive)
                most["arrow"] = max(most["arrow"], pa.total_allocated_bytes() - before)
            yield conversation(number)

    before = pa.total_allocated_bytes()
    assert write_set(tmp_path, many(), source="test").manifest["rows"] == 3000
    assert most["objects"] < 300 and most["arrow"] < 1 << 20, most


def test_nothing_half_written_and_what_was_there_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken() -> Iterator[Instruction]:
        yield conversation(0)
        raise KeyboardInterrupt

    write_set(tmp_path, SOME, source="test")
    with pytest.raises(KeyboardInterrupt):
        write_set(tmp_path, broken(), source="test")
    with pytest.raises(FormatError, match="no usable conversation"):
        write_set(tmp_path, [], source="test")
    assert sorted(path.name for path in tmp_path.iterdir()) == [TABLE, MANIFEST]
    assert list(read_set(tmp_path).instructions) == SOME

    def killed(url: str, value: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "write_json", killed)  # between the table and its manifest
    with pytest.raises(KeyboardInterrupt):
        write_set(tmp_path, SOME[:2], source="test")
    monkeypatch.undo()
    with pytest.raises(FormatError, match=r"manifest.json: absent.*cut short; make it again"):
        read_set(tmp_path)
    assert list(write_set(tmp_path, SOME, source="test").instructions) == SOME


def test_no_conversation_left(tmp_path: Path):
    with pytest.raises(FormatError, match=r"no usable conversation.*1 no_turns"):
        write_set(tmp_path, [conversation(0, turns=())], source="test")
    assert not (tmp_path / TABLE).exists() and not (tmp_path / MANIFEST).exists()


def test_what_cannot_be_read_is_not_what_cannot_be_written(tmp_path: Path):
    def away() -> Iterator[Instruction]:
        yield conversation(0)
        raise ConnectionResetError("the annotations went away")

    with pytest.raises(ConnectionResetError, match="annotations went away"):
        write_set(tmp_path, away(), source="test")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_set(tmp_path / "file", SOME, source="test")


# --- what is damaged ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"format": "spa3r-instructions-2"},
            "of format 'spa3r-instructions-2', this version reads",
        ),
        ({"format": None}, "of format None"),
        ({"hash": "0"}, "not the file that its manifest names"),
        ({"hash": 7}, "no manifest of instructions"),
        ({"rows": 4}, "not of its table"),
    ],
)
def test_another_manifest(tmp_path: Path, change: dict, match: str):
    write_set(tmp_path, SOME, source="test")
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps(manifest | change))
    with pytest.raises(FormatError, match=f"{match}.*make it again") as caught:
        read_set(tmp_path)
    assert "\n" not in str(caught.value)


def test_another_table(tmp_path: Path):
    write_set(tmp_path, SOME, source="test")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / TABLE)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    for content, match in ((None, "columns"), (b"PAR1 no", "not a readable Parquet file")):
        if content is not None:
            (tmp_path / TABLE).write_bytes(content)
        manifest["hash"] = storage.sha256(tmp_path / TABLE)
        (tmp_path / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(FormatError, match=match):
            read_set(tmp_path)
    (tmp_path / TABLE).unlink()
    with pytest.raises(FormatError, match="absent; make it again"):
        read_set(tmp_path)


def rewritten(folder: Path, changes: dict[str, object]) -> None:
    """Puts other values into the second row of a set, whose manifest goes with them."""
    rows = pq.read_table(folder / TABLE).to_pylist()
    rows[1] |= changes
    pq.write_table(pa.Table.from_pylist(rows, instruction_rows.SCHEMA), folder / TABLE)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["hash"] = storage.sha256(folder / TABLE)
    (folder / MANIFEST).write_text(json.dumps(manifest))


TURN = {"role": "user", "text": "<image>A? <image>"}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"id": None}, "rows without id; make"),
        ({"turns": None, "marks": None}, "rows without turns and marks; make"),
        ({"turns": [None]}, "rows without turns; make"),
        ({"turns": [{"role": "user", "text": None}]}, "rows without turns; make"),
        ({"media": ["a.jpg", None]}, "rows without media; make"),
        ({"turns": [TURN]}, r"row 2: the last question has no answer \(no_answer\)"),
        ({"media_kind": "odd"}, "row 2: media of kind 'odd'"),
        ({"media": ["a.jpg", "a/../../b.jpg"]}, r"row 2: 'a/../../b.jpg' leads out of its root"),
        ({"media": ["a.jpg", "b\0.jpg"]}, "row 2: .* names no file"),
    ],
)
def test_a_table_with_malformed_rows(tmp_path: Path, changes: dict[str, object], match: str):
    """Its hash is the manifest's: whoever made it made both."""
    write_set(tmp_path, SOME, source="test")
    rewritten(tmp_path, changes)
    for use in (list, lambda rows: rows[1]):
        with pytest.raises(FormatError, match=match) as caught:
            use(read_set(tmp_path).instructions)
        assert TABLE in str(caught.value) and "\n" not in str(caught.value)


# --- JSON lines -----------------------------------------------------------------------------------

PLAIN = {"id": "a", "media_kind": "images", "media": ["a.jpg"],
         "turns": [{"role": "user", "text": "<image>A?"}, {"role": "assistant", "text": "b"}],
}  # fmt: skip


def lines(file: Path, *rows: object) -> Path:
    file.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return file


def test_plain_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(instruction_sets, "BLOCK", 2)
    header = {"format": FORMAT, "media_root": "/media"}
    marked = {
        **PLAIN,
        "id": "b",
        "marks": [{"kind": "point", "colour": "red", "image": 0, "xy": [1, 2]}],
    }
    found = read_set(lines(tmp_path / "a.jsonl", header, PLAIN, "", marked, {**PLAIN, "id": "c"}))
    assert [one.id for one in found.instructions] == ["a", "b", "c"]
    assert found.media_root == "/media" and len(found.hash) == 64
    assert found.instructions[1].marks == (Mark(kind="point", colour="red", image=0, xy=(1, 2)),)
    assert read_set(lines(tmp_path / "b.jsonl", PLAIN)).media_root == ""
    assert write_set(tmp_path / "set", found.instructions, source="own").manifest["rows"] == 3


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("{", "not JSON"),
        ("7", "not a JSON object"),
        ({**PLAIN, "medium": "a"}, r"unknown keys \['medium'\]; a row has"),
        ({**PLAIN, "media_kind": "audio"}, "media_kind is 'audio', not one of"),
        ({**PLAIN, "media": "a.jpg"}, "media is missing or no list"),
        (PLAIN, "id 'a' stands on an earlier line too"),
        ({**PLAIN, "id": 7}, "not of the form"),
        ({**PLAIN, "id": None}, "id is missing"),
        ({**PLAIN, "turns": [{"role": "user"}]}, r"turns\.0\.text is missing"),
        ({**PLAIN, "turns": None}, "turns is missing or no list"),
        ({**PLAIN, "turns": []}, "the conversation is empty"),
        ({**PLAIN, "turns": PLAIN["turns"][1:]}, "assistant speaks first"),
        ({**PLAIN, "media": ["a.jpg", "b.jpg"]}, "image_count"),
        ({**PLAIN, "marks": [{"kind": "star", "colour": "red", "image": 0, "xy": [1]}]}, "star"),
        ({**PLAIN, "marks": [{"kind": "point", "colour": "red", "image": 0, "xy": [1, 1001]}]},
         "outside the picture"),
        ({**PLAIN, "marks": [5]}, "not of the form"),
        ({**PLAIN, "media": ["../a.jpg"]}, "leads out of its root"),
        ({**PLAIN, "media": ["a" * 256]}, "names no file"),
        ({**PLAIN, "id": "b", "question_type": "\ud800"}, "not of the form"),
        ({k: v for k, v in PLAIN.items() if k != "turns"}, "turns is missing or no list"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, row: object, match: str):
    file = lines(tmp_path / "a.jsonl", PLAIN, row)
    with pytest.raises(FormatError, match=rf"a\.jsonl, line 2: .*{match}.*correct it") as caught:
        read_set(file)
    assert "\n" not in str(caught.value)


def test_lines_of_another_version_and_no_lines(tmp_path: Path):
    with pytest.raises(FormatError, match=r"line 1: of format 'spa3r-instructions-9'.*make"):
        read_set(lines(tmp_path / "a.jsonl", {"format": "spa3r-instructions-9"}, PLAIN))
    with pytest.raises(FormatError, match="media_root is no text"):
        read_set(lines(tmp_path / "a.jsonl", {"format": FORMAT, "media_root": 7}, PLAIN))
    with pytest.raises(FormatError, match="holds no conversation"):
        read_set(lines(tmp_path / "a.jsonl", {"format": FORMAT}))
    with pytest.raises(FormatError, match="no such file"):
        read_set(tmp_path / "b.jsonl")


def test_one_table_form():
    assert instruction_rows.to_table(SOME).schema.equals(instruction_rows.SCHEMA)
