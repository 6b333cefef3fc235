"""Hand-made scenes: things on a floor whose distances and directions anyone can check."""

from dataclasses import replace

import numpy as np

from preprocessing.questions.boxes import Box
from preprocessing.questions.facts import SceneFacts, Sight, Thing


def box(x: float, y: float, z: float, size: tuple[float, float, float], yaw: float = 0.0) -> Box:
    """A box by its middle, its sides and its turn in degrees."""
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    axes = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    return Box(np.array([x, y, z]), np.array(size, float), axes)


def thing(category: str, x: float, y: float, *, number: int = 1, side: float = 0.4) -> Thing:
    """A cube on the floor."""
    return Thing(category=category, instance=number, box=box(x, y, side / 2, (side, side, side)))


def scene(
    *things: Thing,
    room_size: float | None = 20.0,
    sight: Sight | None = None,
    structure: tuple[Thing, ...] = (),
    dataset: str = "rooms",
) -> SceneFacts:
    """Facts of these things."""
    ordered = tuple(sorted(things, key=lambda one: (one.category, one.instance)))
    return SceneFacts(
        scene="scene0000_00", dataset=dataset, things=ordered, structure=structure,
        room_size=room_size, aligned_from_world_44=np.eye(4), sight=sight,
    )  # fmt: skip


def square() -> SceneFacts:
    """Five things: a bed in the middle, and to its east, north, west and south others."""
    return scene(
        thing("bed", 0, 0), thing("chair", 2, 0), thing("door", 0.2, 3.0), thing("lamp", -4, 0.3),
        thing("plant", -0.3, -5),
    )  # fmt: skip


def moved(facts: SceneFacts, change_33: np.ndarray) -> SceneFacts:
    """The scene after a rotation about z or a mirroring of the plan; boxes stay boxes."""

    def changed(one: Thing) -> Thing:
        found = one.box
        axes_33 = found.axes_33 @ change_33.T
        return replace(one, box=Box(change_33 @ found.centre_3, found.lengths_3, axes_33))

    return replace(
        facts,
        things=tuple(map(changed, facts.things)),
        structure=tuple(map(changed, facts.structure)),
    )


def rotation(degrees: float) -> np.ndarray:
    """(3, 3) about z."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


MIRROR = np.diag([-1.0, 1.0, 1.0])
