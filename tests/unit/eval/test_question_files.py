"""Question files as published, and damaged ones."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from spa3r import storage
from spa3r.errors import FormatError, MediaError
from spa3r.eval.question_files import content_hash, read, with_media
from tests.frames_maker import make_frames
from tests.suite_makers import cv_doc, picture, spar_doc, view_doc, vsi_doc, write_jsonl


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_one_suite_in_three_formats(tmp_path: Path) -> None:
    docs = [vsi_doc(n, "route_planning") for n in range(3)]
    lines = write_jsonl(tmp_path / "a" / "test.jsonl", docs)
    listed = tmp_path / "test.json"
    listed.write_text(json.dumps(docs))
    found = [
        read("vsi-bench", where)
        for where in (lines, lines.parent, listed, parquet(tmp_path / "t.parquet", docs))
    ]
    assert all(one == found[0] for one in found)
    assert [q.id for q in found[0]] == ["0", "1", "2"]
    assert found[0][0].media == ("scannet/scene0000_00.mp4",)
    assert found[0][0].prompt == (
        "These are frames of a video.\nHow many chair(s) are in this room?\nOptions:\nA. left\n"
        "B. right\nAnswer with the option's letter from the given choices directly."
    )


def test_the_copy_without_ids_counts(tmp_path: Path) -> None:
    docs = [{k: v for k, v in vsi_doc(n).items() if k != "id"} for n in range(2)]
    assert [q.id for q in read("vsi-bench", write_jsonl(tmp_path / "q.jsonl", docs))] == ["0", "1"]


def test_prompts_of_the_other_suites(tmp_path: Path) -> None:
    (cv,) = read("cv-bench", write_jsonl(tmp_path / "cv.jsonl", [cv_doc(4)]))
    assert cv.prompt == (
        "Note: You only need to respond with A, B, C without providing any additional information."
        "\n\nHow many chairs are in the image? (A) 1 (B) 2 (C) 3"
    )
    assert (cv.id, cv.task, cv.media) == ("2D-4", "Count", ("img/4.jpg",))
    (view,) = read("view-spatial", write_jsonl(tmp_path / "v.jsonl", [view_doc(7)]))
    assert view.prompt == (
        "Question: Where is the door?\nChoices: A. left\nB. right\n"
        "Reply only to the corresponding option.\nAnswer:"
    )
    assert (view.scene, len(view.media)) == ("scene0007_00", 2)
    spar = read(
        "spar-bench",
        write_jsonl(tmp_path / "s.jsonl", [spar_doc(1), spar_doc(1, "position_matching")]),
    )
    assert [q.id for q in spar] == ["depth_prediction_oc-1", "position_matching-1"]
    assert "0-1000 scale" in spar[1].prompt


def test_images_inside_the_question_file(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(content, "PNG")
    image = {"bytes": content.getvalue(), "path": "scene0001_00_1.png"}
    row = {**spar_doc(1), "image": [image, image]}
    file = parquet(tmp_path / "spar.parquet", [row])
    (question,) = read("spar-bench", file, unpack=tmp_path / "media")
    assert len(question.media) == 2
    assert question.scene == "scene0001_00"
    assert (tmp_path / "media" / question.media[0]).read_bytes() == content.getvalue()
    assert with_media([question], tmp_path / "media") == [question]
    both = parquet(tmp_path / "cv.parquet", [{**cv_doc(1), "image": image}])
    (named,) = read("cv-bench", both)
    assert named.media == ("img/1.jpg",)


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("vsi-bench", vsi_doc(0, question_type="object_colour"), "unknown task 'object_colour'"),
    ("vsi-bench", vsi_doc(0, question=None), "no question; this is no question of vsi-bench"),
    ("vsi-bench", vsi_doc(0, ground_truth="many"), "ground_truth 'many' is no number"),
    ("vsi-bench", vsi_doc(0, "route_planning", options=None), "no options to choose from"),
    ("vsi-bench", vsi_doc(0, "route_planning", options=[1, 2]), "no options to choose from"),
    ("cv-bench", cv_doc(0, source="LVIS"), "unknown task|unknown source 'LVIS'"),
    ("cv-bench", cv_doc(0, choices=7), "malformed question"),
    ("view-spatial", view_doc(0, image_path="a.jpg"), "image_path is no list of images"),
    ("view-spatial", view_doc(0, answer="right"), "answer 'right' names no option"),
    ("spar-bench", spar_doc(0, answer="near"), "answer 'near' is no number"),
    ("spar-bench", spar_doc(0, "view_change_infer", answer="right"), "no list of motions"),
    ("spar-bench", spar_doc(0, image=[]), "image is no list of images"),
    # What would else be told when every answer is there, or never:
    ("vsi-bench", vsi_doc(0, options=5), "malformed question"),
    ("vsi-bench", vsi_doc(0, question="\ud800"), "surrogates not allowed"),
    ("vsi-bench", vsi_doc(0, scene_name="../../x"), "'scannet/../../x.mp4' leads out of the media"),
    ("cv-bench", cv_doc(0, answer=5), "malformed question"),
    ("cv-bench", cv_doc(0, filename="/etc/passwd"), "leads out of the media's root"),
    ("cv-bench", cv_doc(0, filename=[5]), "malformed question"),
    ("cv-bench", cv_doc(0, filename="."), "'.' names no file"),
    ("view-spatial", view_doc(0, choices=["A. left", "B. right"]), "malformed question"),
    ("spar-bench", spar_doc(0, "position_matching", answer=2), "malformed question"),
    ("spar-bench", spar_doc(0, answer=2.0), "malformed question"),
]  # fmt: skip


@pytest.mark.parametrize(("suite", "doc", "told"), BROKEN)
def test_a_malformed_question_is_one_line(
    tmp_path: Path, suite: str, doc: dict[str, Any], told: str
) -> None:
    file = write_jsonl(tmp_path / "q.jsonl", [doc])
    with pytest.raises(FormatError, match=told) as error:
        read(suite, file)
    assert f"{file}, row 1: " in str(error.value)
    assert "\n" not in str(error.value)


def test_an_id_that_came_before(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "q.jsonl", [vsi_doc(3), vsi_doc(4), vsi_doc(3)])
    with pytest.raises(FormatError, match=r"row 3: id '3' came before \(.*row 1\)"):
        read("vsi-bench", file)
    with pytest.raises(FormatError, match="came before"):
        read("vsi-bench", [one := write_jsonl(tmp_path / "r.jsonl", [vsi_doc(3)]), one])


def test_what_is_no_question_file(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such question file"):
        read("vsi-bench", tmp_path / "absent.jsonl")
    with pytest.raises(FormatError, match="0 question files"):
        read("vsi-bench", tmp_path)
    (broken := tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(FormatError, match="not a whole Parquet file"):
        read("vsi-bench", broken)
    (text := tmp_path / "text.jsonl").write_text("once upon a time\n")
    with pytest.raises(FormatError, match="row 1: not JSON"):
        read("vsi-bench", text)
    (empty := tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(FormatError, match="no questions in it"):
        read("vsi-bench", empty)


def test_a_missing_image_is_named_before_anything_is_asked(tmp_path: Path) -> None:
    asked = read("cv-bench", write_jsonl(tmp_path / "q.jsonl", [cv_doc(n) for n in range(3)]))
    picture(tmp_path / "media" / "img" / "0.jpg", 0)
    with pytest.raises(MediaError, match=r"img/1.jpg: missing, .*2 of 3 media") as error:
        with_media(asked, tmp_path / "media")
    assert error.value.reason == "missing_media"
    assert "\n" not in str(error.value)


def test_questions_and_media_behind_a_url(tmp_path: Path) -> None:
    docs = [cv_doc(n) for n in range(2)]
    storage.write_bytes("memory://cv/q.jsonl", write_jsonl(tmp_path / "q", docs).read_bytes())
    for doc in docs:
        storage.write_bytes(f"memory://cv/media/{doc['filename']}", b"a picture")
    asked = read("cv-bench", "memory://cv/q.jsonl")
    assert with_media(asked, "memory://cv/media") == asked
    (tmp_path / "same.jsonl").write_bytes((tmp_path / "q").read_bytes())
    assert content_hash("memory://cv/q.jsonl") == content_hash(tmp_path / "same.jsonl")


def test_a_video_may_be_a_folder_of_frames_or_a_scan(tmp_path: Path) -> None:
    asked = read("vsi-bench", write_jsonl(tmp_path / "q.jsonl", [vsi_doc(0)]))
    picture(tmp_path / "frames" / "scannet" / "scene0000_00" / "1.jpg", 0)
    (found,) = with_media(asked, tmp_path / "frames")
    assert (found.media_kind, found.media) == ("video", ("scannet/scene0000_00",))
    make_frames(tmp_path / "shards", {"scene0000_00": 2})
    (scan,) = with_media(asked, tmp_path / "shards")
    assert (scan.media_kind, scan.media) == ("scan", ("scene0000_00",))
    more = read("vsi-bench", write_jsonl(tmp_path / "r.jsonl", [vsi_doc(0), vsi_doc(1)]))
    with pytest.raises(MediaError, match=r"scene0001_00.mp4: missing, 1 questions are about it"):
        with_media(more, tmp_path / "shards")


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    one = write_jsonl(tmp_path / "a.jsonl", [vsi_doc(0)])
    two = write_jsonl(tmp_path / "b.jsonl", [vsi_doc(0)])
    assert content_hash(one) == content_hash([two])
    assert content_hash(one) != content_hash(write_jsonl(tmp_path / "c.jsonl", [vsi_doc(1)]))
