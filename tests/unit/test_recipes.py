"""Every recipe is built, has a full docstring, and says what the sources say."""

from dataclasses import replace

import pytest
import torch

from spa3r.config import Recipe
from spa3r.errors import ConfigError
from spa3r.models.spa3r import Spa3RModel
from spa3r.plain import config_hash, from_dict, to_dict
from spa3r.recipes import catalogue


@pytest.mark.parametrize("name", sorted(catalogue.RECIPES))
def test_recipe_builds_and_survives_json(name: str):
    recipe = catalogue.get(name)
    assert recipe.name == name
    assert from_dict(Recipe, to_dict(recipe)) == recipe
    with torch.device("meta"):
        Spa3RModel(recipe.model)


@pytest.mark.parametrize("name", sorted(catalogue.RECIPES))
def test_docstring_has_command_hardware_hours_metric(name: str):
    text = catalogue.RECIPES[name].__doc__ or ""
    for word in ("Command:", "Hardware:", "Hours:", "Metric:"):
        assert word in text


def test_paper_and_release_differ_where_the_authors_do():
    paper, release = catalogue.get("paper"), catalogue.get("release")
    assert (paper.train.lr, paper.loss.kind, paper.loss.views) == (1e-3, "l1", "targets")
    assert (paper.teacher.passes, paper.teacher.qk_norm) == ("asymmetric", "layernorm")
    assert (release.train.lr, release.train.min_lr) == (2e-3, 2e-4)
    assert (release.loss.kind, release.loss.views) == ("smooth_l1", "all")
    assert (release.teacher.passes, release.teacher.qk_norm) == ("two_pass", "rms")
    assert (paper.model.depth_probe, release.model.depth_probe) == ("features", "hidden")
    assert replace(paper.model, depth_probe="hidden") == release.model
    assert paper.clips == release.clips
    for recipe in (paper, release):
        assert recipe.train.steps == 80_000 and recipe.clips.view_counts == tuple(range(4, 13))
        assert recipe.train.batches_per_step == 16 and recipe.train.views_per_batch == 24


def test_overrides_change_the_hash_and_unknown_names_are_refused():
    short = catalogue.get("tiny", {"train.steps": 101})
    assert short.train.steps == 101
    assert config_hash(short) != config_hash(catalogue.get("tiny"))
    with pytest.raises(ConfigError, match="choose one of"):
        catalogue.get("huge")
    with pytest.raises(ConfigError, match="stepz"):
        catalogue.get("tiny", {"train.stepz": 1})
    with pytest.raises(ConfigError, match="warmup"):
        catalogue.get("tiny", {"train.steps": 40})
