"""Views of one scan or photo folder, ready for an encoder: what `spa3r encode` reads.

Legend: V views, H W pixels at working size.
"""

import numpy as np

from preprocessing.quality import judge
from preprocessing.scene import Damage, Frame
from preprocessing.sources import detect_dataset, open_scenes
from spa3r.config import IngestSpec
from spa3r.errors import ImageError, SceneError
from spa3r.images import (
    decode_color,
    decode_depth,
    fit_size,
    resize_color,
    resize_nearest,
    scale_K,
    stored_size,
)

# Looked at for each view that is wanted, so that a bad frame has a good one in its place.
_CANDIDATES_PER_VIEW = 2


def read_views(
    path: str, *, width: int, multiple: int, max_views: int = 8
) -> dict[str, np.ndarray]:
    """Up to max_views good frames, evenly spread over the scan, decoded as ingest decodes them.

    Args:
        path: one scan (`.sens` file, its folder, an exported folder) or one folder of photos.
        width: working width in pixels; `multiple` as in IngestSpec.

    Returns:
        "images" (V, H, W, 3) uint8 and, where the scan has all three, "depth" (V, H, W) uint16
        millimetres, "K" (V, 3, 3) and "world_from_camera" (V, 4, 4) float64.

    Raises:
        SceneError: nothing there, several scenes, no good frame, or frames of different sizes.
    """
    scenes = open_scenes(path, detect_dataset(path))
    if len(scenes) != 1:
        names = ", ".join(scene.name for scene in scenes[:3])
        raise SceneError(f"{path}: holds {len(scenes)} scenes ({names} ...); name one of them")
    spec = IngestSpec(width=width, multiple=multiple)
    good: list[dict[str, np.ndarray]] = []
    reasons: set[str] = set()
    with scenes[0].open() as scene:
        stride = max(1, len(scene.indices) // (_CANDIDATES_PER_VIEW * max_views))
        for frame in scene.frames(stride):
            found = frame.reason if isinstance(frame, Damage) else _decode(frame, spec)
            if isinstance(found, str):
                reasons.add(found)
            else:
                good.append(found)
    if not good:
        raise SceneError(f"{path}: no usable frame ({', '.join(sorted(reasons)) or 'empty'})")
    chosen = np.linspace(0, len(good) - 1, min(max_views, len(good))).round().astype(int)
    return _stack([good[i] for i in chosen], path)


def _decode(frame: Frame, spec: IngestSpec) -> dict[str, np.ndarray] | str:
    """The frame at working size, or the reason why it is of no use."""
    pose = frame.world_from_camera_44
    reason = judge(spec, world_from_camera_44=pose)
    if reason:
        return reason
    try:
        size = fit_size(stored_size(frame.color), spec.width, spec.multiple)
        rgb = decode_color(frame.color, (size.scaled_width, size.scaled_height))
        depth_mm = None
        if frame.depth is not None:
            depth_mm = resize_nearest(decode_depth(frame.depth), size)
    except ImageError as error:
        return str(error)
    view = {"images": resize_color(rgb, size)}
    reason = judge(spec, rgb=view["images"], depth_mm_HW=depth_mm)
    if reason:
        return reason
    if depth_mm is not None and frame.K_33 is not None and pose is not None:
        view |= {"depth": depth_mm, "K": scale_K(frame.K_33, size), "world_from_camera": pose}
    return view


def _stack(views: list[dict[str, np.ndarray]], path: str) -> dict[str, np.ndarray]:
    """Views as arrays; uncalibrated photos of one width are cropped to the lowest."""
    if len({tuple(sorted(view)) for view in views}) != 1:
        raise SceneError(f"{path}: some frames have depth and cameras and others do not")
    heights = {len(view["images"]) for view in views}
    if len(heights) > 1:
        if "K" in views[0]:
            raise SceneError(f"{path}: frames of different shapes (heights {sorted(heights)})")
        views = [{"images": _crop_rows(view["images"], min(heights))} for view in views]
    return {name: np.stack([view[name] for view in views]) for name in views[0]}


def _crop_rows(image: np.ndarray, height: int) -> np.ndarray:
    top = (len(image) - height) // 2
    return image[top : top + height]
