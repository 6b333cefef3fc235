"""Is a frame fit for use? Each check answers with one of schema.DROP_REASONS, "" meaning fit."""

import cv2
import numpy as np

from spa3r.config import IngestSpec
from spa3r.geometry import is_rigid
from spa3r.schema import DROP_BLUR, DROP_DEPTH, DROP_POSE

POSE_TOLERANCE = 1e-2
"""Largest deviation from a rotation, per entry: exported poses are text of six digits."""


def judge(
    spec: IngestSpec,
    *,
    world_from_camera_44: np.ndarray | None = None,
    rgb: np.ndarray | None = None,
    depth_mm_HW: np.ndarray | None = None,
) -> str:
    """First reason to drop a frame, "" to keep it. Judges the pieces it is given.

    Call it with the pose alone before decoding anything, then with the pixels. Images that do not
    decode never get here: the decoder's ImageError is the reason.

    Args:
        spec: its min_sharpness and min_depth_share are the limits.
        world_from_camera_44: as stored, valid or not.
        rgb: (H, W, 3) uint8 at working size: sharpness depends on the size.
        depth_mm_HW: uint16, 0 = no measurement.
    """
    if world_from_camera_44 is not None and not is_rigid(world_from_camera_44, POSE_TOLERANCE):
        return DROP_POSE
    if rgb is not None and spec.min_sharpness > 0 and sharpness(rgb) < spec.min_sharpness:
        return DROP_BLUR
    if depth_mm_HW is not None:
        measured = np.count_nonzero(depth_mm_HW) / depth_mm_HW.size
        if measured == 0 or measured < spec.min_depth_share:
            return DROP_DEPTH
    return ""


def sharpness(rgb: np.ndarray) -> float:
    """Variance of the Laplacian of the 8-bit grey image: low means blurred or featureless."""
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S))
    return float(deviation[0, 0] ** 2)
