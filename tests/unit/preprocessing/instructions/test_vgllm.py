"""The list format of VG-LLM and Spa3R: lists and lines, all kinds of media, name%10."""

from pathlib import Path

import pytest

from preprocessing.instructions.common import Drop
from preprocessing.instructions.vgllm import NOT_SAMPLED, read
from spa3r.errors import ConfigError, FormatError
from spa3r.instructions import Instruction
from tests.unit.preprocessing.instructions.rows import drop_of, one_of, talk, write_rows


def row(text: str, **more: object) -> dict[str, object]:
    return {"id": "a", "conversations": talk(text, "yes"), "data_source": "spar", **more}


@pytest.mark.parametrize(
    ("given", "kind", "media", "text"),
    [
        (row("<image>\n<image>\nSame?", images=["a", "b"]), "images", 2, "<image><image>Same?"),
        (row("<video>\nSame?", images=["a.jpg", "b.jpg"]), "images", 2, "<image><image>Same?"),
        (row("A <image> B <image>?", images=["a", "b"]), "images", 2, "A <image> B <image>?"),
        (row("<image>\nWhat?", image="a.jpg"), "images", 1, "<image>What?"),
        (row("<image>\nWhat?", image=["./a.jpg"]), "images", 1, "<image>What?"),
        (row("What?", image="a.jpg"), "images", 1, "<image>What?"),
        (row("<video>\nWhat?", video="v/a.mp4"), "video", 1, "<video>What?"),
        (row("<video>\nWhat?", video="frames/a/"), "video", 1, "<video>What?"),
        (row("<image>\n<image>\nWhat?", video=["v/a.mp4"]), "video", 1, "<video>What?"),
        (row("What?", video="v/a.mp4"), "video", 1, "<video>What?"),
        (row("What is 2 + 2?"), "none", 0, "What is 2 + 2?"),
    ],
)  # fmt: skip
def test_media_and_markers(tmp_path: Path, given: dict, kind: str, media: int, text: str):
    one = one_of(read, tmp_path, given)
    assert one.media_kind == kind and len(one.media) == media and one.turns[0].text == text
    assert not any(path.startswith("./") or path.endswith("/") for path in one.media)


def test_several_turns_and_openai_keys(tmp_path: Path):
    said = [{"role": "user", "content": "<image>\nA?"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "And?"}, {"role": "assistant", "content": "c"}]  # fmt: skip
    one = one_of(read, tmp_path, {"conversations": said, "image": "a.jpg"})
    assert [turn.text for turn in one.turns] == ["<image>A?", "b", "And?", "c"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (row("<image>", images="a.jpg", video="b.mp4"), "malformed_media"),
        (row("?", images=[1]), "malformed_media"),
        (row("?", images={"a": 1}), "malformed_media"),
        (row("?", video=["a.mp4", "b.mp4"]), "malformed_media"),
        (row("?", images=["../../etc/passwd"]), "media_outside_root"),
        (row("<image><image><image>?", images=["a", "b"]), "image_count"),
        (row("<image>?", images=["a", "b"]), "image_count"),
        (row("<video><video>?", video="a.mp4"), "image_count"),
        (row("<image>?"), "image_count"),
        ({**row("?"), "conversations": talk("?", "yes", first="gpt")}, "assistant_first"),
        ({**row("?"), "conversations": []}, "no_turns"),
        ({**row("?"), "conversations": talk("?")}, "no_answer"),
        ({**row("?"), "conversations": talk("?", "a", "?")}, "no_answer"),
        ({**row("?"), "conversations": talk("?") + talk("?", "a")}, "turns_not_alternating"),
        ({**row("?"), "conversations": {"from": "human"}}, "not_a_conversation"),
        ({**row("?"), "conversations": ["hello"]}, "not_a_conversation"),
        ({"image": "a.jpg"}, "not_a_conversation"),
        (row(" \n"), "empty_text"),
        (row("<image>\n", image="a.jpg"), "empty_text"),
        ({**row("?"), "conversations": [{"from": "human", "value": None}]}, "empty_text"),
        ({**row("?"), "conversations": [{"from": "narrator", "value": "?"}]}, "unknown_role"),
        ({**row("?"), "conversations": [{"from": ["human"], "value": "?"}]}, "unknown_role"),
        ({**row("?"), "conversations": talk("?", "<image>")}, "empty_text"),
        ({**row("?"), "conversations": talk("?", "see <image>")}, "marker_in_answer"),
        (row("now <|im_end|> obey"), "special_token"),
        (row("half a \ud83d smile"), "not_unicode"),
        ({**row("?"), "id": [1]}, "malformed_row"),
        (7, "malformed_row"),
    ],
)
def test_what_is_left_out_and_why(tmp_path: Path, given: object, reason: str):
    assert drop_of(read, tmp_path, given).reason == reason


def test_a_list_and_lines_hold_the_same(tmp_path: Path):
    rows = [row(f"<image>\nWhat is {i}?", image=f"{i}.jpg") for i in range(30)] + [7]
    listed = list(read(write_rows(tmp_path / "a.json", rows)))
    assert listed == list(read(write_rows(tmp_path / "a.jsonl", rows)))
    assert len(listed) == 31 and isinstance(listed[30], Drop)


def test_a_cut_list_is_one_error_and_a_cut_line_is_a_drop(tmp_path: Path):
    rows = [row(f"What is {i}?") for i in range(3)]
    for name in ("a.json", "a.jsonl"):
        text = Path(write_rows(tmp_path / name, rows)).read_text()
        (tmp_path / name).write_text(text[:-20])
    items = list(read(str(tmp_path / "a.jsonl")))
    assert isinstance(items[2], Drop) and items[2].reason == "malformed_row"
    with pytest.raises(FormatError, match=r"a\.json: not a whole JSON list.*download it again"):
        list(read(str(tmp_path / "a.json")))


def test_percent_takes_its_share_evenly_and_the_same_each_time(tmp_path: Path):
    file = write_rows(tmp_path / "a.jsonl", [row(f"What is {i}?") for i in range(1000)])
    items = list(read(f"{file}%10"))
    taken = [i for i, item in enumerate(items) if isinstance(item, Instruction)]
    assert [sum(t // 100 == block for t in taken) for block in range(10)] == [10] * 10
    assert {item.reason for item in items if isinstance(item, Drop)} == {NOT_SAMPLED}
    assert list(read(f"{file}%10")) == items
    assert len({t % 100 for t in taken}) > 30  # not every tenth: rows may repeat a pattern
    assert all(isinstance(item, Instruction) for item in read(f"{file}%100"))
    for share in ("0", "101"):
        with pytest.raises(ConfigError, match="1 to 100"):
            list(read(f"{file}%{share}"))


def test_markers_of_spar_info(tmp_path: Path):
    info = '{"red_bbox": [[10, 20, 30, 40]], "type": "position_matching"}'
    given = row("<image><image>?", images=["a.jpg", "b.jpg"], spar_info=info)
    one = one_of(read, tmp_path, given)
    assert one.source == "vg-llm" and [mark.image for mark in one.marks] == [0]
