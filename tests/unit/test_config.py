"""Configurations: contradictions are refused, JSON round-trips, the hash names the content."""

import dataclasses

import pytest

from spa3r.config import (
    ClipSpec,
    IngestSpec,
    ModelConfig,
    Recipe,
    TeacherSpec,
    TrainConfig,
    config_hash,
    from_dict,
    override,
    to_dict,
)
from spa3r.errors import ConfigError


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: IngestSpec(width=500), "multiple of 14"),
        (lambda: IngestSpec(stride=0), "stride"),
        (lambda: ClipSpec(view_counts=()), "view_counts"),
        (lambda: ClipSpec(view_counts=(4,), mask_ratio=0.9), "context views"),
        (lambda: ClipSpec(gap=(5, 2)), "gap"),
        (lambda: TeacherSpec(geometric="rgbd", cameras="teacher"), "cameras='dataset'"),
        (lambda: TeacherSpec(geometric="vggt", patch_size=16), "patches of 14"),
        (
            lambda: TeacherSpec(geometric="rgbd", cameras="dataset", passes="two_pass"),
            "two_pass",
        ),
        (lambda: TeacherSpec(geometric="rgbd", cameras="dataset", layer=3), "no layers"),
        (lambda: ClipSpec(mask_schedule=(0.5, 1.0)), "mask ratio must lie"),
        (lambda: ClipSpec(view_counts=(4,), mask_schedule=(0.5, 0.9)), "context views"),
        (lambda: ClipSpec(mask_schedule=(0.25, 0.5), clips_per_scene=1), "clips_per_scene 1"),
        (lambda: Recipe(name="x", model=ModelConfig(linguistic=True)), "linguistic is on"),
        (
            lambda: Recipe(
                name="x",
                teacher=TeacherSpec(linguistic="clip", linguistic_width=768),
                model=ModelConfig(linguistic=True),
            ),
            "linguistic width",
        ),
        (lambda: ModelConfig(width=100, num_heads=3), "divisible"),
        (lambda: ModelConfig(geometric=False, semantic=False), "no target"),
        (lambda: TrainConfig(steps=10, warmup_steps=10), "warmup"),
        (lambda: Recipe(name="x", model=ModelConfig(geo_width=64)), "geometric width"),
        (lambda: Recipe(name="x", teacher=TeacherSpec(semantic="none")), "semantic is on"),
        (lambda: Recipe(name="x", train=TrainConfig(views_per_batch=4)), "budget"),
    ],
)
def test_contradictions_are_one_clear_line(make, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_recipe_survives_json() -> None:
    recipe = Recipe(name="x", clips=ClipSpec(view_counts=(4, 8), gap=(1, 3)))
    assert from_dict(Recipe, to_dict(recipe)) == recipe


@pytest.mark.parametrize(
    "values",
    [{"nmae": "x"}, {"name": 3}, {"name": "x", "train": {"steps": "many"}},
     {"name": "x", "loss": {"kind": "l3"}}, {"name": "x", "clips": 3}],
)  # fmt: skip
def test_wrong_json_is_refused(values: dict) -> None:
    with pytest.raises(ConfigError):
        from_dict(Recipe, values)


def test_hash_changes_with_every_leaf_and_only_then() -> None:
    recipe = Recipe(name="x")
    assert config_hash(recipe) == config_hash(Recipe(name="x"))
    changed = override(recipe, {"train.seed": 1})
    assert config_hash(changed) != config_hash(recipe)
    assert dataclasses.replace(changed, train=recipe.train) == recipe


def test_override_checks_names_and_types() -> None:
    with pytest.raises(ConfigError, match="no setting"):
        override(Recipe(name="x"), {"train.stepz": 1})
    with pytest.raises(ConfigError, match="no setting"):
        override(Recipe(name="x"), {"train.steps.more": 1})
    with pytest.raises(ConfigError, match="steps"):
        override(Recipe(name="x"), {"train.steps": 1.5})


def test_overrides_are_checked_together() -> None:
    recipe = override(Recipe(name="x"), {"train.warmup_steps": 100})
    values = {"train.steps": 50, "train.warmup_steps": 5}
    for order in (values, dict(reversed(values.items()))):
        changed = override(recipe, order)
        assert (changed.train.steps, changed.train.warmup_steps) == (50, 5)
