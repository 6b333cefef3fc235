"""Points and units of an answer, against projection and an exact room."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from spa3r.camera import context_cameras
from spa3r.errors import ConfigError, SceneError
from spa3r.field_view import FieldView
from spa3r.geometry import project, transform_points
from tests.scene_maker import GRID, HALF, PATCH, box_depth, box_scene, poses, room_points


def room_view(views: int = 3) -> FieldView:
    """An answer whose depth is the room's, at patch centres."""
    depth = np.stack([box_depth(pose, GRID) for pose in poses(views)])
    return FieldView(
        cameras=tuple(context_cameras(box_scene(views=views))),
        depth=torch.from_numpy(depth).float(),
        geometric=torch.randn(views, *GRID, 5),
        patch_size=PATCH,
        depth_offset=(PATCH / 2, PATCH / 2),
    )


def test_points_of_a_rooms_depth_lie_on_its_walls() -> None:
    points = room_view().points()
    assert points.shape == (3, *GRID, 3) and points.dtype == torch.float32
    to_wall = np.abs(np.abs(room_points(points.numpy())) - HALF).min(axis=-1)
    assert to_wall.max() < 1e-5
    assert (np.abs(room_points(points.numpy())) < HALF + 1e-5).all()


@pytest.mark.parametrize("offset", [(0.5, 0.5), (3.0, 20.0)])
def test_a_point_projects_to_its_patchs_pixel_at_its_depth(offset) -> None:
    view = dataclasses.replace(room_view(), depth_offset=offset)
    points = view.points().double().numpy()
    for i, camera in enumerate(view.cameras):
        in_camera = transform_points(camera.camera_from_world_44, points[i].reshape(-1, 3))
        pixels, depth = project(in_camera, camera.K_33)
        np.testing.assert_allclose(depth, view.depth[i].flatten(), atol=1e-5)
        for (x, y), (row, column) in zip(pixels, np.ndindex(*GRID), strict=True):
            assert x == pytest.approx(column * PATCH + offset[0], abs=1e-3)
            assert y == pytest.approx(row * PATCH + offset[1], abs=1e-3)


def test_one_camera_has_no_leading_axis_but_its_features_have() -> None:
    several = room_view()
    assert several.geometric is not None
    one = dataclasses.replace(
        several,
        cameras=several.cameras[1:2],
        depth=several.depth[1],
        geometric=several.geometric[1],
    )
    torch.testing.assert_close(one.points(), several.points()[1], rtol=0, atol=0)
    assert one.features("geometric").shape == (1, *GRID, 5)
    assert one.grid_hw == GRID and one.image_size == (224, 168)


def test_metres_only_where_the_scale_is_known() -> None:
    view = dataclasses.replace(room_view(), metres_per_unit=2.0)
    torch.testing.assert_close(view.depth_metres, view.depth * 2)
    for unknown in (math.nan, 0.0):
        with pytest.raises(SceneError, match="encode its images together with their poses"):
            _ = dataclasses.replace(view, metres_per_unit=unknown).depth_metres


@pytest.mark.parametrize("kind", ["linguistic", "rgb"])
def test_features_that_are_not_there_are_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"'{kind}' features; choose geometric"):
        room_view().features(kind)
