"""Frames are dropped for a named reason, at the limits the spec sets."""

import cv2
import numpy as np
import pytest

from preprocessing.quality import judge, sharpness
from spa3r.config import IngestSpec
from spa3r.schema import DROP_BLUR, DROP_DEPTH, DROP_POSE

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
