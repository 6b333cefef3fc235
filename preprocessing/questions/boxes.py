"""Upright boxes: how far apart they are, and what they cover seen from above. Metres, z up."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Box:
    """A box with one vertical axis.

    Attributes:
        centre_3: its middle.
        lengths_3: full extents along the axes.
        axes_33: rows, unit length: two level ones and (0, 0, 1), in any order.
    """

    centre_3: np.ndarray
    lengths_3: np.ndarray
    axes_33: np.ndarray

    @property
    def longest(self) -> float:
        """Metres of the longest side."""
        return float(self.lengths_3.max())

    @property
    def volume(self) -> float:
        """Cubic metres."""
        return float(self.lengths_3.prod())

    @cached_property
    def low(self) -> float:
        """Height of the bottom."""
        return float(self.centre_3[2] - self._upright_length / 2)

    @cached_property
    def high(self) -> float:
        """Height of the top."""
        return float(self.centre_3[2] + self._upright_length / 2)

    @cached_property
    def footprint_42(self) -> np.ndarray:
        """Corners seen from above, one after the other around the box."""
        half_22 = self.level_axes_22 * self.level_lengths_2[:, None] / 2
        signs_42 = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
        return self.centre_3[:2] + signs_42 @ half_22

    @cached_property
    def level_axes_22(self) -> np.ndarray:
        """Rows: the level axes in the plan."""
        return self.axes_33[self._level, :2]

    @cached_property
    def level_lengths_2(self) -> np.ndarray:
        """Extents along them."""
        return self.lengths_3[self._level]

    @property
    def _vertical(self) -> int:
        return int(np.abs(self.axes_33[:, 2]).argmax())

    @property
    def _level(self) -> list[int]:
        return [i for i in range(3) if i != self._vertical]

    @property
    def _upright_length(self) -> float:
        return float(self.lengths_3[self._vertical])


def upright(centre: Any, lengths: Any, axes: Any) -> Box | None:
    """The box of an objects file's centroid, axesLengths and normalizedAxes; None: not upright."""
    centre_3, lengths_3 = np.asarray(centre, np.float64), np.asarray(lengths, np.float64)
    axes_33 = np.asarray(axes, np.float64).reshape(3, 3)
    numbers = np.concatenate([centre_3, lengths_3, axes_33.ravel()])
    # Files hold millionths.
    square = np.allclose(axes_33 @ axes_33.T, np.eye(3), atol=1e-4)
    vertical = np.abs(axes_33[:, 2]).max() > 1 - 1e-4 if square else False
    if not (np.isfinite(numbers).all() and vertical and (lengths_3 >= 0).all()):
        return None
    return Box(centre_3, lengths_3, axes_33)


def distance(a: Box, b: Box) -> float:
    """Metres between the closest points of two boxes, exactly; 0 where they meet.

    An upright box is its footprint times an interval of heights, so the two parts add up as the
    sides of a right angle do.
    """
    rise = max(0.0, a.low - b.high, b.low - a.high)
    return float(np.hypot(rise, level_distance(a.footprint_42, b.footprint_42)))


def level_distance(a_K2: np.ndarray, b_L2: np.ndarray) -> float:
    """Metres between two convex outlines in the plane, corners in order; 0 where they overlap."""
    if _overlap(a_K2, b_L2):
        return 0.0
    # Apart, the shortest way starts or ends at a corner.
    return min(_to_edges(a_K2, b_L2), _to_edges(b_L2, a_K2))


def _overlap(a_K2: np.ndarray, b_L2: np.ndarray) -> bool:
    """Whether no edge of either separates them."""
    for outline in (a_K2, b_L2):
        edges_K2 = np.roll(outline, -1, axis=0) - outline
        normals_2K = np.stack([-edges_K2[:, 1], edges_K2[:, 0]])
        a, b = a_K2 @ normals_2K, b_L2 @ normals_2K
        if ((a.max(axis=0) < b.min(axis=0)) | (b.max(axis=0) < a.min(axis=0))).any():
            return False
    return True


def _to_edges(points_N2: np.ndarray, outline_K2: np.ndarray) -> float:
    """From the nearest of points to the nearest edge of an outline."""
    along_K2 = np.roll(outline_K2, -1, axis=0) - outline_K2
    square_K = np.maximum((along_K2**2).sum(axis=1), 1e-18)
    from_NK2 = points_N2[:, None] - outline_K2
    share_NK = np.clip((from_NK2 * along_K2).sum(axis=-1) / square_K, 0, 1)
    apart_NK2 = from_NK2 - share_NK[..., None] * along_K2
    return float(np.sqrt((apart_NK2**2).sum(axis=-1).min()))


def level_distances(points_N2: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """(B, N) metres from points of the plan to footprints; 0 inside."""
    axes_B22 = np.array([box.level_axes_22 for box in boxes]).reshape(-1, 2, 2)
    half_B2 = np.array([box.level_lengths_2 for box in boxes]).reshape(-1, 2) / 2
    centre_B2 = np.array([box.centre_3[:2] for box in boxes]).reshape(-1, 2)
    along_BN2 = np.einsum("bnc,bac->bna", points_N2 - centre_B2[:, None], axes_B22)
    return np.linalg.norm(np.maximum(np.abs(along_BN2) - half_B2[:, None], 0), axis=-1)
