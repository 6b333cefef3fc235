"""Which of a scan's frames are kept, before any is decoded at full size.

Where the choice depends on what the frames show, a survey reads the candidates once, small and one
at a time; the chosen ones are read again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from preprocessing.frames import SATURATED_MM
from preprocessing.quality import is_clipped, judge, sharpness
from preprocessing.scene import Damage, Frame, Scene, Timed, screened
from spa3r import frame_choice, images
from spa3r.config import IngestSpec
from spa3r.errors import ImageError, SceneError
from spa3r.images import EncodedDepth
from spa3r.schema import DROP_CHOICE, DROP_STRIDE

SURVEY_WIDTH: Final = 160
"""Of a colour picture in the survey, in pixels. The same for all, else sharpness does not compare;
an eighth of a ScanNet picture, which JPEG decodes for a fraction of the work."""
SURVEY_GRID: Final = (32, 24)
"""(width, height) of a depth map in the survey; see frame_choice.VOXEL_M."""


@dataclass(frozen=True, slots=True)
class FramePlan:
    """Frame numbers to read, ascending, and why each of the others is left out."""

    numbers: list[int]
    left_out: dict[int, str]
    """Frame number -> one of schema.NOT_LOST."""
    screened: frozenset[int] = frozenset()
    """Those of `numbers` that were not chosen: they are read to be told by their own reasons."""

    @property
    def chosen(self) -> list[int]:
        """Those of `numbers` that are meant to be kept."""
        return [number for number in self.numbers if number not in self.screened]


def plan_frames(scene: Scene, spec: IngestSpec) -> FramePlan:
    """Every stride-th frame (or so many a second), and of these, at most max_frames by `choice`.

    Frames that are known beforehand to be lost are not counted, neither by the stride nor by the
    choice; all of them are among the numbers to read.

    A frame that the survey finds of no use is picked only where there is no better one. It is then
    read again and dropped for its own reason; one that is not picked counts as not chosen, so that
    how many frames a scan loses is judged by those that were meant to be kept.

    Raises:
        SceneError: "coverage" of a scan without depth, poses or intrinsics; frames_per_second of
            one without times.
    """
    lost = screened(scene)
    usable = [number for number in scene.indices if number not in lost]
    candidates = usable[:: spec.stride]
    if spec.frames_per_second:
        candidates = _by_time(scene, usable, spec.frames_per_second)
    if not 0 < spec.max_frames < len(candidates):
        numbers = candidates
    elif spec.choice == "uniform":
        numbers = _at(candidates, frame_choice.uniform(len(candidates), spec.max_frames))
    elif spec.choice == "sharpest":
        scores = np.array([_score(entry, spec) for entry in scene.frames(candidates)])
        numbers = _at(candidates, frame_choice.sharpest(scores, spec.max_frames))
    else:
        numbers = _covering(scene, candidates, spec)
    left_out = dict.fromkeys(usable, DROP_STRIDE) | dict.fromkeys(candidates, DROP_CHOICE)
    for number in numbers:
        del left_out[number]
    return FramePlan(sorted([*numbers, *lost]), left_out, lost)


def _by_time(scene: Scene, numbers: Sequence[int], rate: float) -> list[int]:
    """The first of these frames in each 1 / rate seconds in which there is one."""
    times_us = [scene.time_us(n) for n in numbers] if isinstance(scene, Timed) else [-1]
    if min(times_us, default=0) < 0:
        raise SceneError("frames carry no times, so frames_per_second has no meaning; use stride")
    first_in: dict[int, int] = {}
    for number, time_us in zip(numbers, times_us, strict=True):
        # Half a microsecond: times are rounded, and 1 / 30 s is no whole number of them.
        first_in.setdefault(int((time_us + 0.5) * rate / 1e6), number)
    return list(first_in.values())


def _at(candidates: Sequence[int], places: np.ndarray) -> list[int]:
    return [candidates[place] for place in places]


# --- sharpest -------------------------------------------------------------------------------------


def _score(entry: Frame | Damage, spec: IngestSpec) -> float:
    """Sharpness at SURVEY_WIDTH; -inf of a frame that is of no use.

    A lens is not undone: it blurs all frames of a scan alike.
    """
    if isinstance(entry, Damage) or judge(spec, world_from_camera_44=entry.world_from_camera_44):
        return -np.inf
    try:
        size = images.fit_size(images.stored_size(entry.color), SURVEY_WIDTH, 1)
        smallest = (size.scaled_width, size.scaled_height)
        rgb = images.resize_color(images.decode_color(entry.color, smallest), size)
        depth_mm = None if entry.depth is None else _small_depth(entry.depth)
    except ImageError:  # told by its name when it is read again
        return -np.inf
    if is_clipped(rgb, spec) or judge(spec, depth_mm_HW=depth_mm):
        return -np.inf
    return sharpness(rgb)


# --- coverage -------------------------------------------------------------------------------------


def _covering(scene: Scene, candidates: Sequence[int], spec: IngestSpec) -> list[int]:
    """Numbers of the frames that see most; where too few are of use, others make up the count.

    Raises:
        SceneError: none has all three of depth, pose and intrinsics.
    """
    seen: dict[int, np.ndarray] = {}
    useless: list[int] = []
    blind = 0
    for entry in scene.frames(candidates):
        voxels = None if isinstance(entry, Damage) else _seen(entry, spec)
        if voxels is not None:
            seen[entry.index] = voxels
            continue
        useless.append(entry.index)
        blind += isinstance(entry, Frame) and not _knows_space(entry)
    if blind and not seen:
        raise SceneError(
            f"{blind} of {len(candidates)} frames lack depth, pose or intrinsics, which choice"
            " 'coverage' needs; use 'sharpest' or 'uniform'"
        )
    numbers = _at(list(seen), frame_choice.cover(list(seen.values()), spec.max_frames))
    if wanted := spec.max_frames - len(numbers):
        numbers += _at(useless, frame_choice.uniform(len(useless), wanted))
    return sorted(numbers)


def _knows_space(frame: Frame) -> bool:
    return not (frame.depth is None or frame.world_from_camera_44 is None or frame.K_33 is None)


def _seen(frame: Frame, spec: IngestSpec) -> np.ndarray | None:
    """What frame_choice.seen_voxels says of it; None: it is of no use."""
    pose_44, K_33 = frame.world_from_camera_44, frame.K_33
    if frame.depth is None or pose_44 is None or K_33 is None:
        return None
    if judge(spec, world_from_camera_44=pose_44):
        return None
    try:
        size = _survey_size(images.stored_size(frame.color))
        small_mm = _small_depth(frame.depth)
    except ImageError:  # told by its name when it is read again
        return None
    if judge(spec, depth_mm_HW=small_mm):
        return None
    return frame_choice.seen_voxels(pose_44, images.scale_K(K_33, size), small_mm / 1000)


# --- depth, small ---------------------------------------------------------------------------------


def _survey_size(source: tuple[int, int]) -> images.WorkingSize:
    """From a picture of this (width, height) to SURVEY_GRID, nothing cropped."""
    width, height = SURVEY_GRID
    return images.WorkingSize(
        width=width, height=height, scaled_width=width, scaled_height=height,
        source_width=source[0], source_height=source[1],
    )  # fmt: skip


def _small_depth(depth: EncodedDepth) -> np.ndarray:
    """uint16 millimetres of SURVEY_GRID. Raises ImageError."""
    small_mm = images.resize_nearest(images.decode_depth(depth), _survey_size(SURVEY_GRID))
    small_mm[small_mm == SATURATED_MM] = 0
    return small_mm
