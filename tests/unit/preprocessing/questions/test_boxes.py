"""Distances between boxes against points sampled on them, and what is a box."""

import numpy as np
import pytest
from scipy.spatial import KDTree

from preprocessing.questions.boxes import Box, distance, level_distances, upright
from tests.unit.preprocessing.questions.scenes import box, rotation


def surface(one: Box, steps: int = 13) -> np.ndarray:
    """(N, 3) points all over a box, corners and edges among them."""
    t = np.linspace(-0.5, 0.5, steps)
    grid = np.stack(np.meshgrid(t, t, t, indexing="ij"), -1).reshape(-1, 3)
    grid = grid[(np.abs(grid) == 0.5).any(axis=1)]
    return one.centre_3 + (grid * one.lengths_3) @ one.axes_33


def sampled(a: Box, b: Box) -> float:
    return float(KDTree(surface(a)).query(surface(b))[0].min())


def test_known_distances() -> None:
    cube = box(0, 0, 0.5, (1, 1, 1))
    assert distance(cube, box(3, 0, 0.5, (1, 1, 1))) == pytest.approx(2)
    assert distance(cube, box(3, 4, 0.5, (1, 1, 1))) == pytest.approx(np.hypot(2, 3))
    assert distance(cube, box(0, 0, 3.5, (1, 1, 1))) == pytest.approx(2)  # above it
    assert distance(cube, box(4, 0, 5.5, (1, 1, 1))) == pytest.approx(5)  # 3 beside, 4 above
    corner = np.sqrt(2) / 2  # a cube turned by 45 degrees reaches so far
    assert distance(cube, box(3, 0, 0.5, (1, 1, 1), yaw=45)) == pytest.approx(2.5 - corner)


@pytest.mark.parametrize("inside", [box(0.2, 0.1, 0.5, (0.1, 0.1, 0.1)), box(0.9, 0, 1, (1, 1, 1))])
def test_boxes_that_meet_are_at_no_distance(inside: Box) -> None:
    assert distance(box(0, 0, 0.5, (1, 1, 1)), inside) == 0
    assert distance(inside, box(0, 0, 0.5, (1, 1, 1))) == 0


def test_a_cross_of_boxes_meets_though_no_corner_is_inside() -> None:
    assert distance(box(0, 0, 0, (4, 0.2, 1)), box(0, 0, 0, (0.2, 4, 1), yaw=20)) == 0


def test_distances_are_those_of_sampled_points() -> None:
    rng = np.random.default_rng(0)

    def draw() -> Box:
        a, b, c = rng.uniform(0.05, 2.0, 3).tolist()
        x, y, z, yaw = rng.uniform((-2, -2, -2, -180), (2, 2, 2, 180)).tolist()
        return box(x, y, z, (a, b, c), yaw)

    for a, b in ((draw(), draw()) for _ in range(40)):
        exact, near = distance(a, b), sampled(a, b)
        assert exact == pytest.approx(distance(b, a), abs=1e-9)
        if exact:  # points lie up to half a step from the closest ones
            assert exact - 1e-9 <= near <= exact + 0.25


def test_rotating_both_changes_nothing() -> None:
    a, b = box(0, 0, 1, (1, 2, 2), yaw=10), box(4, 1, 0.5, (0.5, 0.5, 1), yaw=70)
    turn = rotation(33)
    moved = [Box(turn @ x.centre_3, x.lengths_3, x.axes_33 @ turn.T) for x in (a, b)]
    assert distance(*moved) == pytest.approx(distance(a, b))


def test_points_of_the_plan_to_footprints() -> None:
    points = np.array([[0.0, 0], [2, 0], [2, 2]])
    found = level_distances(points, [box(0, 0, 0, (2, 2, 1)), box(2, 0, 0, (0.2, 2, 1), yaw=90)])
    np.testing.assert_allclose(found, [[0, 1, np.sqrt(2)], [1, 0, 1.9]], atol=1e-9)


def test_a_side_may_stand_for_the_height() -> None:
    flat = upright([0, 0, 2], [1, 4, 2], [[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    assert flat is not None
    assert (flat.low, flat.high) == (0, 4)
    assert sorted(np.ptp(flat.footprint_42, axis=0)) == [1, 2]


@pytest.mark.parametrize(
    "axes",
    [
        [[1, 0, 0], [0, 0.8, 0.6], [0, -0.6, 0.8]],  # leaning
        [[1, 0, 0], [1, 0, 0], [0, 0, 1]],
        [[np.nan, 0, 0], [0, 1, 0], [0, 0, 1]],
    ],
)
def test_what_does_not_stand_upright_is_no_box(axes: list[list[float]]) -> None:
    assert upright([0, 0, 0], [1, 1, 1], axes) is None
    assert upright([0, 0, 0], [1, -1, 1], np.eye(3)) is None
