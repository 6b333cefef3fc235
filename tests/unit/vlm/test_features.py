"""What is computed once for each video: by what it is found, and that runs may share it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spa3r.plain import override
from spa3r.train.tune_features import Stores, open_stores
from spa3r.tune_config import TuneRecipe
from spa3r.vision_input import SceneViews
from spa3r.vlm.batch import Geometry
from spa3r.vlm.features import FeatureStore, content_of, get_geometry, put_geometry

ENCODER = {"encoder": "e", "teacher": "t", "tokens": "float32", "precision": "float32"}
BASE = {"base": "b", "precision": "float32"}


def views() -> SceneViews:
    rng = np.random.default_rng(0)
    return SceneViews(
        rgb_VHW3=rng.integers(0, 255, (2, 28, 56, 3), np.uint8),
        depth_VHW=rng.random((2, 28, 56), np.float32),
        K_V33=np.stack([np.eye(3)] * 2),
        world_from_camera_V44=np.stack([np.eye(4)] * 2),
        names=("a", "b"),
        source_sizes=((56, 28),) * 2,
    )


def test_content_is_all_that_the_towers_look_at() -> None:
    one = views()
    assert content_of(replace(views(), names=("c", "d"))) == content_of(one), (
        "not what it is called"
    )
    assert one.depth_VHW is not None and one.K_V33 is not None
    assert one.world_from_camera_V44 is not None
    others = [
        replace(one, rgb_VHW3=one.rgb_VHW3[:, :, ::-1]),
        replace(one, rgb_VHW3=one.rgb_VHW3.reshape(2, 56, 28, 3)),  # the same bytes, another crop
        replace(one, rgb_VHW3=one.rgb_VHW3[::-1]),
        replace(one, depth_VHW=one.depth_VHW * 2),  # another metric scale
        replace(one, depth_VHW=None),
        replace(one, K_V33=one.K_V33 * 2),
        replace(one, world_from_camera_V44=one.world_from_camera_V44 * 2),
    ]
    assert len({content_of(x) for x in (one, *others)}) == 1 + len(others)


def stores(encoder: dict | None = None, base: dict | None = None, **settings: object) -> Stores:
    asked = override(TuneRecipe(name="x"), {"train.features": "latents_and_images"})
    asked = override(asked, {name.replace("__", "."): x for name, x in settings.items()})
    return open_stores("/features", asked, encoder=encoder or ENCODER, base=base or BASE)


def test_two_encoders_teachers_layers_or_bases_share_nothing() -> None:
    ours = stores()
    assert ours.geometry is not None and ours.images is not None
    geometry = [
        *(stores(encoder={**ENCODER, name: "other"}).geometry for name in ENCODER),
        stores(vlm__fusion__source="teacher").geometry,
        stores(vlm__fusion__source="teacher", vlm__fusion__layers=[4]).geometry,
    ]
    folders = {ours.geometry.folder, *(x.folder for x in geometry if x is not None)}
    assert len(folders) == 1 + len(geometry)
    images = [stores(base={**BASE, name: "other"}).images for name in BASE]
    assert len({ours.images.folder, *(x.folder for x in images if x is not None)}) == 3
    # What does not decide an entry leaves it shared.
    same = stores(vlm__fusion__metric_scale=True, vlm__language="lora", train__lr=1.0)
    assert same.geometry is not None and same.images is not None
    assert (same.geometry.folder, same.images.folder) == (ours.geometry.folder, ours.images.folder)


@pytest.mark.parametrize("url", ["folder", "memory://features-of-many"])
def test_runs_that_fill_one_store_at_once_see_whole_entries(tmp_path: Path, url: str) -> None:
    folder = url if "://" in url else str(tmp_path / url)
    contents = [f"{i:032x}" for i in range(6)]

    def fill(run: int) -> None:
        store = FeatureStore(folder, {"encoder": "e"})
        for place in range(len(contents)):
            content = contents[(place + run) % len(contents)]
            if not store.has(content):
                scene = Geometry(tokens=(torch.arange(64.0).half(),), grid_hw=(1, 2), views=1)
                put_geometry(store, content, replace(scene, log_scale=0.5))
            found = get_geometry(store, content)
            assert torch.equal(found.tokens[0], torch.arange(64.0).half())
            assert (found.grid_hw, found.views, found.log_scale) == ((1, 2), 1, 0.5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(4)))
    assert FeatureStore(folder, {"encoder": "e"}).contents() == set(contents)
    assert FeatureStore(folder, {"encoder": "other"}).contents() == set()
