"""Which few of many frames to look at: evenly spaced, sharpest, or those that see the most.

Ingest chooses a scan's frames with these functions, and so does whoever asks a language model about
a video. Every function returns ascending indices, at most `target` of them, and is deterministic.
Legend: F frames, H W pixels of small depth maps, N points.
"""

import heapq
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from spa3r.geometry import backproject, transform_points

VOXEL_M: Final = 0.2
"""A 32 x 24 depth map of a 60 degree camera has rays 0.1 m apart at 3 m. With voxels twice that a
surface seen again counts as seen, not as new for falling between rays; and 0.2 m still tells
pieces of furniture apart."""
MAX_POINTS: Final = 1024
"""Of one frame; larger depth maps are thinned, so that the ids of 5000 frames stay below 41 MB."""
_BITS: Final = 21
"""Of each of a voxel's coordinates: 200 km to either side of the origin; beyond is the edge."""


def uniform(count: int, target: int) -> np.ndarray:
    """Evenly spaced indices, first and last among them; all of them if there are no more.

    linspace rounded to the nearest, which is how vision-language models sample videos: with the
    same target they look at the same frames. A single one is the first.

    Args:
        count: number of frames, 0 or more; `target`, at least 1, is how many are wanted.
    """
    assert count >= 0 and target >= 1, f"count {count} and target {target} must be 0 and 1 or more"
    return np.linspace(0, count - 1, min(count, target)).round().astype(np.int64)


def sharpest(sharpness_F: np.ndarray, target: int) -> np.ndarray:
    """The sharpest frame of each of `target` equal windows in time; ties go to the earlier one.

    Args:
        sharpness_F: larger is sharper; -inf for a frame to be taken only if its whole window is.
    """
    assert sharpness_F.ndim == 1, f"sharpness_F must be (F,), got {sharpness_F.shape}"
    assert not np.isnan(sharpness_F).any(), "sharpness_F holds NaN"
    assert target >= 1, f"target must be at least 1, got {target}"
    count = len(sharpness_F)
    if count <= target:
        return np.arange(count)
    edges = [count * window // target for window in range(target + 1)]
    best = [start + int(sharpness_F[start:end].argmax()) for start, end in pairwise(edges)]
    return np.array(best, np.int64)


def coverage(
    world_from_camera_F44: np.ndarray,
    K_F33: np.ndarray,
    depth_m_FHW: np.ndarray,
    target: int,
    *,
    voxel_m: float = VOXEL_M,
) -> np.ndarray:
    """Greedy maximum coverage of the space that the frames see, counted in occupied voxels.

    First the frame that sees most, then each time the one that adds most; ties go to the lower
    index. Once nothing is new, the rest is spread evenly over the frames left.

    Args:
        world_from_camera_F44: poses, metres.
        K_F33: pixels of these depth maps.
        depth_m_FHW: small z-depth maps (32 x 24 will do) in metres, 0 = none.
        voxel_m: side of a voxel in metres.
    """
    count = len(depth_m_FHW)
    assert world_from_camera_F44.shape == (count, 4, 4), (
        f"world_from_camera_F44 must be ({count}, 4, 4), got {world_from_camera_F44.shape}"
    )
    assert K_F33.shape == (count, 3, 3), f"K_F33 must be ({count}, 3, 3), got {K_F33.shape}"
    frames = zip(world_from_camera_F44, K_F33, depth_m_FHW, strict=True)
    return cover([seen_voxels(*frame, voxel_m=voxel_m) for frame in frames], target)


def seen_voxels(
    world_from_camera_44: np.ndarray,
    K_33: np.ndarray,
    depth_m_HW: np.ndarray,
    *,
    voxel_m: float = VOXEL_M,
) -> np.ndarray:
    """Sorted int64 ids of the voxels of the world's grid in which the frame measured a point.

    Arguments as of `coverage`, for one frame; whose pose or K is not finite sees nothing.
    """
    with np.errstate(all="ignore"):
        points_HW3 = backproject(depth_m_HW.astype(np.float64), K_33)
        measured_N3 = points_HW3[(depth_m_HW > 0) & np.isfinite(depth_m_HW)]
        thinned_N3 = measured_N3[:: max(1, -(-len(measured_N3) // MAX_POINTS))]
        cells_N3 = np.floor(transform_points(world_from_camera_44, thinned_N3) / voxel_m)
    half = 1 << (_BITS - 1)
    cells_N3 = np.clip(cells_N3[~np.isnan(cells_N3).any(axis=-1)], -half, half - 1)
    x_N, y_N, z_N = (cells_N3.astype(np.int64) + half).T
    return np.unique((x_N << 2 * _BITS) | (y_N << _BITS) | z_N)


def cover(seen: Sequence[np.ndarray], target: int) -> np.ndarray:
    """`coverage` of frames whose voxels are known.

    Lazy but exact: a gain only shrinks while frames are chosen, so one counted long ago is an upper
    bound, and only the frame at the top is ever counted again.

    Args:
        seen: for each frame the int64 ids of what it sees, none of them twice.
    """
    assert target >= 1, f"target must be at least 1, got {target}"
    count = len(seen)
    if count <= target:
        return np.arange(count)
    lengths = [len(ids) for ids in seen]
    _, dense = np.unique(np.concatenate(seen), return_inverse=True)
    dense_seen = np.split(dense, np.cumsum(lengths)[:-1])  # the same ids, counted from 0
    new = np.ones(dense.max(initial=-1) + 1, bool)
    gains = [(-length, index) for index, length in enumerate(lengths)]
    heapq.heapify(gains)
    chosen: list[int] = []
    while len(chosen) < target:
        _, index = gains[0]
        gain = (-int(np.count_nonzero(new[dense_seen[index]])), index)
        heapq.heapreplace(gains, gain)
        if gains[0] != gain:
            continue
        if gain[0] == 0:
            break
        heapq.heappop(gains)
        new[dense_seen[index]] = False
        chosen.append(index)
    rest = np.setdiff1d(np.arange(count), chosen)
    if len(chosen) < target:
        chosen += rest[uniform(len(rest), target - len(chosen))].tolist()
    return np.array(sorted(chosen), np.int64)
