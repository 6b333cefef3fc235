"""Views of one scan or photo folder, ready for an encoder: what `spa3r encode` reads.

Legend: V views, H W pixels at working size.
"""

import numpy as np

from preprocessing.frames import decode
from preprocessing.scene import Damage, Frame
from preprocessing.sources import detect_dataset, open_scenes
from spa3r.config import IngestSpec
from spa3r.errors import SceneError
from spa3r.images import scale_K

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
    with scenes[0].open(labels=False) as scene:
        stride = max(1, len(scene.indices) // (_CANDIDATES_PER_VIEW * max_views))
        for frame in scene.frames(stride):
            found = frame.reason if isinstance(frame, Damage) else _view(frame, spec)
            if isinstance(found, str):
                reasons.add(found)
            else:
                good.append(found)
    if not good:
        raise SceneError(f"{path}: no usable frame ({', '.join(sorted(reasons)) or 'empty'})")
    chosen = np.linspace(0, len(good) - 1, min(max_views, len(good))).round().astype(int)
    return _stack([good[i] for i in chosen], path)


def _view(frame: Frame, spec: IngestSpec) -> dict[str, np.ndarray] | str:
    """The frame's arrays at working size, or the reason why it is of no use."""
    found = decode(frame, None, spec)
    if isinstance(found, Damage):
        return found.reason
    view = {"images": found.rgb_HW3}
    pose_44 = frame.world_from_camera_44
    if found.depth_mm_HW is not None and frame.K_33 is not None and pose_44 is not None:
        K_33 = scale_K(frame.K_33, found.size)
        view |= {"depth": found.depth_mm_HW, "K": K_33, "world_from_camera": pose_44}
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
