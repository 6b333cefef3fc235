"""Shares of a frame on a picture that anyone can count."""

from dataclasses import dataclass

import numpy as np
import pytest

from preprocessing.questions.facts import Thing
from preprocessing.questions.sight import shares
from tests.unit.preprocessing.questions.scenes import box


@dataclass
class Picture:
    """A camera in the origin that looks along z at a wall of things 2 m away."""

    depth_mm: np.ndarray
    labels: np.ndarray
    K_33: np.ndarray
    world_from_camera_44: np.ndarray


def test_shares_are_of_all_pixels_also_of_those_without_depth() -> None:
    depth_mm = np.full((60, 80), 2000, np.uint16)
    depth_mm[:, 60:] = 0  # a quarter was not measured
    labels = np.full((60, 80), 5, np.uint8)
    labels[:15] = 1  # a quarter is wall, in the box or not
    K_33 = np.array([[80.0, 0, 40], [0, 80, 30], [0, 0, 1]])
    picture = Picture(depth_mm, labels, K_33, np.eye(4))
    chair = Thing(category="chair", instance=1, box=box(0, 0, 2, (10, 10, 0.2)))
    share_FT = shares([picture], [chair], np.eye(4))
    assert share_FT is not None
    assert share_FT[0, 0] == pytest.approx(0.75 * 0.75)
