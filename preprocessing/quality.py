"""Is a frame fit for use? Each check answers with one of schema.DROP_REASONS, "" meaning fit."""

from typing import Final

import cv2
import numpy as np

from spa3r.config import IngestSpec
from spa3r.geometry import is_rigid
from spa3r.schema import DROP_BLUR, DROP_DEPTH, DROP_EXPOSURE, DROP_POSE

POSE_TOLERANCE: Final = 1e-2
"""Largest deviation from a rotation, per entry: exported poses are text of six digits."""
BLACK: Final = 5
"""Grey up to this is black: JPEG leaves a few levels of noise on what the sensor saw as nothing."""
BLOWN_OUT: Final = 250
"""Grey from this on is blown out, for the same reason."""


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
        spec: its min_sharpness, max_clipped_share and min_depth_share are the limits.
        world_from_camera_44: as stored, valid or not.
        rgb: (H, W, 3) uint8 at working size: sharpness depends on the size.
        depth_mm_HW: uint16, 0 = no measurement.
    """
    if world_from_camera_44 is not None and not is_rigid(world_from_camera_44, POSE_TOLERANCE):
        return DROP_POSE
    if rgb is not None and spec.min_sharpness > 0 and sharpness(rgb) < spec.min_sharpness:
        return DROP_BLUR
    if rgb is not None and is_clipped(rgb, spec):
        return DROP_EXPOSURE
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


def clipped_share(rgb: np.ndarray) -> float:
    """Share of the pixels, 0..1, that show nothing because they are black or blown out.

    A window at noon or black furniture takes its part in a good picture too, and a scan at night is
    dark in all of its frames: no limit fits every dataset, so the spec's default drops nothing.
    """
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return np.count_nonzero((gray <= BLACK) | (gray >= BLOWN_OUT)) / gray.size


def is_clipped(rgb: np.ndarray, spec: IngestSpec) -> bool:
    """Whether more of the picture is black or blown out than the spec allows."""
    return spec.max_clipped_share < 1 and clipped_share(rgb) > spec.max_clipped_share
