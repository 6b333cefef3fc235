"""DSLR scenes: hostile files and damaged annotations are one line, or cost one frame."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preprocessing.scannetpp import DslrScene
from preprocessing.scene import Damage, Frame
from spa3r.errors import FormatError, SceneError
from spa3r.storage import join, write_bytes
from tests import scannetpp_maker as maker
from tests.scannetpp_maker import entries, remove, rewrite, write_lists

ID = "a1b2c3d4e5"


@pytest.fixture
def scene(tmp_path: Path) -> str:
    """The dslr folder of a whole scene."""
    return maker.write_scene(str(tmp_path / "data" / ID))


# --- hostile files --------------------------------------------------------------------------------


def test_names_never_lead_out_of_the_folder(scene: str, tmp_path: Path):
    write_bytes(tmp_path / "secret.JPG", maker.jpeg(0))
    names = ["../../../secret.JPG", "/etc/passwd", "..\\..\\secret2.JPG", "sub/DSC9.JPG"]
    rewrite(scene, frames=[maker.entry(name, i) for i, name in enumerate(names)])
    write_lists(scene, train=["../../../secret.JPG"], test=[])
    opened = DslrScene(scene)
    found = dict(zip(opened._names, opened.frames(), strict=True))
    assert isinstance(found["DSC9.JPG"], Frame)
    for name in ("secret.JPG", "passwd", "secret2.JPG"):
        assert isinstance(found[name], Damage) and found[name].reason == "missing_image"


BAD_TEXT = [b"", b"{", b"[]", b"nonsense", b"\xff\xfe\x00", b"[" * 100_000, b'{"w": ' + b"9" * 5000]


@pytest.mark.parametrize("text", BAD_TEXT, ids=range(len(BAD_TEXT)))
@pytest.mark.parametrize("name", ["nerfstudio/transforms.json", "train_test_lists.json"])
def test_damaged_json_is_one_line(scene: str, name: str, text: bytes):
    write_bytes(join(scene, name), text)
    with pytest.raises(FormatError, match=name) as caught:
        DslrScene(scene)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"camera_model": None}, "camera_model is None"),
        ({"camera_model": ["x" * 10**6]}, "camera_model is"),
        ({"camera_model": "FOV"}, "'FOV'"),
        ({"fl_x": "790"}, "fl_x is '790'"),
        ({"k3": float("nan")}, "k3 is nan"),
        ({"w": True}, "w is True"),
        ({"w": 64.5}, "not whole pixels"),
        ({"h": 10**400}, "h is 1000"),
        ({"frames": None}, "frames is no list"),
        ({"frames": {"a": 1}}, "frames is no list"),
        ({"frames": [3]}, r"frames\[0\] names no file_path"),
        ({"frames": [{"file_path": 3}]}, r"frames\[0\] names no file_path"),
        ({"frames": [{"file_path": "a/.."}]}, r"frames\[0\] names no file_path"),
        ({"frames": [{"file_path": "9" * 5000}]}, r"frames\[0\] names no file_path"),
        ({"test_frames": [None]}, r"test_frames\[0\] names no file_path"),
    ],
)
def test_transforms_of_wrong_types_are_refused(scene: str, changes: dict, said: str):
    rewrite(scene, **changes)
    with pytest.raises(FormatError, match=said) as caught:
        DslrScene(scene)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "lists", [{"train": "DSC9.JPG"}, {"test": [3]}, {"test": {}}, {"test": [""]}]
)
def test_lists_of_wrong_types_are_refused(scene: str, lists: dict):
    write_lists(scene, **lists)
    with pytest.raises(FormatError, match="no list of file names"):
        DslrScene(scene)


@pytest.mark.parametrize("changes", [{"w": 10**9}, {"fl_x": 0}, {"k1": 1e200}, {"cx": 1e5}])
def test_an_impossible_camera_is_named_with_its_file(scene: str, changes: dict):
    rewrite(scene, **changes)
    with pytest.raises(FormatError, match=r"transforms\.json: "):
        entries(scene)


def test_a_scene_without_photos_or_calibration_is_no_scene(scene: str, tmp_path: Path):
    remove(scene, "nerfstudio/transforms.json")
    with pytest.raises(SceneError, match="nor a COLMAP model"):
        DslrScene(scene)
    with pytest.raises(SceneError, match="no photos in resized_images"):
        DslrScene(str(tmp_path / "absent"))


# --- annotations ----------------------------------------------------------------------------------


def write_groups(scene: str, groups: Any) -> None:
    url = join(str(Path(scene).parent), "scans", "segments_anno.json")
    maker.write_json(url, {"sceneId": "scannetpp.x", "segGroups": groups})


def test_boxes_have_their_bounds(scene: str):
    write_groups(
        scene, [maker.group(1, "table"), maker.group(2, "chair "), maker.group(7, "chair")]
    )
    found = DslrScene(scene).objects()
    assert found is not None
    assert found["object_counts"] == {"table": 1, "chair": 2}
    assert found["room_size"] is None and found["aligned_from_world"] == np.eye(4).ravel().tolist()
    assert [box["instance_id"] for box in found["object_bboxes"]["chair"]] == [2, 7]
    box = found["object_bboxes"]["table"][0]
    # Half the extent along x of a 2 x 1 rectangle turned by 30 degrees: cos 30 + 1/2 sin 30.
    across, along = np.cos(np.pi / 6) + 0.25, 0.5 + 0.5 * np.cos(np.pi / 6)
    np.testing.assert_allclose(box["min"], [1 - across, 2 - along, 0], atol=1e-12)
    np.testing.assert_allclose(box["max"], [1 + across, 2 + along, 0.5], atol=1e-12)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_bounds_are_as_vsi_bench_has_them(shared: Path, scene: str):
    """Real boxes of ScanNet++ scenes, with the bounds that VSI-Bench states for them."""
    text = (shared / "data" / "vsi_meta" / "scannetpp_meta_info.json").read_text()
    for stated in json.loads(text).values():
        flat = [(label, box) for label, boxes in stated["object_bbox"].items() for box in boxes]
        write_groups(scene, [maker.group(i, label, **box) for i, (label, box) in enumerate(flat)])
        found = DslrScene(scene).objects()
        assert found is not None
        assert found["object_counts"] == stated["object_counts"]
        for label, boxes in stated["object_bbox"].items():
            for ours, theirs in zip(found["object_bboxes"][label], boxes, strict=True):
                np.testing.assert_allclose(ours["min"], theirs["min"], atol=1e-3)
                np.testing.assert_allclose(ours["max"], theirs["max"], atol=1e-3)


def test_no_annotations_are_no_objects(scene: str):
    assert DslrScene(scene).objects() is None


def test_repeated_objects_and_those_without_a_box_are_reported(scene: str):
    boxless = maker.group(3, "lamp") | {"obb": None}
    write_groups(scene, [maker.group(1, "table"), maker.group(1, "table"), boxless])
    opened = DslrScene(scene)
    found = opened.objects()
    assert found is not None and found["object_counts"] == {"table": 1}
    assert opened.objects() == found
    assert len(opened.problems) == 2
    assert (
        "repeats object 1" in opened.problems[0] and "1 objects have no box" in opened.problems[1]
    )


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (None, "segGroups is no list"),
        ([3], r"segGroups\[0\] has no label"),
        ([{"label": " "}], "no label"),
        ([maker.group(1, "a") | {"objectId": "1"}], "no objectId"),
        ([maker.group(1, "a") | {"obb": [1]}], "lacks numbers"),
        ([maker.group(1, "a", centroid=[1, 2])], "lacks numbers"),
        ([maker.group(1, "a", axesLengths=[1, None, 2])], "lacks numbers"),
        ([maker.group(1, "a", centroid=[1, 2, float("inf")])], "is no box"),
        ([maker.group(1, "a", axesLengths=[1, -1, 1])], "is no box"),
        ([maker.group(1, "a", normalizedAxes=[1e300] * 9)], "is no box"),
        ([maker.group(1, "a", normalizedAxes=[1, 0, 0] * 3)], "not perpendicular"),
    ],
)
def test_damaged_annotations_are_refused(scene: str, groups: Any, said: str):
    write_groups(scene, groups)
    with pytest.raises(FormatError, match=said):
        DslrScene(scene).objects()
