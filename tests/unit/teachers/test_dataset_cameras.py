from dataclasses import replace

import numpy as np
import pytest
import torch

from spa3r.errors import TeacherError
from spa3r.geometry import backproject, invert_rigid, transform_points
from spa3r.teachers.base import ClipViews
from spa3r.teachers.dataset_cameras import dataset_cameras

K = np.array([[20.0, 0.5, 7.5], [0, 22.0, 5.0], [0, 0, 1]])


def pose(angle: float, x: float, y: float, z: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s, x], [0, 1, 0, y], [-s, 0, c, z], [0, 0, 0, 1]])


def clip() -> ClipViews:
    depth = np.random.default_rng(0).uniform(1, 4, (1, 3, 10, 15)).astype(np.float32)
    depth[0, :, :3] = 0
    poses = np.stack([pose(0.3, 1, 2, 3), pose(-0.4, 2, 0, 1), pose(1.2, 0, 1, 5)])[None]
    return ClipViews(
        images_BV3HW=torch.zeros(1, 3, 3, 10, 15),
        is_target_BV=torch.tensor([[False, True, False]]),
        depth_BVHW=torch.from_numpy(depth),
        world_from_camera_BV44=torch.from_numpy(poses),
        K_BV33=torch.from_numpy(K).expand(1, 3, 3, 3),
    )


def test_equals_the_slow_way_in_numpy() -> None:
    views = clip()
    assert views.depth_BVHW is not None and views.world_from_camera_BV44 is not None
    poses = views.world_from_camera_BV44[0].numpy()
    first_from_world = invert_rigid(poses[0])
    distances = []
    for v in (0, 2):
        depth = views.depth_BVHW[0, v].numpy().astype(np.float64)
        points = backproject(depth, K)[depth > 0]
        inside_first = transform_points(first_from_world @ poses[v], points)
        distances.append(np.linalg.norm(inside_first, axis=-1))
    scale = np.concatenate(distances).mean()
    camera_from_world, K_out, metres_per_unit = dataset_cameras(views)
    expected = invert_rigid(first_from_world @ poses)
    expected[:, :3, 3] /= scale
    np.testing.assert_allclose(metres_per_unit.numpy(), [scale], rtol=1e-6)
    np.testing.assert_allclose(camera_from_world[0].numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(K_out[0, 1].numpy(), K)
    assert torch.equal(camera_from_world[0, 0], torch.eye(4))
    assert {t.dtype for t in (camera_from_world, K_out, metres_per_unit)} == {torch.float32}


def test_neither_the_world_frame_nor_a_hidden_view_matters() -> None:
    views = clip()
    assert views.depth_BVHW is not None and views.world_from_camera_BV44 is not None
    moved = torch.from_numpy(pose(0.7, 30, -4, 9)) @ views.world_from_camera_BV44
    changed = views.depth_BVHW.clone()
    changed[0, 1] *= 3
    other = replace(views, depth_BVHW=changed, world_from_camera_BV44=moved)
    for ours, theirs in zip(dataset_cameras(other), dataset_cameras(views), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def test_twice_the_room_is_the_same_clip_in_twice_the_metres() -> None:
    views = clip()
    assert views.depth_BVHW is not None and views.world_from_camera_BV44 is not None
    poses = views.world_from_camera_BV44.clone()
    poses[..., :3, 3] *= 2
    larger = replace(views, depth_BVHW=2 * views.depth_BVHW, world_from_camera_BV44=poses)
    cameras, _, metres = dataset_cameras(views)
    larger_cameras, _, larger_metres = dataset_cameras(larger)
    torch.testing.assert_close(larger_cameras, cameras)
    torch.testing.assert_close(larger_metres, 2 * metres)


@pytest.mark.parametrize("field", ["depth_BVHW", "world_from_camera_BV44", "K_BV33"])
def test_missing_input_is_an_error(field: str) -> None:
    with pytest.raises(TeacherError, match="needs depth, poses and intrinsics"):
        dataset_cameras(replace(clip(), **{field: None}))


def test_a_context_without_measured_depth_is_an_error() -> None:
    views = clip()
    assert views.depth_BVHW is not None
    depth = views.depth_BVHW.clone()
    depth[0, [0, 2]] = 0
    with pytest.raises(TeacherError, match="no measured depth"):
        dataset_cameras(replace(views, depth_BVHW=depth))
