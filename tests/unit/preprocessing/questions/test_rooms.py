"""Questions about generated rooms, against what the generator and its renderer know: the mesh, the
parts that each pixel shows. Nothing here looks at boxes but the code under test."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("open3d", reason="generated rooms need open3d", exc_type=ImportError)

from preprocessing.questions.draw import SceneQuestions
from preprocessing.questions.facts import SceneFacts, read_facts
from preprocessing.questions.order import CLEAR, GLIMPSED
from preprocessing.questions.sight import shares
from preprocessing.questions.spec import (
    CLOSEST,
    COUNTING,
    DIRECTION_EASY,
    DIRECTION_HARD,
    DIRECTION_MEDIUM,
    DISTANCE,
    ORDER,
    ROOM_SIZE,
    ROUTE,
    SIZE,
    Drawn,
    QuestionSpec,
)
from preprocessing.rooms.annotations import write_annotations
from preprocessing.rooms.layout import Room, furnish
from preprocessing.rooms.questions import NO_OBJECTS, ask_scenes
from preprocessing.rooms.render import Renderer
from preprocessing.rooms.spec import NYU40_ID
from preprocessing.rooms.trajectory import draw_trajectory
from preprocessing.scannet_objects import read_objects

FRAMES, WIDTH, HEIGHT = 16, 120, 90
SPEC = QuestionSpec(per_family_per_scene=40)


class Picture(NamedTuple):
    """A rendered frame, as a shard would hold it."""

    depth_mm: np.ndarray | None
    labels: np.ndarray | None
    K_33: np.ndarray | None
    world_from_camera_44: np.ndarray | None


class Rendered:
    """A generated room as a table of frames, and what it really shows."""

    def __init__(self, folder: Path, seed: int) -> None:
        rng = np.random.default_rng([0, seed])
        self.room: Room = furnish(rng)
        self.name, self.kept_as, self.times = f"scene{seed:04d}_00", "rooms", True
        renderer = Renderer(self.room)
        path = draw_trajectory(rng, self.room, renderer, FRAMES)
        focal = float(WIDTH / 2 / np.tan(path.field_of_view / 2))
        K_33 = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
        mesh = self.room.mesh
        nyu40 = np.array([NYU40_ID[category] for category in mesh.categories], np.uint8)
        self.pictures, self.object_FHW = [], []
        for pose in path.world_from_camera:
            view = renderer.render(pose, WIDTH, HEIGHT, focal)
            depth = np.rint(view.depth * 1000).astype(np.uint16)
            of_pixel = mesh.part_object[view.part]
            self.pictures.append(Picture(depth, nyu40[of_pixel], K_33, pose))
            self.object_FHW.append(of_pixel)
        write_annotations(folder, self.name, self.room)
        (folder / f"{self.name}.txt").write_text("numColorFrames = 9\n")
        found = read_objects(str(folder / self.name))
        assert found is not None
        self.folder, self.objects = folder, found[0]
        self.write(self.objects)

    def write(self, objects: dict[str, Any]) -> None:
        (self.folder / f"{self.name}.objects.json").write_text(json.dumps(objects))

    # --- a table of frames ---

    def dataset(self, scene: str) -> str:
        return self.kept_as

    def shard_url(self, scene: str) -> str:
        return str(self.folder / f"{self.name}.tar")

    def frames(self, scene: str) -> list[int]:
        return list(range(FRAMES))

    def row(self, scene: str, frame: int) -> dict[str, Any]:
        return {"timestamp_us": 500_000 * frame if self.times else -1}

    def load_frames(self, scene: str, frames: Sequence[int]) -> list[Picture]:
        return [self.pictures[frame] for frame in frames]

    # --- what is true ---

    def points(self, category: str) -> np.ndarray:
        """(N, 3) vertices of the one object of a category."""
        mesh = self.room.mesh
        (number,) = [i for i, name in enumerate(mesh.categories) if name == category]
        return mesh.vertices[mesh.part_object[mesh.vertex_part] == number]

    def facts(self) -> SceneFacts:
        url = self.folder / f"{self.name}.objects.json"
        return read_facts(url.read_bytes(), str(url), scene=self.name, dataset=self.kept_as)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> list[Rendered]:
    return [Rendered(tmp_path_factory.mktemp("room"), seed) for seed in (1, 4)]


@pytest.fixture(scope="module")
def asked(rooms: list[Rendered]) -> list[SceneQuestions]:
    return [ask_scenes(room, [room.name], SPEC)[0] for room in rooms]


def questions(found: SceneQuestions, family: str) -> list[Drawn]:
    return [one for name, one in found.drawn if name == family]


def pairs(
    rooms: list[Rendered], asked: list[SceneQuestions], family: str
) -> list[tuple[Rendered, Drawn]]:
    """(room, question), at least a few."""
    both = [(r, q) for r, s in zip(rooms, asked, strict=True) for q in questions(s, family)]
    assert both
    return both


def test_counts_are_those_of_the_mesh(rooms: list[Rendered], asked: list[SceneQuestions]) -> None:
    for room, one in pairs(rooms, asked, COUNTING):
        category = re.findall(r"How many (.*)\(s\)", one.text)[0]
        assert int(one.truth) == Counter(room.room.mesh.categories)[category] > 1


def test_room_sizes_are_the_floor_between_the_walls(
    rooms: list[Rendered], asked: list[SceneQuestions]
) -> None:
    for room, one in pairs(rooms, asked, ROOM_SIZE):
        assert one.truth == f"{room.room.size[0] * room.room.size[1]:.1f}"
        assert float(one.truth) < room.objects["room_size"] - 1, "which holds the walls too"


def test_sizes_are_those_of_the_mesh(rooms: list[Rendered], asked: list[SceneQuestions]) -> None:
    for room, one in pairs(rooms, asked, SIZE):
        category = re.findall(r"of the ([^,()]*), measured", one.text)[0]
        points = room.points(category)
        turned = [turned_span(points, angle) for angle in np.radians(np.arange(0, 90, 1))]
        smallest = min(turned, key=lambda span: span[0] * span[1])
        assert float(one.truth) == pytest.approx(100 * max(smallest), abs=1.5)


def turned_span(points: np.ndarray, angle: float) -> tuple[float, ...]:
    c, s = np.cos(angle), np.sin(angle)
    return tuple(np.ptp(points @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]).T, axis=0).tolist())


def test_distances_are_no_longer_than_those_of_the_meshes(
    rooms: list[Rendered], asked: list[SceneQuestions]
) -> None:
    """A box reaches further than what is in it, never less far."""
    exact = 0
    for room, one in pairs(rooms, asked, DISTANCE):
        a, b = re.findall(r"between the (.*) and the (.*) \(in", one.text)[0]
        between = room.points(a)[:, None] - room.points(b)[None]
        vertices = float(np.linalg.norm(between, axis=-1).min())
        assert float(one.truth) <= vertices + 0.051
        exact += abs(float(one.truth) - vertices) < 0.1
    assert exact, "some meet corner to corner"


def middle(room: Rendered, category: str) -> np.ndarray:
    points = room.points(category)[:, :2]
    return (points.min(axis=0) + points.max(axis=0)) / 2


@pytest.mark.parametrize("level", [DIRECTION_EASY, DIRECTION_MEDIUM, DIRECTION_HARD])
def test_directions_are_those_of_the_meshes(
    rooms: list[Rendered], asked: list[SceneQuestions], level: str
) -> None:
    """By complex numbers: the query's bearing, seen from one who looks along the real axis."""
    for room, one in pairs(rooms, asked, level):
        names = re.findall(r"by the (.*) and facing the (.*), is the (.*) to", one.text)[0]
        at, facing, query = (complex(*middle(room, name)) for name in names)
        seen = (query - at) / (facing - at)
        side = "left" if seen.imag > 0 else "right"
        behind = -seen.real > abs(seen.imag)
        assert (
            one.truth
            == {
                DIRECTION_EASY: side,
                DIRECTION_MEDIUM: "back" if behind else side,
                DIRECTION_HARD: f"{'front' if seen.real > 0 else 'back'}-{side}",
            }[level]
        )


def test_the_closest_is_the_meshes_closest(
    rooms: list[Rendered], asked: list[SceneQuestions]
) -> None:
    for room, one in pairs(rooms, asked, CLOSEST):
        target = room.points(one.text.rpartition(" the ")[2].rstrip("?"))
        low, high = target.min(axis=0), target.max(axis=0)

        def away(name: str, low: np.ndarray = low, high: np.ndarray = high) -> float:
            """From a bounding box to a bounding box; the things stand along the walls."""
            points = room.points(name)  # noqa: B023
            gap = np.maximum(np.maximum(low - points.max(axis=0), points.min(axis=0) - high), 0)
            return float(np.linalg.norm(gap))

        assert min((one.truth, *one.wrong), key=away) == one.truth


def test_route_turns_are_those_between_the_meshes(
    rooms: list[Rendered], asked: list[SceneQuestions]
) -> None:
    for room, one in pairs(rooms, asked, ROUTE):
        start, facing = re.findall(r"at the (.*?) and facing the (.*?)\. You", one.text)[0]
        steps = re.findall(r"(\[please fill in\]|until the .*?)(?= \d\.|\. You have)", one.text)
        at, heading = complex(*middle(room, start)), complex(*middle(room, facing))
        heading, found, turning = heading - at, [], False
        for step in steps:
            if step.startswith("["):
                turning = True
                continue
            to = complex(*middle(room, step.removeprefix("until the ")))
            if turning:
                found.append(nearest_turn((to - at) / heading))
            at, heading, turning = to, to - at, False
        assert one.truth == ", ".join(found)


def nearest_turn(bearing: complex) -> str:
    degrees = np.degrees(np.angle(bearing))
    off = {"Turn Left": abs(degrees - 90), "Turn Right": abs(degrees + 90)}
    return min({**off, "Turn Back": 180 - abs(degrees)}.items(), key=lambda item: item[1])[0]


# --- what is seen ---------------------------------------------------------------------------------


def rendered_shares(room: Rendered, facts: SceneFacts) -> np.ndarray:
    """(F, T) exactly, from the renderer's pixels."""
    counts = [np.bincount(o.ravel(), minlength=len(room.room.mesh.categories)) for o in
              room.object_FHW]  # fmt: skip
    objects = [thing.instance - 1 for thing in facts.things]
    return np.array(counts)[:, objects] / (WIDTH * HEIGHT)


def test_shares_are_those_of_the_renderer(rooms: list[Rendered]) -> None:
    for room in rooms:
        facts = room.facts()
        found = shares(room.pictures, facts.things, np.eye(4))
        assert found is not None
        wrong = np.abs(found - rendered_shares(room, facts))
        assert wrong.max() < 0.01
        assert np.quantile(wrong, 0.99) < 0.004
        assert wrong.mean() < 0.0005


def test_order_is_that_of_the_pixels(rooms: list[Rendered], asked: list[SceneQuestions]) -> None:
    gaps = set[int]()
    for room, one in pairs(rooms, asked, ORDER):
        facts = room.facts()
        truth = rendered_shares(room, facts)
        first = {}
        for name in one.truth.split(", "):
            share_F = truth[:, facts.by_category[name]].sum(axis=1)
            # Pixels are thinned out before they are counted: a third of a limit to either side.
            first[name] = [int((share_F >= k).argmax()) for k in (GLIMPSED / 3, CLEAR * 1.3)]
        names = one.truth.split(", ")
        for a, b in pairwise(names):
            assert first[b][1] - first[a][0] >= 2  # frames, half a second each
            gaps.add(first[b][1] - first[a][1])
            assert first[a][0] < first[b][0] or first[a][1] < first[b][1]
    assert min(gaps) < 4, "two seconds are more than enough"


@pytest.mark.parametrize("lost", ["depth_mm", "labels", "K_33", "world_from_camera_44"])
def test_a_frame_without_one_part_leaves_the_order_out_and_nothing_else(
    rooms: list[Rendered], lost: str
) -> None:
    room = rooms[0]
    kept, room.pictures = room.pictures, list(room.pictures)
    room.pictures[3] = room.pictures[3]._replace(**{lost: None})
    try:
        found = ask_scenes(room, [room.name], SPEC)[0]
    finally:
        room.pictures = kept
    assert not questions(found, ORDER)
    assert found.rejected[ORDER, "the frames lack depth, labels, intrinsics or poses"] == 1
    assert questions(found, SIZE)


def test_annotated_scans_of_others_go_by_their_timestamps_and_room_sizes(
    rooms: list[Rendered], asked: list[SceneQuestions]
) -> None:
    room = rooms[0]
    room.kept_as = "scannet"
    try:
        timed = ask_scenes(room, [room.name], SPEC)[0]
        room.times = False
        timeless = ask_scenes(room, [room.name], SPEC)[0]
    finally:
        room.kept_as, room.times = "rooms", True
    assert [q.truth for q in questions(timed, ROOM_SIZE)] == [f"{room.objects['room_size']:.1f}"]
    assert questions(timed, ORDER)
    assert timeless.rejected[ORDER, "the frames have no timestamps"] == 1


def test_scenes_without_objects_are_left_out_with_a_reason(rooms: list[Rendered]) -> None:
    room = rooms[0]
    try:
        for objects in ({**room.objects, "object_bboxes": {}, "room_size": None}, None):
            if objects is None:
                (room.folder / f"{room.name}.objects.json").unlink()
            else:
                room.write(objects)
            found = ask_scenes(room, [room.name], SPEC)[0]
            assert not found.drawn
            assert found.rejected == {(family, NO_OBJECTS): 1 for family in SPEC.families}
    finally:
        room.write(room.objects)


def test_a_rotated_frame_of_reference_changes_nothing(
    rooms: list[Rendered], asked: list[SceneQuestions]
) -> None:
    """Poses in a world of their own, objects in theirs: aligned_from_world joins them."""
    room, c, s = rooms[1], np.cos(0.7), np.sin(0.7)
    world = np.array([[c, -s, 0, 3], [s, c, 0, -2], [0, 0, 1, 1], [0, 0, 0, 1]])
    kept = room.pictures
    room.pictures = [
        one._replace(world_from_camera_44=np.linalg.inv(world) @ one.world_from_camera_44)
        for one in kept
    ]
    room.write({**room.objects, "aligned_from_world": world.ravel().tolist()})
    try:
        found = ask_scenes(room, [room.name], SPEC)[0]
    finally:
        room.pictures = kept
        room.write(room.objects)
    assert found == asked[1]
