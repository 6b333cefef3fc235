"""What a researcher leans on when views become a scene: each promise against another way to it.

Two encoders that nobody trained: one taught by `rgbd` on posed RGB-D scans, one by a small VGGT
with random weights on photos. Tolerances are of latents of standard deviation 1 in float16, whose
rounding is 5e-4 at 1; measured differences are named where they are not zero.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spa3r import storage
from spa3r.encode import MAX_VIEWS_PER_BATCH, SURFACE_POINTS, batches
from spa3r.errors import ConfigError, ImageError, TeacherError
from spa3r.geometry import invert_rigid
from spa3r.hub import Spa3REncoder
from spa3r.latent import SceneLatent
from spa3r.surface import raster_size, thin_surface
from spa3r.vision_input import SceneViews
from tests.scan_arrays import scan_arrays
from tests.untrained import untrained_photographer, untrained_rgbd

SENSOR = untrained_rgbd()
ORDER = [0, 3, 1, 2]


@pytest.fixture(scope="module")
def photographer(tmp_path_factory: pytest.TempPathFactory) -> Spa3REncoder:
    return untrained_photographer(tmp_path_factory.mktemp("vggt"))


@pytest.fixture(params=["rgbd", "vggt"])
def encoder(request: pytest.FixtureRequest, photographer: Spa3REncoder) -> Spa3REncoder:
    return SENSOR if request.param == "rgbd" else photographer


def views_for(encoder: Spa3REncoder, **size: int) -> dict[str, Any]:
    """Arguments of `encode`: everything for rgbd, images alone for VGGT. No two views are alike."""
    arrays = scan_arrays(**size)
    for view, rotation in enumerate(arrays["world_from_camera"][:, :3, :3]):
        c, s = np.cos(0.1 * view), np.sin(0.1 * view)
        rotation[:] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
        arrays["images"][view, : 20 * view] = 40 * view
    return arrays if encoder is SENSOR else {"images": arrays["images"]}


def mirrored(arrays: dict[str, Any]) -> dict[str, Any]:
    """Other views of the same size."""
    return arrays | {"images": np.ascontiguousarray(arrays["images"][:, :, ::-1])}


def close(found: SceneLatent, expected: SceneLatent, atol: float) -> None:
    torch.testing.assert_close(found.latents_LD, expected.latents_LD, atol=atol, rtol=0)


def as_bytes(scene: SceneLatent, folder: Path) -> bytes:
    scene.save(folder / "scene.safetensors")
    return (folder / "scene.safetensors").read_bytes()


# --- the same answer ------------------------------------------------------------------------------


def test_twice_gives_the_same_bytes(encoder: Spa3REncoder, tmp_path: Path):
    arrays = views_for(encoder)
    first = as_bytes(encoder.encode(**arrays), tmp_path)
    assert first == as_bytes(encoder.encode(**arrays), tmp_path)
    assert first != as_bytes(encoder.encode(**mirrored(arrays)), tmp_path)


def test_a_batch_of_scenes_is_its_scenes_one_by_one(encoder: Spa3REncoder):
    """Also scenes of other sizes and numbers of views between them. Measured: at most 1.3e-4."""
    one, two = views_for(encoder), views_for(encoder, views=2)
    tall = views_for(encoder, width=168, height=224)
    sets = [one, two, mirrored(one), tall]
    together = encoder.encode_many(sets)
    for scene, arrays in zip(together, sets, strict=True):
        alone = encoder.encode(**arrays)
        close(scene, alone, atol=1e-3)
        torch.testing.assert_close(
            scene.camera_from_world_C44, alone.camera_from_world_C44, atol=1e-5, rtol=0
        )
        torch.testing.assert_close(scene.K_C33, alone.K_C33, atol=1e-3, rtol=0)
        assert scene.surface is not None and alone.surface is not None
        torch.testing.assert_close(
            scene.surface.depth_Chw, alone.surface.depth_Chw, atol=0, rtol=2e-3
        )
        assert torch.equal(scene.surface.rgb_Chw3, alone.surface.rgb_Chw3)
        assert (scene.grid_hw, scene.source_sizes) == (alone.grid_hw, alone.source_sizes)


def test_scale_and_confidence_are_each_scenes_own():
    """Of two scenes in one batch that differ in both, in either order."""
    near = views_for(SENSOR)
    far = mirrored(near) | {"depth": 2 * near["depth"]}
    far["depth"][:, :60] = 0  # a sensor is sure where it measured
    alone = [SENSOR.encode(**arrays) for arrays in (near, far)]
    surfaces = [scene.surface for scene in alone if scene.surface is not None]
    assert not torch.equal(surfaces[0].confidence_Chw, surfaces[1].confidence_Chw)
    assert alone[1].metres_per_unit > 1.5 * alone[0].metres_per_unit
    for order in ([0, 1], [1, 0]):
        together = SENSOR.encode_many([(near, far)[i] for i in order])
        for i, scene in zip(order, together, strict=True):
            assert scene.surface is not None
            assert scene.metres_per_unit == pytest.approx(alone[i].metres_per_unit, rel=1e-6)
            assert torch.equal(scene.surface.confidence_Chw, surfaces[i].confidence_Chw)


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_the_student_reads_tokens_of_the_dtype_it_learnt_from(
    stored: Any, monkeypatch: pytest.MonkeyPatch
):
    card = replace(SENSOR.card, teacher=replace(SENSOR.card.teacher, dtype=stored))
    encoder = Spa3REncoder(SENSOR.model, card)
    given: list[torch.Tensor] = []
    encode = encoder.model.encode

    def spy(context_BCND: torch.Tensor, grid_hw: tuple[int, int]) -> torch.Tensor:
        given.append(context_BCND)
        return encode(context_BCND, grid_hw)

    monkeypatch.setattr(encoder.model, "encode", spy)
    encoder.encode(**views_for(SENSOR))
    assert [tokens.dtype for tokens in given] == [getattr(torch, stored)]


def test_views_but_the_first_are_a_set(encoder: Spa3REncoder):
    """Measured: latents 6e-5, cameras 1e-7."""
    arrays = views_for(encoder)
    scene = encoder.encode(**arrays)
    permuted = encoder.encode(**{name: array[ORDER] for name, array in arrays.items()})
    close(permuted, scene, atol=1e-3)
    torch.testing.assert_close(
        permuted.camera_from_world_C44, scene.camera_from_world_C44[ORDER], atol=1e-5, rtol=0
    )
    assert permuted.surface is not None and scene.surface is not None
    assert torch.equal(permuted.surface.rgb_Chw3, scene.surface.rgb_Chw3[ORDER])
    other = encoder.encode(**{name: array[[1, 0, 2, 3]] for name, array in arrays.items()})
    assert (other.latents_LD - scene.latents_LD).abs().max() > 1e-2, "the first defines the world"


MOVE = np.array([[0.6, 0, 0.8, 3], [0, 1, 0, -2], [-0.8, 0, 0.6, 5], [0, 0, 0, 1]])


def test_the_world_of_the_given_poses_does_not_matter(photographer: Spa3REncoder):
    """Rounded poses apart; measured: latents 0, cameras 2e-7."""
    arrays = views_for(SENSOR)
    moved = arrays | {"world_from_camera": MOVE @ arrays["world_from_camera"]}
    for encoder in (SENSOR, photographer):
        scene, same = encoder.encode(**arrays), encoder.encode(**moved)
        close(same, scene, atol=1e-3)
        torch.testing.assert_close(
            same.camera_from_world_C44, scene.camera_from_world_C44, atol=1e-5, rtol=0
        )
        assert torch.equal(scene.camera_from_world_C44[0], torch.eye(4)) or encoder is photographer
        assert same.metres_per_unit == pytest.approx(scene.metres_per_unit, rel=1e-4)


def test_a_vggt_knows_metres_from_poses_alone(photographer: Spa3REncoder):
    arrays = views_for(SENSOR)
    poses = {"images": arrays["images"], "world_from_camera": arrays["world_from_camera"]}
    scene = photographer.encode(**poses)
    plain = photographer.encode(arrays["images"])
    assert torch.equal(scene.latents_LD, plain.latents_LD) and np.isnan(plain.metres_per_unit)
    predicted = invert_rigid(scene.camera_from_world_C44.double().numpy())
    predicted = (invert_rigid(predicted[0]) @ predicted)[:, :3, 3]
    true = (invert_rigid(poses["world_from_camera"][0]) @ poses["world_from_camera"])[:, :3, 3]
    expected = (predicted * true).sum() / (predicted**2).sum()
    if expected > 0:
        assert scene.metres_per_unit == pytest.approx(expected, rel=1e-4)
    else:
        assert np.isnan(scene.metres_per_unit)


def test_nothing_of_the_images_reaches_latents_but_through_the_teacher(
    encoder: Spa3REncoder, monkeypatch: pytest.MonkeyPatch
):
    arrays = views_for(encoder)
    scene, asked = encoder.encode(**arrays), encoder.teacher.context
    kept: list[Any] = []

    def first_answer(views: Any, *, surface: bool) -> Any:
        kept.append(asked(views, surface=surface))
        return kept[0]

    monkeypatch.setattr(encoder.teacher, "context", first_answer)
    for given in (arrays, mirrored(arrays)):
        assert torch.equal(encoder.encode(**given).latents_LD, scene.latents_LD)
    assert not torch.equal(kept[1].context_BCND, kept[0].context_BCND)


def test_a_stored_scene_answers_as_before(encoder: Spa3REncoder, tmp_path: Path):
    scene = encoder.encode(**views_for(encoder))
    scene.save(tmp_path / "scene.safetensors")
    again = encoder.load_scene(tmp_path / "scene.safetensors")
    views = (scene.query(1), again.query(1), encoder.query(again, 1))
    views += (encoder.query_many([again, scene], [1, 0])[0],)
    for view in views[1:]:
        torch.testing.assert_close(view.depth, views[0].depth, atol=1e-5, rtol=0)
        assert view.geometric is not None and views[0].geometric is not None
        torch.testing.assert_close(view.geometric, views[0].geometric, atol=1e-4, rtol=0)
    assert torch.equal(views[1].depth, views[0].depth)


@pytest.mark.parametrize(("width", "height", "grid_vggt"), [(224, 168, (4, 6)), (168, 224, (6, 6))])
def test_one_view_of_any_shape(
    width: int, height: int, grid_vggt: tuple[int, int], encoder: Spa3REncoder
):
    arrays = views_for(encoder, views=1, width=width, height=height)
    scene = encoder.encode(**{name: array[0] for name, array in arrays.items()})
    assert scene.num_views == 1 and bool(scene.latents_LD.isfinite().all())
    expected = {(224, 168): (6, 8), (168, 224): (8, 8)}[width, height]
    assert scene.grid_hw == (expected if encoder is SENSOR else grid_vggt)
    view = scene.query(0)
    assert view.depth.shape == scene.grid_hw and view.depth_offset == encoder.depth_offset
    assert encoder.depth_offset == ((14, 14) if encoder is SENSOR else (0.5, 0.5))


# --- what goes in ---------------------------------------------------------------------------------


def test_another_number_of_views_warns_once(
    photographer: Spa3REncoder, caplog: pytest.LogCaptureFixture
):
    encoder = Spa3REncoder(photographer.model, photographer.card, where="fresh")
    encoder._teacher = photographer.teacher  # no need to load it twice
    assert encoder.card.context_counts == (2, 4)  # of clips of 4, 6 and 8 views, half of them
    images = views_for(encoder, views=5)["images"]
    with caplog.at_level(logging.WARNING):
        for count in (2, 4):
            encoder.encode(images[:count])
        assert not caplog.records
        for count in (5, 1):
            encoder.encode(images[:count])
    (record,) = caplog.records
    assert "5 context views, but this encoder was trained with 2 to 4" in record.getMessage()


@pytest.mark.parametrize(("count", "warns"), [(1, True), (2, False), (4, False), (5, True)])
def test_both_bounds_of_the_trained_number_of_views(
    count: int, warns: bool, caplog: pytest.LogCaptureFixture
):
    encoder = Spa3REncoder(SENSOR.model, SENSOR.card)
    arrays = views_for(SENSOR, views=count)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            encoder.encode_many([arrays, arrays], surface_points=0)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == warns and all(f"{count} context views" in line for line in said)


def test_a_checkpoint_without_settings_counts_as_trained_as_released():
    card = replace(SENSOR.card, provenance={"recipe": "release"})
    assert card.context_counts == (2, 6)


def test_scenes_of_several_are_named_in_errors():
    arrays = views_for(SENSOR)
    with pytest.raises(ImageError, match="scene 1: no images"):
        SENSOR.encode_many([arrays, arrays | {"images": []}])
    with pytest.raises(TeacherError, match="scene 0: photos without depth"):
        SENSOR.encode_many([arrays["images"]])
    with pytest.raises(ConfigError, match=r"given by images, depth, .* got \['image'\]"):
        SENSOR.encode_many([{"image": arrays["images"]}])
    assert SENSOR.encode_many([]) == []


def test_scenes_alike_go_together_up_to_the_limit():
    def scene(views: int, width: int = 56, depth: bool = False) -> SceneViews:
        rgb = np.zeros((views, 42, width, 3), np.uint8)
        maps = np.zeros((views, 42, width), np.float32) if depth else None
        return SceneViews(rgb_VHW3=rgb, depth_VHW=maps, source_sizes=())

    half, all_ = MAX_VIEWS_PER_BATCH // 2, MAX_VIEWS_PER_BATCH
    scenes = [scene(half), scene(3), scene(half), scene(3, depth=True), scene(half),
              scene(3, width=84), scene(3), scene(all_ + 1), scene(all_ + 1)]  # fmt: skip
    found = sorted(batches(range(len(scenes)), scenes))
    assert found == [[0, 2], [1, 6], [3], [4], [5], [7], [8]]
    assert sorted(batches([1, 2, 6], scenes)) == [[1, 6], [2]]


def test_bfloat16_is_for_matrix_products(photographer: Spa3REncoder):
    """Measured: 0.03 of latents of standard deviation 1."""
    rounded = Spa3REncoder(
        photographer.model, photographer.card, teacher=photographer.teacher.reference()["uri"],
        dtype="bfloat16",
    )  # fmt: skip
    images = views_for(photographer)["images"]
    scene, exact = rounded.encode(images), photographer.encode(images)
    assert rounded.teacher.precision == "bfloat16" and photographer.teacher.precision == "float32"
    assert scene.provenance == exact.provenance | {"precision": "bfloat16"}
    close(scene, exact, atol=0.2)
    assert not torch.equal(scene.latents_LD, exact.latents_LD)
    student = untrained_rgbd(dtype="bfloat16").encode(**views_for(SENSOR))  # its teacher is float32
    exact = SENSOR.encode(**views_for(SENSOR))
    close(student, exact, atol=0.2)
    assert not torch.equal(student.latents_LD, exact.latents_LD)
    assert scene.camera_from_world_C44.dtype == scene.K_C33.dtype == torch.float32
    assert scene.query(0).depth.dtype == torch.float32


# --- the surface ----------------------------------------------------------------------------------


def test_the_surface_samples_depth_and_averages_colours():
    """Against a loop over cells, at sizes that divide the image and sizes that do not."""
    rng = np.random.default_rng(0)
    depth = torch.from_numpy(rng.uniform(0.5, 5, (2, 42, 56)).astype(np.float32))
    depth[0, :9] = 0
    depth[1, 5, 5], depth[1, 6, 6] = 1e6, float("nan")
    confidence = torch.from_numpy(rng.uniform(1, 9, (2, 42, 56)).astype(np.float32))
    confidence[0, 0, 0] = 1e9
    rgb = rng.integers(0, 256, (2, 42, 56, 3), np.uint8)
    for points in (2 * 42 * 56, 2 * 21 * 28, 1000, 24):
        rows, columns = raster_size(2, 42, 56, points)
        assert 2 * rows * columns <= points
        surface = thin_surface(depth, confidence, rgb, points)
        assert surface.depth_Chw.shape == (2, rows, columns)
        for j in range(rows):
            for i in range(columns):
                y, x = int((j + 0.5) * 42 / rows), int((i + 0.5) * 56 / columns)
                known = torch.where(depth[:, y, x] <= 65504, depth[:, y, x], 0)
                assert torch.equal(surface.depth_Chw[:, j, i], known.half())
                expected = confidence[:, y, x].clamp_max(65504).half()
                assert torch.equal(surface.confidence_Chw[:, j, i], expected)
        if 42 % rows == 0 and 56 % columns == 0:
            blocks = rgb.reshape(2, rows, 42 // rows, columns, 56 // columns, 3).mean((2, 4))
            assert np.abs(surface.rgb_Chw3.numpy() - blocks).max() <= 0.51
    assert raster_size(2, 42, 56, 2 * 42 * 56) == raster_size(2, 42, 56, 10**9) == (42, 56)
    with pytest.raises(ConfigError, match="less than one for each of 2 views"):
        raster_size(2, 42, 56, 1)


@pytest.mark.parametrize("hw", [(378, 518), (686, 518), (518, 518), (14, 518), (1400, 14)])
@pytest.mark.parametrize("num_views", [1, 7, 40])
def test_the_raster_keeps_the_aspect_ratio_and_the_budget(hw: tuple[int, int], num_views: int):
    rows, columns = raster_size(num_views, *hw, SURFACE_POINTS)
    assert rows <= hw[0] and columns <= hw[1]
    assert num_views * rows * columns <= SURFACE_POINTS
    assert num_views * rows * columns > 0.85 * min(SURFACE_POINTS, num_views * hw[0] * hw[1])
    assert abs(rows - columns * hw[0] / hw[1]) <= 0.03 * rows + 1


def test_forty_views_of_the_full_size_model_stay_under_a_megabyte(tmp_path: Path):
    rng = np.random.default_rng(0)
    depth = torch.from_numpy(rng.uniform(1, 9, (40, 378, 518)).astype(np.float32))
    rgb = np.broadcast_to(rng.integers(0, 256, (378, 518, 3), np.uint8), (40, 378, 518, 3))
    surface = thin_surface(depth, depth, rgb, SURFACE_POINTS)
    scene = SceneLatent(
        latents_LD=torch.zeros(256, 768, dtype=torch.float16),
        camera_from_world_C44=torch.zeros(40, 4, 4),
        K_C33=torch.zeros(40, 3, 3),
        grid_hw=(27, 37),
        patch_size=14,
        names=tuple(f"IMG_2026_11_21_{i:04d}.jpeg" for i in range(40)),
        source_sizes=((4032, 2944),) * 40,
        surface=surface,
        provenance=SENSOR.scene_provenance(),
    )
    scene.save(tmp_path / "scene.safetensors")
    assert 0.8e6 < storage.size(tmp_path / "scene.safetensors") < 1e6


def test_without_points_there_is_no_surface_and_no_depth_head(
    photographer: Spa3REncoder, monkeypatch: pytest.MonkeyPatch
):
    images = views_for(photographer)["images"]
    whole = photographer.encode(images)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the depth head ran")

    monkeypatch.setattr(photographer.teacher.model.depth_head, "forward", never)  # type: ignore[attr-defined]
    scene = photographer.encode(images, surface_points=0)
    assert scene.surface is None and whole.surface is not None
    assert torch.equal(scene.latents_LD, whole.latents_LD)
    for bad in (3, -1):
        with pytest.raises(ConfigError, match="surface_points"):
            photographer.encode(images, surface_points=bad)
