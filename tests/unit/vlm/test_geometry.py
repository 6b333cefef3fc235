"""What of a scene enters the language model."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spa3r.errors import ConfigError, TeacherError
from spa3r.tune_config import FusionConfig
from spa3r.vision_input import prepare_scene, to_clip_views
from spa3r.vlm.geometry import GeometrySource, geometry_width, of_scene
from tests.scan_arrays import scan_arrays
from tests.untrained import untrained_photographer, untrained_rgbd

TEACHER = FusionConfig(kind="add", source="teacher")


def test_latents_are_the_encoders(tmp_path: Path):
    encoder = untrained_rgbd()
    views = prepare_scene(**scan_arrays(views=3), width=112, multiple=28)
    source = GeometrySource(encoder, FusionConfig())
    geometry = source.of(views)
    scene = encoder.encode_views(views, surface_points=0)
    (latents_LD,) = geometry.tokens
    assert torch.equal(latents_LD, scene.latents_LD) and source.width == latents_LD.shape[1] == 32
    assert (geometry.grid_hw, geometry.views) == ((3, 4), 3)
    assert geometry.log_scale == pytest.approx(math.log(scene.metres_per_unit))
    assert of_scene(replace(scene, metres_per_unit=math.nan)).log_scale is None


def test_a_cache_gives_the_same_bits_without_the_teacher(tmp_path: Path):
    views = prepare_scene(**scan_arrays(views=3), width=112, multiple=28)
    cache = tmp_path / "latents"
    first = GeometrySource(untrained_rgbd(), FusionConfig()).of(views, cache)
    again = untrained_rgbd()
    again._teacher = None
    again._find_teacher = lambda: pytest.fail("the teacher was asked")  # type: ignore[method-assign]
    second = GeometrySource(again, FusionConfig()).of(views, cache)
    assert torch.equal(first.tokens[0], second.tokens[0])
    assert first.log_scale == pytest.approx(second.log_scale)


def test_a_teachers_tokens_stand_view_by_view():
    encoder = untrained_rgbd()
    views = prepare_scene(**scan_arrays(views=2), width=112, multiple=28)
    geometry = GeometrySource(encoder, TEACHER).of(views)
    expected = encoder.teacher.context(to_clip_views([views]), surface=False).context_BCND[0]
    assert torch.equal(geometry.tokens[0], expected.flatten(0, 1).half())
    assert geometry.tokens[0].shape == (2 * 12, geometry_width(encoder, TEACHER))
    with pytest.raises(ConfigError, match="rgbd teacher has no layers"):
        GeometrySource(encoder, replace(TEACHER, layers=(3,))).of(views)


def test_layers_of_a_vggt(tmp_path: Path):
    encoder = untrained_photographer(tmp_path)
    views = prepare_scene(scan_arrays(views=2)["images"], width=84, multiple=28)
    deep = FusionConfig(kind="deep_stack", source="teacher", layers=(0, 2, -1))
    geometry = GeometrySource(encoder, deep).of(views)
    assert [tuple(x.shape) for x in geometry.tokens] == [(2 * 4 * 6, 64)] * 3
    assert not torch.equal(geometry.tokens[0], geometry.tokens[1])
    last = encoder.teacher.context(to_clip_views([views]), surface=False).context_BCND[0]
    assert torch.equal(geometry.tokens[2], last.flatten(0, 1).half())
    with pytest.raises(ConfigError, match=r"fusion\.layers is 40, but the aggregator has layers"):
        GeometrySource(encoder, replace(deep, layers=(40,))).of(views)


def test_photos_alone_are_not_enough_for_an_rgbd_taught_encoder():
    views = prepare_scene(scan_arrays(views=2)["images"], width=112, multiple=28)
    with pytest.raises(TeacherError, match="photos without depth need a VGGT-taught encoder"):
        GeometrySource(untrained_rgbd(), FusionConfig()).of(views)


def test_no_geometry_has_no_width():
    with pytest.raises(ConfigError, match="fusion none has no geometry"):
        geometry_width(untrained_rgbd(), FusionConfig(kind="none"))
