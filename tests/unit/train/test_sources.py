"""Which stored targets fit a recipe."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from preprocessing.targets import write_targets
from spa3r.config import Recipe
from spa3r.data.shards import FrameTable
from spa3r.errors import ConfigError
from spa3r.recipes import catalogue
from spa3r.train.sources import open_data
from tests.frames_maker import make_frames


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    debug = catalogue.get("debug")
    return replace(debug, clips=replace(debug.clips, view_counts=(4,), clips_per_scene=2))


@pytest.fixture
def targets(tmp_path: Path, recipe: Recipe) -> Path:
    table = FrameTable(make_frames(tmp_path / "frames", {"a": 8}, size=(112, 84)))
    out = tmp_path / "targets"
    write_targets(table, out, clips=recipe.clips, teacher=recipe.teacher, split="train")
    return out


def test_targets_of_the_recipe_s_teachers_fit(targets: Path, recipe: Recipe) -> None:
    data = open_data(str(targets), recipe)
    assert set(data.references) == {"geometric", "semantic"}
    assert data.stats is not None and "sem_mean" in data.stats


def test_targets_from_before_a_setting_still_fit(targets: Path, recipe: Recipe) -> None:
    manifest = json.loads((targets / "manifest.json").read_text())
    for name in ("linguistic", "linguistic_uri", "linguistic_width", "layer", "metric_scale"):
        del manifest["teacher"][name]
    (targets / "manifest.json").write_text(json.dumps(manifest))
    open_data(str(targets), recipe)
    spoken = replace(recipe, teacher=replace(recipe.teacher, linguistic="clip"))
    with pytest.raises(ConfigError, match=r"another teacher \(linguistic differ\).*spa3r targets"):
        open_data(str(targets), spoken)


def test_every_setting_that_differs_is_named(targets: Path, recipe: Recipe) -> None:
    other = replace(recipe, teacher=replace(recipe.teacher, seed=3, dtype="bfloat16"))
    with pytest.raises(ConfigError, match=r"\(dtype, seed differ\)"):
        open_data(str(targets), other)
