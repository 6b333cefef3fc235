"""Views of one scan or photo folder, ready for an encoder: what `spa3r encode` reads.

Legend: V views, H W pixels at working size.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from preprocessing.frames import decode
from preprocessing.photos import PhotoSource, list_photos
from preprocessing.scene import Damage, Frame, base_name, screened
from preprocessing.sources import find_scenes
from spa3r.config import IngestSpec
from spa3r.errors import SceneError
from spa3r.frame_choice import uniform
from spa3r.images import scale_K

log = logging.getLogger(__name__)

# Looked at for each view that is wanted, so that a bad frame has a good one in its place.
_CANDIDATES_PER_VIEW: Final = 2
_NAMED: Final = 5
"""Frames left out for one reason that a log line names; a long scan may lose hundreds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ScanViews:
    """Good frames of a scan."""

    arrays: dict[str, Any]
    """"images" (V, H, W, 3) uint8 and, where the scan has all three, "depth" (V, H, W) uint16
    millimetres, "K" (V, 3, 3) and "world_from_camera" (V, 4, 4) float64: what
    `Spa3REncoder.encode` takes."""
    names: tuple[str, ...]
    """Of the photos' files; of a scan's frames frame-000120, by their number."""
    source_sizes: tuple[tuple[int, int], ...]
    """(width, height) of the frames before they were resized, upright."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _View:
    arrays: dict[str, np.ndarray]
    name: str
    source_size: tuple[int, int]


def read_views(path: str, *, width: int, multiple: int, max_views: int = 8) -> ScanViews:
    """Up to max_views good frames, evenly spread over the scan, decoded as ingest decodes them.

    Args:
        path: one scan (`.sens` file, its folder, an exported folder) or one folder of photos.
        width: working width in pixels; `multiple` as in IngestSpec.
        max_views: 0: every good frame.

    Raises:
        SceneError: nothing there, several scenes, no good frame, or frames of different sizes.
    """
    _, scenes = find_scenes(path)
    if len(scenes) != 1:
        names = ", ".join(scene.name for scene in scenes[:3])
        raise SceneError(f"{path}: holds {len(scenes)} scenes ({names} ...); name one of them")
    spec = IngestSpec(width=width, multiple=multiple)
    good: list[_View] = []
    left_out: dict[str, list[str]] = {}
    source = scenes[0]
    photos = list_photos(source.url) if isinstance(source, PhotoSource) else []
    with source.open(labels=False) as scene:
        lost = screened(scene)
        # Where nothing can be had, reading says why.
        usable = [n for n in scene.indices if n not in lost] or scene.indices
        wanted = max_views or max(1, len(usable))
        stride = max(1, len(usable) // (_CANDIDATES_PER_VIEW * wanted))
        for frame in scene.frames(usable[::stride]):
            name = base_name(photos[frame.index]) if photos else f"frame-{frame.index:06d}"
            found = frame.reason if isinstance(frame, Damage) else _view(frame, name, spec)
            if isinstance(found, str):
                left_out.setdefault(found, []).append(name)
            else:
                good.append(found)
    if not good:
        raise SceneError(f"{path}: no usable frame ({', '.join(sorted(left_out)) or 'empty'})")
    if left_out:
        log.warning("%s: %s", path, _told(left_out, len(good)))
    views = [good[place] for place in uniform(len(good), wanted)]
    return ScanViews(
        arrays=_stack([view.arrays for view in views], path),
        names=tuple(view.name for view in views),
        source_sizes=tuple(view.source_size for view in views),
    )


def _told(left_out: dict[str, list[str]], num_good: int) -> str:
    """One line: how many frames are left out, and by reason how many and which."""
    parts = []
    for reason, names in sorted(left_out.items()):
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        count = f"{len(names)} " if len(names) > 1 else ""
        why = f"{count}{reason.replace('_', ' ')}"
        parts.append(f"{', '.join(names[:_NAMED])}{more} ({why})")
    num_bad = sum(map(len, left_out.values()))
    return f"left out {num_bad} of {num_bad + num_good}: {'; '.join(parts)}"


def _view(frame: Frame, name: str, spec: IngestSpec) -> _View | str:
    """The frame at working size, or the reason why it is of no use."""
    found = decode(frame, None, spec)
    if isinstance(found, Damage):
        return found.reason
    arrays = {"images": found.rgb_HW3}
    pose_44 = frame.world_from_camera_44
    if found.depth_mm_HW is not None and frame.K_33 is not None and pose_44 is not None:
        K_33 = scale_K(frame.K_33, found.size)
        arrays |= {"depth": found.depth_mm_HW, "K": K_33, "world_from_camera": pose_44}
    size = (found.size.source_width, found.size.source_height)
    return _View(arrays=arrays, name=name, source_size=size)


def _stack(views: list[dict[str, np.ndarray]], path: str) -> dict[str, np.ndarray]:
    """Views as arrays; uncalibrated photos of one width are cropped to the lowest."""
    if len({tuple(sorted(view)) for view in views}) != 1:
        raise SceneError(f"{path}: some frames have depth and cameras and others do not")
    heights = {len(view["images"]) for view in views}
    if len(heights) > 1:
        if "K" in views[0]:
            raise SceneError(f"{path}: frames of different shapes (heights {sorted(heights)})")
        log.info("%s: photos of heights %s are cropped to the lowest", path, sorted(heights))
        views = [{"images": _crop_rows(view["images"], min(heights))} for view in views]
    return {name: np.stack([view[name] for view in views]) for name in views[0]}


def _crop_rows(image: np.ndarray, height: int) -> np.ndarray:
    top = (len(image) - height) // 2
    return image[top : top + height]
