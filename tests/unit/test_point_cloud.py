"""Point clouds against an exact room, projection and colours known in closed form."""

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from spa3r.camera import Cameras, context_camera, context_cameras
from spa3r.errors import ConfigError, SceneError, WeightsError
from spa3r.field_view import FieldView
from spa3r.geometry import depth_residuals, project, transform_points
from spa3r.latent import SceneLatent
from spa3r.point_cloud import PointCloud, coloured, field_points, surface_points
from spa3r.trajectories import interpolate
from spa3r.viz.pca import fit_basis
from tests.scene_maker import (
    GRID,
    HALF,
    K_33,
    PATCH,
    box_depth,
    box_scene,
    poses,
    room_points,
    untrained,
)

RASTER = (24, 32)
SCENE = box_scene(views=3, raster_hw=RASTER)


class Field:
    """An encoder that answers the room's own depth and features linear in the pixel."""

    def query(self, scene: SceneLatent, cameras: Cameras) -> FieldView:
        first = poses(1)[0]
        y, x = np.meshgrid(*((np.arange(n) + 0.5) * PATCH for n in GRID), indexing="ij")
        features = [np.stack([x, y, 0 * x + 40 * i], -1) for i in range(len(cameras))]
        depth = [box_depth(first @ c.world_from_camera_44, GRID) for c in cameras]
        return FieldView(
            cameras=tuple(cameras),
            depth=torch.from_numpy(np.stack(depth)).float(),
            geometric=torch.from_numpy(np.stack(features)).float(),
            patch_size=PATCH,
            depth_offset=(PATCH / 2, PATCH / 2),
        )


FIELD: Any = Field()
ASKABLE = dataclasses.replace(SCENE, encoder=FIELD)


# --- the surface ----------------------------------------------------------------------------------


def test_surface_points_lie_on_the_rooms_walls() -> None:
    cloud = surface_points(SCENE)
    assert len(cloud) == 3 * RASTER[0] * RASTER[1]
    assert cloud.points_N3.dtype == cloud.confidence_N.dtype == np.float32
    assert cloud.colours_N3.dtype == np.uint8 and cloud.view_N.dtype == np.int32
    in_room = np.abs(room_points(cloud.points_N3))
    # Depth up to 5 units in float16 is off by 2e-3 at most.
    assert np.abs(in_room - HALF).min(axis=-1).max() < 3e-3
    assert (in_room < HALF + 5e-3).all()


def test_every_surface_point_projects_back_to_its_raster_cell_and_colour() -> None:
    cloud = surface_points(SCENE)
    assert SCENE.surface is not None
    for view in range(3):
        camera = context_camera(SCENE, view)
        seen = cloud.view_N == view
        in_camera = transform_points(camera.camera_from_world_44, cloud.points_N3[seen])
        pixels, depth = project(in_camera, camera.K_33)
        cells = pixels * (RASTER[1] / 224, RASTER[0] / 168)
        rows, columns = np.indices(RASTER).reshape(2, -1)
        np.testing.assert_allclose(cells, np.stack([columns, rows], -1) + 0.5, atol=1e-3)
        surface = SCENE.surface
        np.testing.assert_allclose(depth, surface.depth_Chw[view].flatten(), atol=1e-5)
        np.testing.assert_array_equal(cloud.colours_N3[seen], surface.rgb_Chw3[view].reshape(-1, 3))
        np.testing.assert_array_equal(
            cloud.confidence_N[seen], surface.confidence_Chw[view].flatten()
        )


def test_one_views_points_fall_on_the_surface_that_another_measured() -> None:
    scene = box_scene(views=2, raster_hw=(84, 112))
    assert scene.surface is not None
    depth = scene.surface.depth_Chw.double().numpy()
    K = np.diag([0.5, 0.5, 1]) @ K_33
    b_from_a = context_camera(scene, 1).camera_from_world_44
    residuals = depth_residuals(depth[0], depth[1], K, K, b_from_a)
    # The same comparison from the cloud: points of view 0 against view 1's raster.
    cloud = surface_points(scene)
    pixels, z = project(transform_points(b_from_a, cloud.points_N3[cloud.view_N == 0]), K)
    inside = ((pixels >= 0) & (pixels < (112, 84))).all(axis=1)
    columns, rows = pixels[inside].astype(int).T
    found = z[inside] - depth[1][rows, columns]
    assert len(found) > 2000
    np.testing.assert_allclose(np.sort(found), np.sort(residuals), atol=1e-4)
    assert np.median(np.abs(found)) < 0.02  # half a cell on a slanted wall


def test_unknown_depth_gives_no_point_and_no_surface_is_an_error() -> None:
    assert SCENE.surface is not None
    depth = SCENE.surface.depth_Chw.clone()
    depth[0] = 0
    depth[1, 3, 4] = math.inf
    depth[1, 3, 5] = math.nan
    holes = dataclasses.replace(SCENE.surface, depth_Chw=depth)
    cloud = surface_points(dataclasses.replace(SCENE, surface=holes))
    assert np.bincount(cloud.view_N, minlength=3).tolist() == [0, 766, 768]
    assert np.isfinite(cloud.points_N3).all()
    with pytest.raises(SceneError, match="surface_points > 0"):
        surface_points(box_scene(raster_hw=None))


# --- choosing points ------------------------------------------------------------------------------


def test_the_surest_points_are_kept_in_order() -> None:
    cloud = surface_points(SCENE)
    kept = cloud.keep(confidence_percentile=75)
    least = sorted(cloud.confidence_N)[int(0.75 * (len(cloud) - 1))]
    expected = [i for i in range(len(cloud)) if cloud.confidence_N[i] >= least]
    np.testing.assert_array_equal(kept.points_N3, cloud.points_N3[expected])
    np.testing.assert_array_equal(kept.view_N, cloud.view_N[expected])
    assert len(cloud.keep()) == len(cloud)
    equal = dataclasses.replace(cloud, confidence_N=np.ones(len(cloud), np.float32))
    assert len(equal.keep(100)) == len(cloud)
    assert (cloud.keep(100).confidence_N == cloud.confidence_N.max()).all()


def test_thinning_is_a_repeatable_part_without_repeats() -> None:
    cloud = surface_points(SCENE)
    thin, same, other = (cloud.keep(max_points=500, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(thin.points_N3, same.points_N3)
    assert len(thin) == 500 and not np.array_equal(thin.points_N3, other.points_N3)
    rows = {tuple(point) for point in cloud.points_N3}
    assert len({tuple(point) for point in thin.points_N3} & rows) == 500
    counts = np.bincount(thin.view_N, minlength=3)
    assert (counts > 100).all() and (np.diff(thin.view_N) >= 0).all()
    assert len(cloud.keep(max_points=10**6)) == len(cloud)
    nothing = PointCloud(
        points_N3=cloud.points_N3[:0],
        colours_N3=cloud.colours_N3[:0],
        confidence_N=cloud.confidence_N[:0],
        view_N=cloud.view_N[:0],
    )
    assert len(nothing.keep(50, 10)) == 0


@pytest.mark.parametrize("argument", [{"confidence_percentile": -1}, {"max_points": 0},
                                      {"confidence_percentile": math.nan}])  # fmt: skip
def test_choices_out_of_range_are_refused(argument: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"percentile|max_points"):
        surface_points(SCENE).keep(**argument)


def test_metres() -> None:
    cloud = surface_points(SCENE)
    np.testing.assert_allclose(cloud.scaled(2.5).points_N3, cloud.points_N3 * 2.5)
    with pytest.raises(SceneError, match="scale is unknown"):
        cloud.scaled(math.nan)


# --- feature colours ------------------------------------------------------------------------------


def test_a_point_takes_its_own_views_feature_between_patches() -> None:
    cloud = surface_points(ASKABLE).keep(max_points=700)
    result = coloured(ASKABLE, cloud, "geometric")
    np.testing.assert_array_equal(result.points_N3, cloud.points_N3)
    # Features are linear in the pixel between patch centres, so their colours are exact there.
    answer = FIELD.query(SCENE, context_cameras(SCENE))
    basis = fit_basis(answer.features("geometric").numpy())
    worst = 0
    for point, view, colour in zip(cloud.points_N3, cloud.view_N, result.colours_N3, strict=True):
        camera = context_camera(SCENE, int(view))
        (x, y), _ = project(transform_points(camera.camera_from_world_44, point), camera.K_33)
        # Beyond the outer patches' centres the outer features hold; near them colours saturate.
        if 2 * PATCH < x < 224 - 2 * PATCH and 2 * PATCH < y < 168 - 2 * PATCH:
            expected = 255 * basis.colours(np.array([x, y, 40.0 * view]))
            worst = max(worst, np.abs(expected - colour).max())
    assert worst <= 0.51 + 1e-3


def test_features_of_the_wrong_view_or_none_at_all_are_not_used() -> None:
    cloud = surface_points(ASKABLE)
    by_patch = coloured(ASKABLE, cloud, "geometric")
    assert len({tuple(c) for c in by_patch.colours_N3[::7]}) > 50
    foreign = field_points(ASKABLE, cameras=interpolate(SCENE, 3))
    with pytest.raises(ConfigError, match="context views"):
        coloured(ASKABLE, foreign, "geometric")
    with pytest.raises(ConfigError, match="'semantic'"):
        coloured(ASKABLE, cloud, "semantic")
    with pytest.raises(WeightsError, match="load_scene"):
        coloured(SCENE, cloud, "geometric")


def test_points_of_the_field_need_no_surface() -> None:
    scene = dataclasses.replace(ASKABLE, surface=None)
    cloud = field_points(scene)
    assert len(cloud) == 3 * GRID[0] * GRID[1]
    assert np.bincount(cloud.view_N).tolist() == [48, 48, 48]
    assert np.abs(np.abs(room_points(cloud.points_N3)) - HALF).min(axis=-1).max() < 1e-5
    again = coloured(scene, cloud, "geometric")  # at patch centres: the same colours
    assert np.abs(again.colours_N3.astype(int) - cloud.colours_N3).max() <= 1
    elsewhere = field_points(scene, cameras=interpolate(SCENE, 4))
    assert len(elsewhere) == 4 * 48 and (elsewhere.view_N == -1).all()


def test_where_the_field_predicts_no_depth_there_is_no_point() -> None:
    def query(scene: SceneLatent, cameras: Cameras) -> FieldView:
        answer = FIELD.query(scene, cameras)
        depth = answer.depth.clone()
        depth[0, 0, :3] = torch.tensor([0.0, -1.0, math.nan])
        return dataclasses.replace(answer, depth=depth)

    encoder: Any = SimpleNamespace(query=query)
    cloud = field_points(dataclasses.replace(SCENE, encoder=encoder))
    assert len(cloud) == 3 * 48 - 3 and np.isfinite(cloud.points_N3).all()


def test_an_untrained_encoder_colours_a_scene() -> None:
    scene = dataclasses.replace(SCENE, encoder=untrained())
    for kind in ("geometric", "semantic"):
        cloud = coloured(scene, surface_points(scene), kind)
        assert cloud.colours_N3.std() > 20
    assert np.isfinite(field_points(scene).points_N3).all()
