"""From points of a scene to its objects file: boxes, counts, room size (schema.OBJECTS_SUFFIX).

All in metres, in the scene's axis-aligned frame: z up. N points, F faces, T triangles.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np

ALPHA_RADIUS: Final = 0.3
"""Metres. The floor outline is made of Delaunay triangles with a smaller circumradius: gaps in the
floor plan of up to twice that are bridged, larger ones stay outside."""
_CELL: Final = 0.05  # metres; the floor plan is thinned out to one point a cell
_SPACING: Final = 0.1  # metres; larger faces are filled with points so far apart
_MAX_DIRECTIONS: Final = 1024  # more edges than that are a round outline's
_MAX_CELLS: Final = 200_000
_MAX_FILL: Final = 2_000_000
_DECIMALS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """One annotated thing: what it is, its number in the dataset, and its (N, 3) points, N > 0."""

    category: str
    instance_id: int
    points_N3: np.ndarray


def describe_objects(
    things: Iterable[SceneObject],
    mesh_N3: np.ndarray,
    faces_F3: np.ndarray,
    aligned_from_world_44: np.ndarray,
) -> dict[str, Any]:
    """The content of `<scene>.objects.json`.

    Args:
        things: in the aligned frame, like the mesh.
        mesh_N3: all that was scanned, (N, 3), N > 0.
        faces_F3: (F, 3) indices into the mesh; F may be 0.
        aligned_from_world_44: from the frame of the manifest's poses.
    """
    boxes: dict[str, list[dict[str, Any]]] = {}
    for thing in things:
        box = {"instance_id": thing.instance_id, **upright_box(thing.points_N3)}
        boxes.setdefault(thing.category, []).append(box)
    middle_3 = (mesh_N3.min(axis=0) + mesh_N3.max(axis=0)) / 2
    area = floor_area(mesh_N3, faces_F3)
    return {
        "room_size": None if area is None else round(area, _DECIMALS),
        "room_center": _listed(middle_3),
        "object_counts": {name: len(found) for name, found in boxes.items()},
        "object_bboxes": boxes,
        "aligned_from_world": [float(value) for value in aligned_from_world_44.ravel()],
    }


def upright_box(points_N3: np.ndarray) -> dict[str, list[float]]:
    """The smallest box around points (N, 3), N > 0, of those that stand upright.

    One axis is z; the others are those of the smallest rectangle around the points seen from above,
    the first being the one nearer to +x. `min` and `max` are the box's own bounds along x, y, z.
    """
    low, high = points_N3.min(axis=0), points_N3.max(axis=0)
    start_2 = (low[:2] + high[:2]) / 2
    # float32 is what OpenCV takes; near the middle it is exact to a micrometre.
    outline_M2 = cv2.convexHull((points_N3[:, :2] - start_2).astype(np.float32))[:, 0].astype(float)
    turn_22 = _smallest_rectangle(outline_M2)  # rows: the two axes
    along = outline_M2 @ turn_22.T
    side_2 = np.ptp(along, axis=0)
    centre_2 = start_2 + (along.min(axis=0) + along.max(axis=0)) / 2 @ turn_22
    lengths_3 = np.append(side_2, high[2] - low[2])
    axes_33 = np.eye(3)
    axes_33[:2, :2] = turn_22
    centre_3 = np.append(centre_2, (low[2] + high[2]) / 2)
    reach_3 = np.abs(axes_33 * lengths_3[:, None]).sum(axis=0) / 2
    return {
        "centroid": _listed(centre_3),
        "axesLengths": _listed(lengths_3),
        "normalizedAxes": _listed(axes_33),
        "min": _listed(centre_3 - reach_3),
        "max": _listed(centre_3 + reach_3),
    }


def _smallest_rectangle(outline_M2: np.ndarray) -> np.ndarray:
    """(2, 2) rows: axes of the smallest rectangle around a convex outline; one side lies on it."""
    edges_M2 = np.roll(outline_M2, -1, axis=0) - outline_M2
    longest = np.argsort(-np.hypot(*edges_M2.T), kind="stable")[:_MAX_DIRECTIONS]
    angles_A = np.arctan2(edges_M2[longest, 1], edges_M2[longest, 0])
    # Of the two axes of a rectangle, one lies within 45 degrees of x. 0 comes first: where another
    # direction is no better, the box stands along the walls.
    quarter = np.pi / 2
    angles_A = np.append(0.0, (angles_A + quarter / 2) % quarter - quarter / 2)
    turns_A22 = np.moveaxis(
        np.array([[np.cos(angles_A), np.sin(angles_A)], [-np.sin(angles_A), np.cos(angles_A)]]),
        source=-1,
        destination=0,
    )
    areas_A = np.array([np.ptp(outline_M2 @ turn_22.T, axis=0).prod() for turn_22 in turns_A22])
    return turns_A22[np.flatnonzero(areas_A <= areas_A.min() + 1e-9)[0]]


# --- the room -------------------------------------------------------------------------------------


def floor_area(mesh_N3: np.ndarray, faces_F3: np.ndarray) -> float | None:
    """Square metres inside the outline of a mesh seen from above; None: it has no outline.

    The outline is an alpha shape, as VSI-Bench takes for a room's size: of the Delaunay triangles
    between the points of the plan, those with a circumradius below ALPHA_RADIUS. Faces that are
    larger than a scanner's are filled with points first.
    """
    from scipy.spatial import Delaunay, QhullError  # large; only annotated scans need it

    plan_N2 = mesh_N3[:, :2]
    plan_N2 = np.concatenate([plan_N2, _filled(plan_N2[faces_F3])])
    plan_N2 = _thinned(plan_N2 - plan_N2.min(axis=0))
    try:
        corners_T32 = plan_N2[Delaunay(plan_N2).simplices]
    except (QhullError, ValueError):  # fewer than three points, or all on one line
        return None
    a_T2, b_T2 = (corners_T32[:, i] - corners_T32[:, 0] for i in (1, 2))
    area_T = np.abs(a_T2[:, 0] * b_T2[:, 1] - a_T2[:, 1] * b_T2[:, 0]) / 2
    sides_T3 = np.linalg.norm(corners_T32 - np.roll(corners_T32, 1, axis=1), axis=-1)
    inside_T = sides_T3.prod(axis=1) < 4 * area_T * ALPHA_RADIUS  # abc / 4A is the circumradius
    return float(area_T[inside_T].sum()) if inside_T.any() else None


def _filled(corners_F32: np.ndarray) -> np.ndarray:
    """(N, 2) points _SPACING apart inside the triangles larger than that; fewer if too many."""
    sides_F3 = np.linalg.norm(corners_F32 - np.roll(corners_F32, 1, axis=1), axis=-1)
    steps_F = np.ceil(sides_F3.max(axis=1, initial=0.0) / _SPACING)
    while (steps_F[steps_F > 1] ** 2).sum() > _MAX_FILL:
        steps_F = np.floor(steps_F / 2)
    points = [np.zeros((0, 2))]
    for steps in np.unique(steps_F[steps_F > 1]):
        i, j = np.mgrid[: steps + 1, : steps + 1]
        inside = i + j <= steps
        weights_P3 = np.stack([i, j, steps - i - j], axis=-1)[inside] / steps
        points.append(np.einsum("pk,fkc->fpc", weights_P3, corners_F32[steps_F == steps]))
    return np.concatenate([p.reshape(-1, 2) for p in points])


def _thinned(plan_N2: np.ndarray) -> np.ndarray:
    """One point for each occupied cell, in its middle; larger cells where there are too many."""
    cell = _CELL
    while True:
        cells_N2 = np.unique(np.rint(plan_N2 / cell).astype(np.int64), axis=0)
        if len(cells_N2) <= _MAX_CELLS:
            return cells_N2 * cell
        cell *= 2


def _listed(values: np.ndarray) -> list[float]:
    """Flat numbers for JSON; a millionth of a metre is beyond any scanner."""
    return [float(value) + 0.0 for value in np.round(values.astype(np.float64).ravel(), _DECIMALS)]
