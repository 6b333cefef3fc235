"""SPAR's markers: which colour is on which image, by task; what does not fit is dropped."""

import json
from pathlib import Path
from typing import Any

import pytest

from preprocessing.instructions.spar import read
from preprocessing.instructions.spar_marks import TASKS, marks_of
from tests.unit.preprocessing.instructions.rows import drop_of, one_of, talk

POINTS = {"red_point": [[395, 89]], "blue_point": [[494, 620]], "green_point": [[878, 737]]}
BOXES = {f"{colour}_bbox": [[10 * i, 20, 500, 600]]
         for i, colour in enumerate(("red", "blue", "green", "yellow"))}  # fmt: skip

TWO = {**POINTS, "type": "distance_prediction_oo_mv"}


def row(info: Any, images: int = 3) -> dict[str, Any]:
    paths = [f"spar/scannet/images/scene0012_01/image_color/{i}.jpg" for i in range(images)]
    text = "<image>\n" * images + "How much deeper is the chair (green point)?"
    return {"id": "scene0012_01_1661", "conversations": talk(text, "1.5"), "images": paths,
            "spar_info": info if isinstance(info, str) else json.dumps(info)}  # fmt: skip


def test_a_published_row(tmp_path: Path):
    info = {**POINTS, "point_img_idx": [[0, 2, 1]], "type": "depth_prediction_oo_mv"}
    one = one_of(read, tmp_path, row(info))
    assert [(m.kind, m.colour, m.image, m.xy) for m in one.marks] == [
        ("point", "red", 0, (395, 89)), ("point", "blue", 2, (494, 620)),
        ("point", "green", 1, (878, 737)),
    ]  # fmt: skip
    assert one.question_type == "depth_prediction_oo_mv"
    assert (one.dataset, one.scene) == ("scannet", "scene0012_01")
    assert one.turns[0].text.startswith("<image><image><image>How")


def test_spar_7m_has_the_annotation_in_the_row(tmp_path: Path):
    given = row("") | POINTS | {"point_img_idx": [[2, 1]], "type": "distance_prediction_oo_mv"}
    del given["spar_info"]
    one = one_of(read, tmp_path, given)
    assert [(m.colour, m.image) for m in one.marks] == [("red", 2), ("blue", 1)]


@pytest.mark.parametrize(
    ("task", "info", "drawn"),
    [
        # The order of the image numbers differs from task to task.
        ("distance_infer_center_oo_mv", POINTS | {"point_img_idx": [[5, 6, 7]]},
         [("red", 5), ("green", 6), ("blue", 7)]),
        ("spatial_imagination_oc_mv", BOXES | {"bbox_img_idx": [[5, 6, 7]]},
         [("green", 5), ("blue", 6), ("red", 7)]),
        ("spatial_imagination_oo_mv", BOXES | {"bbox_img_idx": [[5, 6, 7, 8]]},
         [("green", 5), ("blue", 6), ("red", 7), ("yellow", 8)]),
        ("obj_spatial_relation_oc_mv", BOXES | {"bbox_img_idx": [[4]]},
         [("red", 4), ("blue", 4), ("green", 4)]),
        ("obj_spatial_relation_oo_mv",
         {"blue_bbox": BOXES["blue_bbox"], "green_bbox": BOXES["green_bbox"], "red_bbox": None,
          "bbox_img_idx": [[1, 2]]}, [("blue", 1), ("green", 2)]),
        ("position_matching", BOXES, [("red", 0)]),
        ("obj_frame_locate", BOXES | {"bbox_img_idx": [[3]]}, [("red", 3)]),
        ("depth_prediction_oc", POINTS, [("red", 0), ("blue", 0)]),
        ("spatial_imagination_oo", BOXES, [("red", 0), ("blue", 0), ("green", 0), ("yellow", 0)]),
        ("camera_motion_infer", BOXES, []),
        ("view_change_infer", {}, []),
    ],
)  # fmt: skip
def test_colours_and_images_by_task(task: str, info: dict, drawn: list):
    marks = marks_of({**info, "type": task})
    assert [(mark.colour, mark.image) for mark in marks] == drawn
    assert all(mark.label == "" for mark in marks)


def test_labelled_markers():
    listed = {"bbox_list": [[[1, 2, 3, 4], [5, 6, 7, 8]]], "bbox_img_idx": [[1, 0]]}
    marks = marks_of({**listed, "type": "spatial_imagination_map_mv"})
    assert [(m.kind, m.label, m.image, m.xy) for m in marks] == [
        ("box", "object0", 1, (1, 2, 3, 4)), ("box", "object1", 0, (5, 6, 7, 8)),
    ]  # fmt: skip
    points = {"point_list": [[[1, 2], [3, 4], [5, 6]]], "point_img_idx": [[0, 1, 2]]}
    marks = marks_of({**points, "type": "distance_infer_center_oo_video"})
    assert [m.label for m in marks] == ["objectA", "object0", "object1"]
    video = {**BOXES, "bbox_img_idx": [[0, 1, 2]], "type": "spatial_imagination_oc_video"}
    assert [(m.colour, m.label) for m in marks_of(video)] == [
        ("green", "object0"), ("blue", "object1"), ("red", "object2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"type": "depth_prediction_of_dreams"}, "unknown_task"),
        ({"type": ["depth_prediction_oc"]}, "unknown_task"),
        ({}, "unknown_task"),
        ("{not json", "malformed_marker"),
        ("[1]", "malformed_marker"),
        ({"type": "depth_prediction_oc", "red_point": [[1, 2]]}, "malformed_marker"),
        ({"type": "distance_prediction_oc", "red_point": [[1, 2, 3]]}, "malformed_marker"),
        ({"type": "distance_prediction_oc", "red_point": [["1", 2]]}, "malformed_marker"),
        ({"type": "distance_prediction_oc", "red_point": [[float("nan"), 2]]}, "malformed_marker"),
        ({"type": "distance_prediction_oc", "red_point": [[10**400, 2]]}, "malformed_marker"),
        ({"type": "distance_prediction_oc", "red_point": [1, 2]}, "malformed_marker"),
        ({"type": "spatial_volume_infer", "red_bbox": [[9, 9, 1, 1]]}, "malformed_marker"),
        ({"type": "distance_prediction_oc", "red_point": [[1001, 2]]}, "marker_outside"),
        ({"type": "distance_prediction_oc", "red_point": [[5, -1]]}, "marker_outside"),
        ({"type": "spatial_volume_infer", "red_bbox": [[0, 0, 1000, 1200]]}, "marker_outside"),
        (TWO, "malformed_marker"),
        ({**TWO, "point_img_idx": [[0]]}, "malformed_marker"),
        ({**TWO, "point_img_idx": [[0, 3]]}, "marker_image"),
        ({**TWO, "point_img_idx": [[0, True]]}, "malformed_marker"),
        ({"type": "obj_spatial_relation_oo_mv", "bbox_img_idx": [[0, 1]]}, "malformed_marker"),
    ],
)  # fmt: skip
def test_what_is_left_out_and_why(tmp_path: Path, info: object, reason: str):
    assert drop_of(read, tmp_path, row(info)).reason == reason


def test_markers_on_the_edge_are_inside(tmp_path: Path):
    info = {"type": "spatial_volume_infer", "red_bbox": [[0, 0, 1000, 1000]]}
    assert one_of(read, tmp_path, row(info)).marks[0].xy == (0, 0, 1000, 1000)


def test_every_task_of_spar_is_known():
    assert len(TASKS) == 35
