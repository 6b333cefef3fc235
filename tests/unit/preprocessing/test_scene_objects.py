"""Boxes and room sizes of point sets whose answer is known."""

import json
from pathlib import Path

import numpy as np
import pytest

from preprocessing.scene_objects import (
    ALPHA_RADIUS,
    SceneObject,
    describe_objects,
    floor_area,
    upright_box,
)

NO_FACES = np.zeros((0, 3), np.int64)


def corners(lengths: tuple[float, float, float], angle: float, centre: np.ndarray) -> np.ndarray:
    """(8, 3) corners of an upright box turned about z."""
    cos, sin = np.cos(angle), np.sin(angle)
    signs = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), axis=-1).reshape(8, 3)
    return signs * lengths @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) + centre


def plan(width: float, depth: float, step: float = 0.05) -> np.ndarray:
    """(N, 3) a flat grid of points from the origin."""
    x, y = np.mgrid[0 : width + 1e-9 : step, 0 : depth + 1e-9 : step]
    return np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)


@pytest.mark.parametrize("degrees", [0, 10, 44, -44])
def test_a_turned_box_is_found_again(degrees: float):
    centre = np.array([100.0, -3.0, 0.7])
    rng = np.random.default_rng(0)
    edge = corners((2.0, 0.6, 1.1), np.deg2rad(degrees), centre)
    weights = rng.dirichlet(np.ones(8), 500)
    box = upright_box(np.concatenate([edge, weights @ edge]))
    np.testing.assert_allclose(box["centroid"], centre, atol=1e-5)
    np.testing.assert_allclose(box["axesLengths"], [2.0, 0.6, 1.1], atol=1e-5)
    axes_33 = np.reshape(box["normalizedAxes"], (3, 3))
    angle = np.deg2rad(degrees)
    np.testing.assert_allclose(axes_33[0], [np.cos(angle), np.sin(angle), 0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(axes_33), 1, atol=1e-5)
    np.testing.assert_allclose(box["min"], edge.min(axis=0), atol=1e-5)
    np.testing.assert_allclose(box["max"], edge.max(axis=0), atol=1e-5)


def test_the_box_is_the_smallest_one():
    """A rectangle with a corner cut off: sides along the cut would make a larger one."""
    angle = np.deg2rad(30)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outline = np.array([[0.0, 0], [3, 0], [3, 1], [1, 1]]) @ turn
    box = upright_box(np.column_stack([outline, [0.0, 0, 2, 1]]))
    np.testing.assert_allclose(sorted(box["axesLengths"]), [1, 2, 3], atol=1e-5)


@pytest.mark.parametrize(
    ("points", "lengths"),
    [
        ([[1, 2, 3]], [0, 0, 0]),
        ([[1, 2, 3], [1, 2, 5]], [0, 0, 2]),
        ([[0, 0, 0], [3, 4, 0], [1.5, 2, 0]], [0, 5, 0]),
    ],
    ids=["point", "pole", "line"],
)
def test_flat_things_have_flat_boxes(points: list, lengths: list):
    box = upright_box(np.array(points, np.float64))
    np.testing.assert_allclose(box["axesLengths"], lengths, atol=1e-6)


def test_floor_of_a_dense_plan():
    assert floor_area(plan(4, 3), NO_FACES) == pytest.approx(12, rel=0.01)
    shaped = plan(4, 4)
    corner_cut = shaped[(shaped[:, 0] <= 2) | (shaped[:, 1] <= 2)]  # an L
    assert floor_area(corner_cut, NO_FACES) == pytest.approx(12, rel=0.02)


def test_small_gaps_belong_to_the_floor_and_large_ones_do_not():
    whole = plan(4, 4)
    away = np.abs(whole[:, :2] - 2).max(axis=1)  # a square hole of twice that side
    small = whole[away > 0.6 * ALPHA_RADIUS]
    large = whole[away > 1.0]
    assert floor_area(small, NO_FACES) == pytest.approx(16, rel=0.01)
    assert floor_area(large, NO_FACES) == pytest.approx(12, rel=0.03)


def test_large_faces_count_as_scanned():
    square = np.array([[0.0, 0, 0], [5, 0, 0], [5, 4, 0], [0, 4, 1]])
    assert floor_area(square, NO_FACES) is None
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    assert floor_area(square, faces) == pytest.approx(20, rel=0.01)


def test_no_outline_no_area():
    for points in (np.zeros((1, 3)), np.zeros((50, 3)), plan(4, 0)):
        assert floor_area(points, NO_FACES) is None


def test_an_endless_mesh_ends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("preprocessing.scene_objects._MAX_CELLS", 3000)
    monkeypatch.setattr("preprocessing.scene_objects._MAX_FILL", 20_000)
    huge = np.array([[-900.0, -900, 0], [900, -900, 0], [900, 900, 0], [-900, 900, 0]])
    faces = np.tile([[0, 1, 2], [0, 2, 3]], (500, 1))
    assert floor_area(huge, faces) is None  # points this far apart have no outline
    assert floor_area(plan(20, 20, 0.1), NO_FACES) == pytest.approx(400, rel=0.05)


def test_the_document():
    things = [
        SceneObject(category="chair", instance_id=3, points_N3=np.eye(3)),
        SceneObject(category="sofa", instance_id=1, points_N3=np.eye(3) * 2),
        SceneObject(category="chair", instance_id=7, points_N3=-np.eye(3)),
    ]
    mesh = plan(4, 3) + np.ones(3)
    content = describe_objects(things, mesh, NO_FACES, np.diag([1, -1, -1, 1]))
    assert content["object_counts"] == {"chair": 2, "sofa": 1}
    assert [box["instance_id"] for box in content["object_bboxes"]["chair"]] == [3, 7]
    assert content["room_center"] == [3, 2.5, 1]
    assert content["room_size"] == pytest.approx(12, rel=0.01)
    assert content["aligned_from_world"] == np.diag([1, -1, -1, 1]).ravel().tolist()


def test_field_names_are_those_of_the_benchmark(shared: Path):
    scenes = json.loads((shared / "data/vsi_meta/scannet_meta_info.json").read_text())
    theirs = next(iter(next(iter(scenes.values()))["object_bbox"].values()))[0]
    assert set(upright_box(np.eye(3))) == set(theirs)
    # Theirs too are boxes whose bounds are symmetric about the centre.
    axes_33 = np.reshape(theirs["normalizedAxes"], (3, 3))
    reach = np.abs(axes_33 * np.array(theirs["axesLengths"])[:, None]).sum(axis=0) / 2
    np.testing.assert_allclose(theirs["max"], theirs["centroid"] + reach, atol=1e-6)
