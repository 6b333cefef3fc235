"""Objects of generated rooms against what the generator knows, and annotations that are damaged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing.rooms.annotations import write_annotations
from preprocessing.rooms.layout import Room, furnish
from preprocessing.scannet_objects import GROUPS_SUFFIX, MESH_SUFFIX, SEGMENTS_SUFFIX, read_objects
from spa3r.errors import FormatError

SCAN = "scene0003_00"
ANGLE = np.deg2rad(25)
ALIGNED_44 = np.array(
    [
        [np.cos(ANGLE), -np.sin(ANGLE), 0, 1.5],
        [np.sin(ANGLE), np.cos(ANGLE), 0, -2],
        [0, 0, 1, 0.25],
        [0, 0, 0, 1],
    ]
)


@pytest.fixture(scope="module")
def room() -> Room:
    return furnish(np.random.default_rng([0, 3]))


@pytest.fixture
def stem(tmp_path: Path, room: Room) -> str:
    write_annotations(tmp_path, SCAN, room)
    numbers = " ".join(f"{value:.9f}" for value in ALIGNED_44.ravel())
    (tmp_path / f"{SCAN}.txt").write_text(f"axisAlignment = {numbers}\r\nnumColorFrames = 9\r\n")
    return str(tmp_path / SCAN)


def objects_of(stem: str) -> tuple[dict[str, Any], list[str]]:
    found = read_objects(stem)
    assert found is not None
    return found


def edit(path: str, change: Any) -> None:
    content = json.loads(Path(path).read_text())
    change(content)
    Path(path).write_text(json.dumps(content))


# --- against the generator ------------------------------------------------------------------------


def test_boxes_hold_what_the_generator_placed(stem: str, room: Room):
    """Every box contains its object's vertices, touches them on all sides and is no larger."""
    content, problems = objects_of(stem)
    assert problems == []
    mesh = room.mesh
    boxes = {box["instance_id"]: box for b in content["object_bboxes"].values() for box in b}
    assert sorted(boxes) == [number + 1 for number in range(len(mesh.categories))]
    for number in range(len(mesh.categories)):
        own = np.isin(mesh.vertex_part, np.flatnonzero(mesh.part_object == number))
        points = mesh.vertices[own] @ ALIGNED_44[:3, :3].T + ALIGNED_44[:3, 3]
        box = boxes[number + 1]
        axes_33 = np.reshape(box["normalizedAxes"], (3, 3))
        along = (points - box["centroid"]) @ axes_33.T
        half = np.array(box["axesLengths"]) / 2
        np.testing.assert_allclose(along.max(axis=0), half, atol=1e-4)
        np.testing.assert_allclose(along.min(axis=0), -half, atol=1e-4)
        # In the generator's frame furniture stands along the walls: its bounds are a box too.
        known = np.ptp(mesh.vertices[own], axis=0).prod()
        assert np.prod(box["axesLengths"]) <= known * 1.001


def test_walls_and_floor_turn_with_the_alignment(stem: str, room: Room):
    content, _ = objects_of(stem)
    (floor,) = content["object_bboxes"]["floor"]
    known = np.ptp(room.mesh.vertices[:8], axis=0)
    np.testing.assert_allclose(floor["axesLengths"], known, atol=1e-4)
    expected = [np.cos(ANGLE), np.sin(ANGLE), 0]
    np.testing.assert_allclose(floor["normalizedAxes"][:3], expected, atol=1e-4)
    middle = ALIGNED_44[:3, :3] @ [room.size[0] / 2, room.size[1] / 2, -0.05] + ALIGNED_44[:3, 3]
    np.testing.assert_allclose(floor["centroid"], middle, atol=1e-4)
    np.testing.assert_allclose(content["aligned_from_world"], ALIGNED_44.ravel(), atol=1e-8)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_counts_and_room_size(tmp_path: Path, seed: int):
    room = furnish(np.random.default_rng([0, seed]))
    write_annotations(tmp_path, SCAN, room)
    content, _ = objects_of(str(tmp_path / SCAN))
    categories = list(room.mesh.categories)
    assert content["object_counts"] == {name: categories.count(name) for name in set(categories)}
    width, depth, height = room.size
    assert content["room_size"] == pytest.approx(width * depth, rel=0.10)
    walls = 0.2  # the generator's walls are 10 cm thick and scanned from outside too
    assert content["room_size"] == pytest.approx((width + walls) * (depth + walls), rel=0.02)
    np.testing.assert_allclose(
        content["room_center"], [width / 2, depth / 2, height / 2], atol=0.11
    )


def test_json_holds_it(stem: str):
    content, _ = objects_of(stem)
    assert json.loads(json.dumps(content, allow_nan=False)) == content


# --- what is missing or known to be wrong ---------------------------------------------------------


@pytest.mark.parametrize("suffix", [MESH_SUFFIX, SEGMENTS_SUFFIX, GROUPS_SUFFIX])
def test_without_one_of_the_files_there_are_none(stem: str, suffix: str):
    Path(stem + suffix).unlink()
    assert read_objects(stem) is None


@pytest.mark.parametrize("text", [None, "sceneType = Office\n"], ids=["no file", "no key"])
def test_without_alignment_the_scans_own_frame_is_used_and_said(stem: str, text: str | None):
    path = Path(stem + ".txt")
    path.unlink() if text is None else path.write_text(text)
    content, problems = objects_of(stem)
    assert content["aligned_from_world"] == np.eye(4).ravel().tolist()
    assert len(problems) == 1 and "no axisAlignment" in problems[0]


def test_objects_that_are_there_twice_count_once(stem: str):
    """As in scene0217_00: the list starts again, with the numbers of before or with new ones."""
    whole, _ = objects_of(stem)
    total = sum(whole["object_counts"].values())

    def repeat(content: dict) -> None:
        again = [dict(group) for group in content["segGroups"][:5]]
        for place, group in enumerate(again[2:]):
            group["objectId"] = 500 + place
        content["segGroups"] += again

    edit(stem + GROUPS_SUFFIX, repeat)
    content, problems = objects_of(stem)
    assert sum(content["object_counts"].values()) == total and content == whole
    assert len(problems) == 1 and "objects 0, 1, 500, 501, 502 are there twice" in problems[0]


def test_objects_without_a_vertex_are_left_out_and_said(stem: str):
    def empty(content: dict) -> None:
        content["segGroups"][0]["segments"] = []
        content["segGroups"][1]["segments"] = [10**6, 10**6 + 1]

    edit(stem + GROUPS_SUFFIX, empty)
    content, problems = objects_of(stem)
    assert "floor" not in content["object_counts"] and "ceiling" not in content["object_counts"]
    assert len(problems) == 1 and "objects 0, 1 have no vertex" in problems[0]


# --- damage ---------------------------------------------------------------------------------------

DAMAGE = {
    "other mesh's segments": {"segmentsFile": f"scannet.{SCAN}_vh_clean.segs.json"},
    "no segments file": {"segmentsFile": None},
    "groups no list": {"segGroups": {"0": 1}},
    "group no object": {"segGroups": [3]},
    "number no number": {"segGroups": [{"objectId": "1", "label": "a", "segments": []}]},
    "number negative": {"segGroups": [{"objectId": -1, "label": "a", "segments": []}]},
    "number true": {"segGroups": [{"objectId": True, "label": "a", "segments": []}]},
    "no label": {"segGroups": [{"objectId": 1, "segments": []}]},
    "long label": {"segGroups": [{"objectId": 1, "label": "a" * 300, "segments": []}]},
    "segment no number": {"segGroups": [{"objectId": 1, "label": "a", "segments": [0.5]}]},
    "segment huge": {"segGroups": [{"objectId": 1, "label": "a", "segments": [10**30]}]},
    "everything many times": {
        "segGroups": [
            {"objectId": i, "label": f"{i}", "segments": list(range(1000))} for i in range(9)
        ]
    },
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_groups_that_lie_are_refused(stem: str, change: dict):
    edit(stem + GROUPS_SUFFIX, lambda content: content.update(change))
    with pytest.raises(FormatError, match=r"scene0003_00\.aggregation\.json: ") as caught:
        read_objects(stem)
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


@pytest.mark.parametrize("segments", [None, [0, 1], [0.5], ["0"], [[0]], [True], [10**30]], ids=str)
def test_segments_that_lie_are_refused(stem: str, segments: list | None, room: Room):
    if segments is not None and len(segments) == 1:
        segments = segments * len(room.mesh.vertices)
    edit(stem + SEGMENTS_SUFFIX, lambda content: content.update(segIndices=segments))
    with pytest.raises(FormatError, match=r"010000\.segs\.json: "):
        read_objects(stem)


@pytest.mark.parametrize("suffix", [SEGMENTS_SUFFIX, GROUPS_SUFFIX])
@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"9" * 5000], ids=lambda d: d[:4].hex()
)
def test_files_that_are_no_json_object_are_refused(stem: str, suffix: str, data: bytes):
    Path(stem + suffix).write_bytes(data)
    with pytest.raises(FormatError, match=r"\.json: "):
        read_objects(stem)


def test_a_file_beyond_all_measure_is_not_parsed(stem: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("preprocessing.scannet_objects._MAX_JSON_BYTES", 100)
    with pytest.raises(FormatError, match="more than 100 bytes"):
        read_objects(stem)


def test_a_cut_mesh_and_a_wild_alignment_are_refused(stem: str):
    text = Path(stem + ".txt").read_text()
    Path(stem + ".txt").write_text(text.replace("1.5", "nan"))
    with pytest.raises(FormatError, match="axisAlignment"):
        read_objects(stem)
    Path(stem + MESH_SUFFIX).write_bytes(Path(stem + MESH_SUFFIX).read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"_vh_clean_2\.ply"):
        read_objects(stem)
