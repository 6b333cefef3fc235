"""Every recipe is built, has a full docstring, and says what the sources say; an ablation changes
what its table ablates, and nothing else."""

from dataclasses import replace

import pytest
import torch

from spa3r.config import Recipe
from spa3r.data.clips import draw_clips
from spa3r.errors import ConfigError
from spa3r.models.spa3r import Spa3RModel
from spa3r.plain import config_hash, from_dict, override, to_dict
from spa3r.recipes import catalogue
from spa3r.recipes.ablations import ABLATIONS, TABLES, of_base, paper_row, table_of
from spa3r.recipes.difference import changed

ABLATED = {
    (base, name): f"{base}-{name}"
    for base in catalogue.RECIPES
    for table in TABLES
    for name in of_base(catalogue.get(base), table)
}
# What an ablation changes, besides the name.
CHANGES: dict[str, dict[str, object]] = {
    "vggt": {"model.semantic": False},
    "dino": {"model.geometric": False},
    "clip": {"teacher.linguistic": "clip", "model.geometric": False, "model.semantic": False,
             "model.linguistic": True},
    "geometric": {"model.semantic": False},
    "semantic": {"model.geometric": False},
    "mask25": {"clips.mask_ratio": 0.25},
    "mask75": {"clips.mask_ratio": 0.75},
    "plucker": {"model.camera": "plucker"},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted([*catalogue.RECIPES, *ABLATED.values()]))
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


@pytest.mark.parametrize(("base", "name"), sorted(ABLATED))
def test_an_ablation_changes_its_settings_and_nothing_else(base: str, name: str):
    expected = override(catalogue.get(base), {"name": f"{base}-{name}", **CHANGES[name]})
    found = catalogue.get(f"{base}-{name}")
    assert found == expected and found != replace(catalogue.get(base), name=found.name)
    assert found.eval_clips == catalogue.get(base).eval_clips


def test_differences_are_named_with_the_others_values():
    base, other = catalogue.get("tiny"), catalogue.get("tiny-mask25", {"train.steps": 200})
    assert changed(base, other) == ("clips.mask_ratio = 0.25", "train.steps = 200")
    assert changed(base, replace(base, name="x")) == ()


def test_the_tables_are_the_papers():
    assert catalogue.table(4, "paper") == ("paper", "paper-vggt", "paper-dino", "paper-clip")
    assert catalogue.table(6, "paper") == ("paper", "paper-mask25", "paper-mask75")
    assert catalogue.table(7, "paper") == ("paper", "paper-plucker")
    assert catalogue.table(4, "tiny") == ("tiny", "tiny-geometric", "tiny-semantic")
    averages = {name: paper_row(f"paper-{name}").average for name in ABLATIONS}
    assert averages == {
        "vggt": 57.5, "dino": 56.7, "clip": 51.9, "geometric": 57.5, "semantic": 56.7,
        "mask25": 57.5, "mask75": 58.1, "plucker": 57.6,
    }  # fmt: skip
    assert paper_row("paper").average == 58.6 and table_of("paper") is None
    assert {table_of(f"tiny-{name}") for name in ABLATIONS} == set(TABLES)
    for number, base in ((5, "paper"), (6, "paper-mask25")):
        with pytest.raises(ConfigError):
            catalogue.table(number, base)


@pytest.mark.parametrize("name", sorted(ABLATIONS))
def test_an_ablation_says_its_table_and_row(name: str):
    text = ABLATIONS[name].change.__doc__ or ""
    assert text.startswith(f"Table {ABLATIONS[name].table}, row ")


def test_targets_that_cannot_be_had_are_refused_in_one_line():
    with pytest.raises(ConfigError) as caught:
        catalogue.get("tiny-clip")
    assert "weight-free" in str(caught.value) and "tiny-geometric" in str(caught.value)
    with pytest.raises(ConfigError, match="paper-vggt"):
        catalogue.get("paper-geometric")
    for unknown in ("tiny-mask30", "huge-mask25", "mask25", "tiny-mask25-plucker"):
        with pytest.raises(ConfigError, match="choose one of"):
            catalogue.get(unknown)


def test_clip_can_share_its_targets_with_the_other_rows():
    shared = {"teacher.linguistic": "clip"}
    teachers = {catalogue.get(name, shared).teacher for name in catalogue.table(4, "paper")}
    assert len(teachers) == 1


@pytest.mark.parametrize(
    ("ratio", "contexts"), [("mask25", {4: 3, 8: 6}), ("mask75", {4: 1, 8: 2})]
)
def test_the_mask_ratio_is_the_share_of_targets(ratio: str, contexts: dict[int, int]):
    spec = replace(catalogue.get(f"paper-{ratio}").clips, clips_per_scene=60)
    clips = draw_clips("rooms", "scene0000_00", range(200), spec)
    for views, context in contexts.items():
        found = {len(c.frames) - sum(c.is_target) for c in clips if len(c.frames) == views}
        assert found == {context}
