"""Asking the field, against the model called directly, camera by camera."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from spa3r.camera import Camera, context_camera, context_cameras
from spa3r.errors import ConfigError, WeightsError
from spa3r.field_view import FieldView
from spa3r.images import fit_size, scale_K
from spa3r.latent import SceneLatent
from spa3r.query import CHUNK, query, query_many
from spa3r.trajectories import interpolate, orbit
from tests.scene_maker import GRID, K_33, PATCH, box_scene, untrained

ENCODER = untrained()
SCENE = box_scene(views=3)
TOLERANCE: dict[str, Any] = {
    "rtol": 1e-5,
    "atol": 1e-5,
}  # kernels round differently in batches of another size


def plainly(scene: SceneLatent, camera: Camera) -> dict[str, torch.Tensor]:
    """One camera through the model, by hand; tokens in teacher units."""
    model = ENCODER.model
    hidden = model.decode(
        scene.latents_LD[None].float(),
        torch.tensor(camera.camera_from_world_44)[None, None].float(),
        torch.tensor(camera.K_33)[None, None].float(),
        scene.grid_hw,
    )
    found = model.predict(hidden)
    grid = scene.grid_hw
    return {
        "geometric": (found.geo_BVND * model.geo_std + model.geo_mean)[0, 0].unflatten(0, grid),
        "semantic": (found.sem_BVND * model.sem_std + model.sem_mean)[0, 0].unflatten(0, grid),
        "depth": found.depth_BVN[0, 0].unflatten(0, grid),
    }


def assert_same(view: FieldView, expected: dict[str, torch.Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(getattr(view, name), value, **TOLERANCE)


def test_an_index_a_camera_and_the_model_itself_agree() -> None:
    camera = context_camera(SCENE, 2)
    ways: list[Any] = [2, -1, np.int64(2), camera]
    for asked in ways:
        view = query(ENCODER, SCENE, asked)
        assert_same(view, plainly(SCENE, camera))
        assert view.depth.shape == GRID and view.geometric is not None
        assert view.geometric.shape[:2] == GRID and view.geometric.dtype == torch.float32
        assert view.linguistic is None and view.kinds == ("geometric", "semantic")
        assert view.image_size == SCENE.image_size == view.cameras[0].size
    other = query(ENCODER, SCENE, 0)
    assert float((other.depth - view.depth).abs().max()) > 1e-4


def test_a_trajectory_longer_than_a_chunk_equals_its_cameras_alone() -> None:
    path = interpolate(SCENE, CHUNK + 3)
    views = query(ENCODER, SCENE, path)
    assert views.depth.shape == (CHUNK + 3, *GRID) and len(views.cameras) == CHUNK + 3
    for i, camera in enumerate(path):
        assert_same(
            dataclasses.replace(
                views, depth=views.depth[i], geometric=views.features("geometric")[i],
                semantic=views.features("semantic")[i],
            ),
            plainly(SCENE, camera),
        )  # fmt: skip
    assert query(ENCODER, SCENE, path[:1]).depth.shape == (1, *GRID)


def test_many_scenes_equal_each_alone_whatever_their_grids_and_paths() -> None:
    flat = dataclasses.replace(box_scene(views=2), grid_hw=(4, 8), metres_per_unit=1.5)
    scenes = [SCENE, flat, box_scene(views=4)]
    cameras = [1, context_cameras(flat), orbit(scenes[2], 5)]
    many = query_many(ENCODER, scenes, cameras)
    for scene, camera, view in zip(scenes, cameras, many, strict=True):
        alone = query(ENCODER, scene, camera)
        for name in ("geometric", "semantic", "depth"):
            torch.testing.assert_close(getattr(view, name), getattr(alone, name), **TOLERANCE)
        assert len(view.cameras) == len(alone.cameras)
        np.testing.assert_array_equal(view.metres_per_unit, scene.metres_per_unit)
    assert many[1].grid_hw == (4, 8) and math.isnan(many[0].metres_per_unit)
    with pytest.raises(ConfigError, match="3 scenes but 1 cameras"):
        query_many(ENCODER, scenes, [0])


def test_a_camera_of_another_resolution_is_brought_to_the_working_image() -> None:
    pose = context_camera(SCENE, 1).world_from_camera_44
    K = np.array([[430.0, 0, 315], [0, 428, 246], [0, 0, 1]])
    view = query(ENCODER, SCENE, Camera(pose, K, (640, 480)))
    expected = scale_K(K, fit_size((640, 480), 224, PATCH))
    np.testing.assert_allclose(view.cameras[0].K_33, expected)
    assert_same(view, plainly(SCENE, Camera(pose, expected)))
    again = query(ENCODER, SCENE, view.cameras[0])  # its size is the working image's
    assert torch.equal(again.depth, view.depth)
    photo = Camera(pose, K * [[6.3], [6.3], [1]], (4032, 3024))
    assert_same(query(ENCODER, SCENE, photo), plainly(SCENE, Camera(pose, expected)))
    with pytest.raises(ConfigError, match=r"1920 x 1080 .* 224 x 112.* 224 x 168"):
        query(ENCODER, SCENE, Camera(pose, K, (1920, 1080)))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (3, r"3 context views: choose 0\.\.2"),
        (-4, "not -4"),
        ([], "at least one"),
        (np.eye(4), "not ndarray"),
        ([np.eye(4)], "not list"),
        ("orbit", "not str"),
        (None, "not NoneType"),
        (True, "not bool"),
        (
            Camera(np.eye(4), np.array([[3000.0, 0, 2016], [0, 3000, 1512], [0, 0, 1]])),
            r"\(2016, 1512\).* 224 x 168 pixels: .*`size=\(w, h\)`",
        ),
    ],
)
def test_what_is_no_camera_is_refused(asked, says) -> None:
    with pytest.raises(ConfigError, match=says):
        query(ENCODER, SCENE, asked)


def test_latents_of_another_encoder_are_refused() -> None:
    stranger = dataclasses.replace(SCENE, provenance={"encoder_hash": "other"})
    with pytest.raises(WeightsError, match="other"):
        query(ENCODER, stranger, 0)


def test_bfloat16_answers_float32_close_to_float32() -> None:
    half = untrained()
    half.precision = "bfloat16"
    exact, rounded = query(ENCODER, SCENE, 0), query(half, SCENE, 0)
    for name in ("geometric", "semantic", "depth"):
        a, b = getattr(exact, name), getattr(rounded, name)
        assert b.dtype == torch.float32
        spread = float(a.std())
        assert 0 < float((a - b).abs().max()) < 0.1 * spread + 1e-3
    # Depth is not cut to the 8 bits of bfloat16.
    assert not torch.equal(rounded.depth, rounded.depth.bfloat16().float())


def test_a_model_without_a_head_answers_without_it_and_a_probe_can_be_trained() -> None:
    view = query(untrained(semantic=False), SCENE, 0)
    assert view.semantic is None and view.kinds == ("geometric",)
    with pytest.raises(ConfigError, match=r"no 'semantic' features; choose geometric"):
        view.features("semantic")
    probe = torch.nn.Linear(view.features("geometric").shape[-1], 2)
    probe(view.features("geometric")).sum().backward()
    assert probe.weight.grad is not None


def test_a_longer_focal_length_is_another_question() -> None:
    pose = np.eye(4)
    wide, narrow = (query(ENCODER, SCENE, Camera(pose, K_33 * [[f], [f], [1]])) for f in (1.0, 1.5))
    assert float((wide.features("geometric") - narrow.features("geometric")).abs().max()) > 1e-4


def test_linguistic_features_are_answered_beside_the_others() -> None:
    encoder = untrained(linguistic=True, lang_width=32)
    view = query(encoder, box_scene(views=2), [context_camera(SCENE, 0)])
    assert view.kinds == ("geometric", "semantic", "linguistic")
    assert view.linguistic is not None and view.linguistic.shape == (1, *GRID, 32)
