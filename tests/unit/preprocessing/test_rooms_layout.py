"""Furnished rooms: sizes, what stands in them, and that nothing stands in anything else."""

from itertools import combinations

import numpy as np
import pytest

from preprocessing.rooms.layout import Room, furnish
from preprocessing.rooms.spec import NYU40_ID, RoomSpec, scene_name
from spa3r.errors import ConfigError

ROOMS = 24
SHELL = ("wall", "floor", "ceiling")
ON_WALLS = ("door", "window", "picture", "curtain")


@pytest.fixture(scope="module")
def rooms() -> list[Room]:
    return [furnish(np.random.default_rng([0, index])) for index in range(ROOMS)]


def object_boxes(room: Room) -> list[tuple[str, np.ndarray]]:
    """Category and (2, 3) world corners of every object."""
    owner = room.mesh.part_object[room.mesh.vertex_part]
    return [
        (category, np.stack([part.min(0), part.max(0)]))
        for index, category in enumerate(room.mesh.categories)
        for part in [room.mesh.vertices[owner == index]]
    ]


def test_sizes_and_counts(rooms: list[Room]) -> None:
    for room in rooms:
        width, depth, height = room.size
        assert 3 <= width <= 8
        assert 3 <= depth <= 8
        assert 2.4 <= height <= 3.1
        assert 2 <= len(room.lights) <= 3
        standing = [c for c in room.mesh.categories if c not in SHELL + ON_WALLS]
        assert 6 <= len(standing) - 1 <= 14, "one of them is the pendant lamp"


def test_at_least_ten_categories_and_only_known_ones(rooms: list[Room]) -> None:
    seen = {category for room in rooms for category in room.mesh.categories}
    assert seen <= set(NYU40_ID)
    assert len(seen - set(SHELL)) >= 16
    assert all(len(set(room.mesh.categories) - set(SHELL)) >= 6 for room in rooms)


def test_everything_is_inside_and_stands_or_lies_on_something(rooms: list[Room]) -> None:
    for room in rooms:
        boxes = [(c, b) for c, b in object_boxes(room) if c not in SHELL]
        size = np.array(room.size)
        tops = [box[1, 2] for _, box in boxes]
        for category, box in boxes:
            assert (box[0] > -1e-4).all(), category
            assert (box[1] < size + 1e-4).all(), category
            held = category in ON_WALLS or box[1, 2] > size[2] - 0.01 or box[0, 2] < 0.01
            # A pillow lies on a mattress or a seat, which is not the top of the bed or couch.
            held |= category == "pillow"
            assert held or min(abs(top - box[0, 2]) for top in tops) < 0.05, category


def test_furniture_does_not_intersect(rooms: list[Room]) -> None:
    soft = ("pillow", "rug", "curtain", "picture")
    together = ({"bed"}, {"table", "chair"}, {"desk", "chair"})  # chairs are drawn up to tables
    for room in rooms:
        solid = [(c, b) for c, b in object_boxes(room) if c not in SHELL + soft]
        for (name, a), (other, b) in combinations(solid, 2):
            if {name, other} in together:
                continue
            depth = (np.minimum(a[1], b[1]) - np.maximum(a[0], b[0])).min()
            assert depth < 0.02, f"{name} stands {depth:.2f} m inside {other}"


def test_rooms_differ_and_repeat_by_seed() -> None:
    first, again, other = (furnish(np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.mesh.vertices, again.mesh.vertices)
    assert first.size != other.size


def test_texture_coordinates_follow_the_object(rooms: list[Room]) -> None:
    """A tile is as many metres in the world as its material says, on every face."""
    mesh = rooms[0].mesh
    per_metre = np.linalg.norm(mesh.uv_from_world[..., :3], axis=-1)
    tile = np.array([material.tile for material in mesh.materials])[mesh.face_part]
    np.testing.assert_allclose(per_metre, 1 / tile, rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 0), ("frames", 0), ("depth_noise", -0.1), ("invalid_pose_share", 1.5), ("seed", -1)],
)
def test_spec_out_of_range_is_named(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"RoomSpec.{field} is {value}"):
        RoomSpec(**{field: value})


def test_scene_names_are_scannets() -> None:
    assert scene_name(7) == "scene0007_00"
    with pytest.raises(ConfigError, match="10000"):
        scene_name(10_000)
