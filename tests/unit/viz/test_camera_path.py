"""The picture of a camera path: drawn where there are poses, upright, with or without depth."""

import io

import numpy as np
from PIL import Image

from spa3r.data.shards import FrameSample
from spa3r.viz.camera_path import _level, camera_path
from spa3r.viz.sheet import TILE_WIDTH, contact_sheet, stacked

COLOUR = (10, 200, 30)


def sample(number: int, *, depth: bool = True, posed: bool = True) -> FrameSample:
    """A camera walking along x, its y axis (down) along the world's -z: z is up."""
    pose_44 = np.eye(4)
    pose_44[:3, :3] = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    pose_44[:3, 3] = (0.4 * number, 0, 1.5)
    return FrameSample(
        frame=number,
        color=np.full((12, 16, 3), COLOUR, np.uint8),
        depth_mm=np.full((12, 16), 2000, np.uint16) if depth else None,
        labels=None,
        mask=None,
        K_33=np.array([[14.0, 0, 8], [0, 14, 6], [0, 0, 1]]),
        world_from_camera_44=pose_44 if posed else None,
    )


def drawn(samples: list[FrameSample]) -> bytes | None:
    poses = [s.world_from_camera_44 for s in samples if s.world_from_camera_44 is not None]
    return camera_path(samples, np.array(poses).reshape(-1, 4, 4), "a scene")


def test_up_is_up_and_the_way_lies_along_x():
    poses_C44 = np.stack([np.asarray(sample(i).world_from_camera_44) for i in range(4)])
    level_44 = _level(poses_C44)
    np.testing.assert_allclose(level_44[2, :3], [0, 0, 1], atol=1e-12)
    way = (level_44 @ poses_C44)[:, :3, 3]
    assert np.ptp(way[:, 0]) > 1.19 and np.ptp(way[:, 1:]) < 1.51
    assert np.isclose(np.linalg.det(level_44[:3, :3]), 1)


def test_a_camera_that_stands_still_is_drawn():
    level_44 = _level(np.stack([np.asarray(sample(0).world_from_camera_44)] * 2))
    assert np.isclose(np.linalg.det(level_44[:3, :3]), 1)


def test_pictures():
    for depth in (True, False):
        data = drawn([sample(i, depth=depth) for i in range(3)])
        assert data is not None
        colours = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3)
        assert (colours == (0xD1, 0x24, 0x6B)).all(axis=1).any()  # the way
        green = (colours[:, 1] > 150) & (colours[:, [0, 2]] < 120).all(axis=1)
        assert green.any() == depth  # the points
    assert drawn([sample(0)]) is None
    assert drawn([sample(i, posed=False) for i in range(3)]) is None


def test_stacked_is_as_wide_as_the_sheet():
    sheet = contact_sheet([sample(i) for i in range(4)])
    both = Image.open(io.BytesIO(stacked(sheet, drawn([sample(0), sample(1)]) or b"")))
    assert both.width == 4 * TILE_WIDTH > Image.open(io.BytesIO(sheet)).height
