"""What the frames of a scene see of its annotated things: pixels, not guesses.

A pixel with measured depth is a point of the scene. It shows the thing in whose box it lies, if its
label agrees; of several such boxes the smallest, because a cushion lies inside its sofa's box and
not the other way round. What covers a thing is nearer to the camera, so a covered thing has no
pixels, and no box has to be projected.

Labels are NYU40 ids, an objects file names the dataset's own categories. Which label belongs to a
category is learnt from the scene: the most frequent one among points that lie in a box of this
category and in no other's, walls, floors and ceilings aside. Without label images nothing is known
of what is seen: boxes alone hold the floor under a table and the wall behind a curtain.

Legend: P points of a frame, T things, C categories, F frames.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from preprocessing.questions.facts import Thing

WIDTH: Final = 80
"""Pixels across that are looked at, about: a thing that fills SEEN of a frame has some ten."""
MARGIN: Final = 0.03
"""Metres around a box that still count as inside: noise of poses and depth, whose own grows."""
MARGIN_A_METRE: Final = 0.01
"""More of it for each metre from the camera."""
_LABELS: Final = 42  # NYU40, 0 = unlabelled, and what is beyond
_STRUCTURE_LABELS: Final = (0, 1, 2, 22, 41)  # unlabelled, wall, floor, ceiling, none


class Frame(Protocol):
    """What is needed of spa3r.data.shards.FrameSample."""

    @property
    def depth_mm(self) -> np.ndarray | None:
        """(H, W) uint16, 0 = no measurement."""
        ...

    @property
    def labels(self) -> np.ndarray | None:
        """(H, W) uint8 NYU40 ids."""
        ...

    @property
    def K_33(self) -> np.ndarray | None:  # noqa: N802 (the shards' name)
        """Pixels of the depth map."""
        ...

    @property
    def world_from_camera_44(self) -> np.ndarray | None:
        """Metres."""
        ...


@dataclass(frozen=True, slots=True)
class _Look:
    """Points of one frame: in which boxes they lie, their labels; and how many pixels it has."""

    inside_TP: np.ndarray
    label_P: np.ndarray
    pixels: int


def shares(
    frames: Iterable[Frame], things: Sequence[Thing], aligned_from_world_44: np.ndarray
) -> np.ndarray | None:
    """(F, T) share of each frame's pixels that show each thing; None: a frame lacks depth,
    labels, intrinsics or a pose.

    Args:
        things: those of one category together.
    """
    looks: list[_Look] = []
    for frame in frames:
        look = _look(frame, things, aligned_from_world_44)
        if look is None:
            return None
        looks.append(look)
    if not looks or not things:
        return np.zeros((len(looks), len(things)))
    new_T = [i == 0 or thing.category != things[i - 1].category for i, thing in enumerate(things)]
    label_T = _labels_of(looks, np.flatnonzero(new_T))[np.cumsum(new_T) - 1]
    # The smallest box first: argmax takes the first that holds a point.
    order_T = np.argsort([thing.box.volume for thing in things], kind="stable")
    share_FT = np.zeros((len(looks), len(things)))
    for row_T, look in zip(share_FT, looks, strict=True):
        shown_TP = look.inside_TP & (look.label_P == label_T[:, None])
        first_P = order_T[shown_TP[order_T].argmax(axis=0)]
        found_P = first_P[shown_TP.any(axis=0)]
        row_T += np.bincount(found_P, minlength=len(things)) / look.pixels
    return share_FT


def _look(frame: Frame, things: Sequence[Thing], aligned_from_world_44: np.ndarray) -> _Look | None:
    depth, labels = frame.depth_mm, frame.labels
    K_33, pose_44 = frame.K_33, frame.world_from_camera_44
    if depth is None or labels is None or K_33 is None or pose_44 is None:
        return None
    step = max(1, round(depth.shape[1] / WIDTH))
    y, x = np.mgrid[step // 2 : depth.shape[0] : step, step // 2 : depth.shape[1] : step]
    x, y = x.ravel(), y.ravel()
    metres_P = depth[y, x] / 1000.0
    known_P = metres_P > 0
    rays_P3 = np.stack([x + 0.5, y + 0.5, np.ones(len(x))], axis=-1) @ np.linalg.inv(K_33).T
    points_P3 = (rays_P3 * metres_P[:, None])[known_P]
    aligned_44 = aligned_from_world_44 @ pose_44
    points_P3 = points_P3 @ aligned_44[:3, :3].T + aligned_44[:3, 3]
    margin_P = MARGIN + MARGIN_A_METRE * metres_P[known_P]
    inside_TP = _inside(points_P3, things, margin_P)
    return _Look(inside_TP, labels[y, x][known_P], len(x))


def _inside(points_P3: np.ndarray, things: Sequence[Thing], margin_P: np.ndarray) -> np.ndarray:
    """(T, P) bool: which points lie in which boxes, or so far from them."""
    inside_TP = np.zeros((len(things), len(points_P3)), bool)
    z_P, reach_P = points_P3[:, 2], margin_P[:, None]
    for row_P, thing in zip(inside_TP, things, strict=True):
        box = thing.box
        # Few points are at a box's height, and short arrays are several times faster than one long.
        at = np.flatnonzero((z_P >= box.low - margin_P) & (z_P <= box.high + margin_P))
        (ax, ay), (bx, by) = box.level_axes_22
        x_M, y_M = (points_P3[at, :2] - box.centre_3[:2]).T
        half_2 = box.level_lengths_2 / 2 + reach_P[at]
        row_P[at] = (np.abs(ax * x_M + ay * y_M) <= half_2[:, 0]) & (
            np.abs(bx * x_M + by * y_M) <= half_2[:, 1]
        )
    return inside_TP


def _labels_of(looks: Sequence[_Look], first_C: np.ndarray) -> np.ndarray:
    """(C,) the NYU40 label of each category; -1: no point tells.

    Args:
        first_C: place of each category's first thing; they stand together.
    """
    alone_CL = np.zeros((len(first_C), _LABELS), np.int64)
    among_CL = np.zeros_like(alone_CL)
    held = [_held(look, first_C) for look in looks]
    for inside_CP, label_P in held:
        one_P = inside_CP.sum(axis=0) == 1
        np.add.at(alone_CL, (inside_CP[:, one_P].argmax(axis=0), label_P[one_P]), 1)
    label_C = _most_frequent(alone_CL)
    if (label_C < 0).any():
        # A cushion's box may lie inside its sofa's: what is left of it when the sofa is taken out.
        for inside_CP, label_P in held:
            left_P = ~(inside_CP & (label_C[:, None] == label_P)).any(axis=0)
            category_M, point_M = np.nonzero(inside_CP & left_P)
            np.add.at(among_CL, (category_M, label_P[point_M]), 1)
        label_C = np.where(label_C < 0, _most_frequent(among_CL), label_C)
    return label_C


def _held(look: _Look, first_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the points that lie in any box, (C, P) in boxes of which categories, and (P,) labels."""
    some_P = look.inside_TP.any(axis=0)
    inside_CP = np.logical_or.reduceat(look.inside_TP[:, some_P], first_C, axis=0)
    return inside_CP, np.minimum(look.label_P[some_P], _LABELS - 1)


def _most_frequent(votes_CL: np.ndarray) -> np.ndarray:
    votes_CL[:, _STRUCTURE_LABELS] = 0
    return np.where(votes_CL.any(axis=1), votes_CL.argmax(axis=1), -1)
