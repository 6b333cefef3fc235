"""Frames are dropped for a named reason, at the limits the spec sets."""

import cv2
import numpy as np
import pytest

from preprocessing.quality import clipped_share, judge, sharpness
from spa3r.config import IngestSpec
from spa3r.schema import DROP_BLUR, DROP_DEPTH, DROP_EXPOSURE, DROP_POSE

SPEC = IngestSpec()
NOISE = np.random.default_rng(0).integers(0, 255, (42, 56, 3)).astype(np.uint8)


@pytest.mark.parametrize("value", [-np.inf, np.nan, 0.0])
def test_poses_scannet_marks_as_invalid(value: float):
    assert judge(SPEC, world_from_camera_44=np.full((4, 4), value)) == DROP_POSE


def test_a_pose_is_judged_before_the_pixels():
    bad, empty = np.zeros((4, 4)), np.zeros((4, 4), np.uint16)
    assert judge(SPEC, world_from_camera_44=bad, depth_mm_HW=empty) == DROP_POSE


def test_a_fit_frame_and_a_photo_pass():
    full = np.full((42, 56), 900, np.uint16)
    assert judge(SPEC, world_from_camera_44=np.eye(4), rgb=NOISE, depth_mm_HW=full) == ""
    assert judge(SPEC, rgb=NOISE) == ""


@pytest.mark.parametrize(("measured", "reason"), [(0, DROP_DEPTH), (19, DROP_DEPTH), (20, "")])
def test_depth_needs_its_share_of_measured_pixels(measured: int, reason: str):
    depth = np.zeros(1000, np.uint16)
    depth[:measured] = 1200
    assert judge(SPEC, depth_mm_HW=depth.reshape(20, 50)) == reason


def test_wholly_empty_depth_is_dropped_at_any_limit():
    spec = IngestSpec(min_depth_share=0)
    assert judge(spec, depth_mm_HW=np.zeros((4, 4), np.uint16)) == DROP_DEPTH


def test_blur_lowers_sharpness_and_the_limit_decides():
    blurred = cv2.GaussianBlur(NOISE, (0, 0), 3)
    assert sharpness(blurred) < 0.05 * sharpness(NOISE)
    strict = IngestSpec(min_sharpness=sharpness(NOISE) / 2)
    assert judge(strict, rgb=NOISE) == ""
    assert judge(strict, rgb=blurred) == DROP_BLUR
    assert judge(SPEC, rgb=blurred) == ""


def gray(*values: int) -> np.ndarray:
    """One row of grey pixels, (1, W, 3)."""
    return np.repeat(np.array(values, np.uint8)[None, :, None], 3, axis=2)


def test_clipped_pixels_are_the_black_and_the_blown_out_ones():
    assert clipped_share(gray(0, 5, 6, 128, 249, 250, 255, 255)) == 5 / 8
    saturated_colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]]], np.uint8)
    assert clipped_share(saturated_colours) == 0


@pytest.mark.parametrize(("limit", "reason"), [(0.5, ""), (0.49, DROP_EXPOSURE), (1.0, "")])
def test_exposure_is_judged_by_the_share_of_clipped_pixels(limit: float, reason: str):
    half = gray(0, 0, 255, 90, 90, 90)
    assert judge(IngestSpec(max_clipped_share=limit), rgb=half) == reason
    everything = gray(0, 255, 0, 255)
    assert judge(IngestSpec(max_clipped_share=limit), rgb=everything) == (
        "" if limit == 1 else DROP_EXPOSURE
    )


def test_the_reasons_have_an_order():
    black, empty = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16)
    pieces = {"world_from_camera_44": np.zeros((4, 4)), "rgb": black, "depth_mm_HW": empty}
    strict = IngestSpec(min_sharpness=1.0, max_clipped_share=0.5)
    found = [judge(strict, **pieces)]
    pieces["world_from_camera_44"] = np.eye(4)
    found.append(judge(strict, **pieces))
    fair = IngestSpec(max_clipped_share=0.5)
    found.append(judge(fair, **pieces))
    pieces["rgb"] = np.full((4, 4, 3), 90, np.uint8)
    found.append(judge(fair, **pieces))
    assert found == [DROP_POSE, DROP_BLUR, DROP_EXPOSURE, DROP_DEPTH]
