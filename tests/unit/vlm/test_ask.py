"""Questions from a file of JSON lines: good ones, bad ones, interrupted runs."""

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest

from spa3r.errors import ConfigError, TeacherError
from spa3r.vlm import ask
from spa3r.vlm.ask import LineError, answer_file, parse
from spa3r.vlm.spa3_vlm import Spa3VLM
from tests.scan_arrays import scan_arrays
from tests.tiny_vlm import tiny_config, tiny_vlm
from tests.untrained import untrained_photographer
from tests.video_maker import make_video

QUESTION = "How many chairs?"


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Spa3VLM:
    """For photos: its encoder is taught by a small VGGT."""
    encoder = untrained_photographer(tmp_path_factory.mktemp("vggt"))
    return tiny_vlm(encoder=encoder, config=tiny_config(image_width=84, max_frames=3), stir=True)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    for i, image in enumerate(scan_arrays(views=4, width=112, height=84)["images"]):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), image)
    return tmp_path


def write(here: Path, *rows: dict[str, Any] | str) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (here / "questions.jsonl").write_text(text + "\n\n")
    return here / "questions.jsonl"


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def about(i: str, *images: str, **more: Any) -> dict[str, Any]:
    return {"id": i, "images": list(images), "question": QUESTION, **more}


def test_good_lines_are_answered_in_their_order(vlm: Spa3VLM, here: Path):
    source = write(here, about("a", "0.jpg"), about("b", "1.jpg", "2.jpg", "3.jpg"),
                   about("c", str(here / "0.jpg")))  # fmt: skip
    outcome = answer_file(vlm, source, here / "out.jsonl", max_new_tokens=4, batch_size=2)
    rows = rows_of(here / "out.jsonl")
    assert [row["id"] for row in rows] == ["a", "b", "c"] and outcome.answered == 3
    assert outcome.line == "3 questions answered"
    assert rows[1]["frames"] == ["1.jpg", "2.jpg", "3.jpg"]
    assert set(rows[0]) == {"id", "answer", "seconds", "frames"} and rows[0]["seconds"] > 0
    alone = vlm.ask(here / "0.jpg", QUESTION, max_new_tokens=4).text
    assert rows[0]["answer"] == rows[2]["answer"] == alone
    assert not (here / "out.jsonl.parts").exists()


def test_bad_lines_are_answered_with_what_is_wrong_and_counted(vlm: Spa3VLM, here: Path):
    (here / "damaged.jpg").write_text("no image")
    source = write(
        here,
        about("good", "0.jpg"),
        about("missing", "none.jpg"),
        "not json at all {",
        '["a", "list"]',
        {"id": "silent", "images": ["0.jpg"]},
        about("key", "0.jpg", answer="4"),
        {"id": "media", "question": QUESTION},
        about("both", "0.jpg", video="a.mp4"),
        about("empty"),
        {"id": "text", "images": "0.jpg", "question": QUESTION},
        about("index", "0.jpg", question="<image>is left of<image>?"),
        about("damaged", "damaged.jpg"),
        about("long", "0.jpg", question="chair " * 16_667),
        {"id": 7, "images": ["1.jpg"], "question": QUESTION},
        {"id": True, "images": ["1.jpg"], "question": QUESTION},
        {"id": "scan", "scan": "nothing", "question": QUESTION},
        '{"id": "cut", "images": ["0.jpg"], "question": "Ho',
        about("half \ud800", "0.jpg"),
        about("last", "0.jpg"),
    )
    source.write_bytes(codecs.BOM_UTF8 + source.read_bytes() + b'{"id": "latin \xe9"}')
    outcome = answer_file(vlm, source, here / "out.jsonl", max_new_tokens=2)
    rows = rows_of(here / "out.jsonl")
    assert [row["id"] for row in rows if "answer" in row] == ["good", "7", "last"]
    bad = {row["line"]: (row["reason"], row["error"]) for row in rows if "error" in row}
    said = {
        2: ("missing_media", "none.jpg"),
        3: ("not_json", "not JSON"),
        4: ("not_json", "a JSON list"),
        5: ("no_question", "no question"),
        6: ("unknown_key", "['answer']"),
        7: ("no_media", "nothing to look at"),
        8: ("no_media", "['images', 'video']"),
        9: ("no_media", '"images" must be a list'),
        10: ("no_media", '"images" must be a list'),
        11: ("cannot_be_asked", "2 x <image> and 0 x <video>, but 1 images"),
        12: ("damaged_media", "damaged.jpg"),
        13: ("cannot_be_asked", "tokens"),
        15: ("bad_id", '"id"'),
        16: ("missing_media", "no scene of frame shards"),
        17: ("not_json", "not JSON"),
        18: ("not_json", "surrogates not allowed"),
        21: ("not_json", "can't decode byte 0xe9"),
    }
    assert {line: reason for line, (reason, _) in bad.items()} == {
        line: reason for line, (reason, _) in said.items()
    }
    for line, (_, part) in said.items():
        assert part in bad[line][1] and "\n" not in bad[line][1]
    assert len(rows) == 20 and outcome.answered == 3 and outcome.errors.total() == 17
    assert rows[1]["id"] == "missing" and rows[2]["id"] is None
    assert "17 not: 1 bad_id, 2 cannot_be_asked, 1 damaged_media, 2 missing_media" in outcome.line


def test_a_video_is_looked_at_in_frames(vlm: Spa3VLM, here: Path):
    (here / "v.mp4").write_bytes(make_video(8, container="mp4", size=(112, 84)))
    source = write(here, {"id": "v", "video": "v.mp4", "question": QUESTION},
                   {"id": "w", "video": "none.mp4", "question": QUESTION})  # fmt: skip
    outcome = answer_file(vlm, source, here / "out.jsonl", max_new_tokens=2)
    first, second = rows_of(here / "out.jsonl")
    assert first["frames"][::2] == ["frame-000000", "frame-000007"] and len(first["frames"]) == 3
    assert second["reason"] == "missing_media" and outcome.errors.total() == 1


def test_an_interrupted_run_goes_on_where_it_stopped(
    vlm: Spa3VLM, here: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ask, "BLOCK", 2)
    source = write(here, *(about(str(i), f"{i % 4}.jpg") for i in range(7)))
    out = here / "out.jsonl"
    asked: list[int] = []

    def counting(stop: int | None) -> Callable[..., Any]:
        real = Spa3VLM.answer_many

        def answer_many(self: Spa3VLM, requests: Any, **options: Any) -> Any:
            if stop is not None and len(asked) == stop:
                raise KeyboardInterrupt
            asked.append(len(requests))
            return real(self, requests, **options)

        return answer_many

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Spa3VLM, "answer_many", counting(2))
        answer_file(vlm, source, out, max_new_tokens=3)
    assert not out.exists() and asked == [2, 2]  # nothing half-written has the final name
    kept = sorted((here / "out.jsonl.parts").rglob("*.jsonl"))
    assert len(kept) == 2
    asked.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spa3VLM, "answer_many", counting(None))
        assert answer_file(vlm, source, out, max_new_tokens=3).answered == 7
    assert asked == [2, 1]
    whole = rows_of(out)
    assert [row["id"] for row in whole] == [str(i) for i in range(7)]
    answer_file(vlm, source, here / "again.jsonl", max_new_tokens=3)
    for a, b in zip(whole, rows_of(here / "again.jsonl"), strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_the_questions_are_not_written_over(vlm: Spa3VLM, here: Path):
    source = write(here, about("a", "0.jpg"))
    with pytest.raises(ConfigError, match="holds the questions; name another file"):
        answer_file(vlm, source, here / "." / source.name, max_new_tokens=2)
    assert "How many" in source.read_text()


def test_blocks_of_another_file_are_not_taken(
    vlm: Spa3VLM, here: Path, monkeypatch: pytest.MonkeyPatch
):
    source = write(here, about("a", "0.jpg"))

    def killed(*_: object) -> None:
        raise RuntimeError("killed before the blocks are put together")

    monkeypatch.setattr(ask, "_put_together", killed)
    with pytest.raises(RuntimeError, match="killed"):
        answer_file(vlm, source, here / "out.jsonl", max_new_tokens=2)
    monkeypatch.undo()
    (elsewhere := here / "elsewhere").mkdir()  # the very same lines, about another 0.jpg
    answer_file(vlm, source.rename(elsewhere / "q.jsonl"), here / "out.jsonl", max_new_tokens=2)
    assert rows_of(here / "out.jsonl")[0]["reason"] == "missing_media"
    source = write(here, about("b", "0.jpg"))
    answer_file(vlm, source, here / "out.jsonl", max_new_tokens=2)
    assert [row["id"] for row in rows_of(here / "out.jsonl")] == ["b"]


def test_one_scene_is_encoded_once_for_questions_in_a_row(
    vlm: Spa3VLM, here: Path, monkeypatch: pytest.MonkeyPatch
):
    assert vlm.geometry is not None
    real, count = vlm.geometry.of, []
    monkeypatch.setattr(vlm.geometry, "of", lambda *a: (count.append(1), real(*a))[1])
    same = [about(str(i), "0.jpg", "1.jpg") for i in range(3)]
    source = write(here, *same, about("x", "2.jpg"))
    answer_file(vlm, source, here / "out.jsonl", max_new_tokens=2)
    assert len(count) == 2


def test_a_url(vlm: Spa3VLM, here: Path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/ask/q.jsonl", json.dumps(about("a", "p.jpg")).encode())
    memory.pipe_file("/ask/p.jpg", (here / "0.jpg").read_bytes())
    answer_file(vlm, "memory://ask/q.jsonl", "memory://ask/out.jsonl", max_new_tokens=2)
    assert json.loads(memory.cat_file("/ask/out.jsonl"))["frames"] == ["p.jpg"]
    assert not memory.exists("/ask/out.jsonl.parts")


def test_photos_for_an_encoder_that_needs_depth(here: Path):
    source = write(here, about("a", "0.jpg"))
    outcome = answer_file(tiny_vlm(), source, here / "out.jsonl", max_new_tokens=2)
    assert dict(outcome.errors) == {"no_depth": 1}
    assert "photos without depth need a VGGT-taught" in rows_of(here / "out.jsonl")[0]["error"]


def test_what_concerns_every_line_stops_the_run(
    vlm: Spa3VLM, here: Path, monkeypatch: pytest.MonkeyPatch
):
    source = write(here, about("a", "0.jpg"))
    with pytest.raises(ConfigError, match=r"none\.jsonl: cannot be read"):
        answer_file(vlm, here / "none.jsonl", here / "out.jsonl", max_new_tokens=2)
    with pytest.raises(ConfigError, match="cannot be written"):
        answer_file(vlm, source, here, max_new_tokens=2)

    def gone(*_: object) -> None:
        raise TeacherError("the teacher of this encoder cannot be had")

    monkeypatch.setattr(vlm.geometry, "of", gone)
    with pytest.raises(TeacherError, match="cannot be had"):
        answer_file(vlm, source, here / "out.jsonl", max_new_tokens=2)


def test_an_empty_file_is_an_empty_answer(vlm: Spa3VLM, here: Path):
    assert answer_file(vlm, write(here), here / "out.jsonl", max_new_tokens=2).answered == 0
    assert (here / "out.jsonl").read_text() == ""


@pytest.mark.parametrize("text", ["[" * 100_000, '{"id": 1e999}', "null", '"\\ud800"'])
def test_hostile_json_is_a_line_error(text: str):
    with pytest.raises(LineError):
        parse(text.encode())
