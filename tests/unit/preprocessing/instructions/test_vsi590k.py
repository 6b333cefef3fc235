"""VSI-590K's rows: <image> that means a video, types that grow, scenes of nine sources."""

from pathlib import Path

import pytest

from preprocessing.instructions.vsi590k import TYPES, read
from tests.unit.preprocessing.instructions.rows import one_of, talk, write_rows

ASKED = (
    "<image>\nThese are frames of a video.\nWhich is closer?\nOptions:\nA. chair\nB. table\n"
    "Answer with the option's letter from the given choices directly."
)
VIDEO_ROW = {"conversations": talk(ASKED, "B"), "question_type": "relative_distance_object",
             "video": "scannet/scene0191_00.mp4"}  # fmt: skip


def test_image_of_a_video_becomes_video(tmp_path: Path):
    one = one_of(read, tmp_path, VIDEO_ROW)
    assert one.media_kind == "video" and one.media == ("scannet/scene0191_00.mp4",)
    assert one.turns[0].text == "<video>" + ASKED.removeprefix("<image>\n")
    assert one.turns[1].text == "B" and [turn.role for turn in one.turns] == ["user", "assistant"]
    assert (one.dataset, one.scene) == ("scannet", "scene0191_00")
    assert one.question_type in TYPES and one.source == "vsi-590k"


def test_image_of_an_image_stays(tmp_path: Path):
    row = {"conversations": talk("<image>\nHow far is the sofa?", "2.3"),
           "question_type": "absolute_distance_object", "image": "hypersim/ai_001_001/17.jpg",
    }  # fmt: skip
    one = one_of(read, tmp_path, row)
    assert one.media_kind == "images" and one.turns[0].text == "<image>How far is the sofa?"
    assert (one.dataset, one.scene) == ("hypersim", "ai_001_001")


@pytest.mark.parametrize(
    ("video", "dataset", "scene"),
    [
        ("scannetppv2/09c1414f1b.mp4", "scannetpp", "09c1414f1b"),
        ("arkit/41069025.mp4", "arkitscenes", "41069025"),
        ("ytb/Zx91-_k.mp4", "ytb", "Zx91-_k"),
        ("rooms/scene0568_00.mp4", "", "scene0568_00"),  # a stranger's "rooms" is guarded
    ],
)
def test_where_a_question_is_from(tmp_path: Path, video: str, dataset: str, scene: str):
    one = one_of(read, tmp_path, {**VIDEO_ROW, "video": video})
    assert (one.dataset, one.scene) == (dataset, scene)


def test_unknown_types_and_keys_are_kept_and_ids_are_unique(tmp_path: Path):
    rows = [{**VIDEO_ROW, "question_type": "new_in_2027", "extra": {"a": 1}, "id": 7}, VIDEO_ROW]
    items = list(read(write_rows(tmp_path / "rows.jsonl", rows)))
    assert [item.id for item in items] == ["7#1", "row#2"]
    assert items[0].question_type == "new_in_2027"
