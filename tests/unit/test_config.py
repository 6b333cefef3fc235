"""Configurations: contradictions are refused, JSON round-trips, the hash names the content."""

import dataclasses
import math
from typing import Any

import pytest

from spa3r.config import ClipSpec, IngestSpec, ModelConfig, Recipe, TeacherSpec, TrainConfig
from spa3r.errors import ConfigError
from spa3r.plain import config_hash, from_dict, override, to_dict


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


@pytest.mark.parametrize(
    ("table", "least", "names"),
    [
        ("model", 1, "geo_width sem_width lang_width width num_heads num_latents mlp_ratio"),
        ("model", 1, "encoder_layers decoder_layers patch_size"),
        ("model", 0, "num_registers"),
        ("teacher", 1, "patch_size width semantic_width linguistic_width"),
        ("train", 1, "steps log_every"),
        ("train", 0, "weight_decay"),
    ],
)
def test_sizes_have_a_smallest_value(table: str, least: int, names: str) -> None:
    kind = {"model": ModelConfig, "teacher": TeacherSpec, "train": TrainConfig}[table]
    for name in names.split():
        for wrong in (least - 1, least - 7):
            with pytest.raises(ConfigError) as caught:
                kind(**{name: wrong})
            assert str(caught.value) == f"{name} must be at least {least}, got {wrong}"
            with pytest.raises(ConfigError, match=f"{name} must be at least {least}"):
                override(Recipe(name="x"), {f"{table}.{name}": wrong})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda x: ModelConfig(rope_base=x), "rope_base must be positive"),
        (lambda x: TrainConfig(lr=x, min_lr=0.0), "lr must be positive"),
        (lambda x: TrainConfig(clip_norm=x), "clip_norm must be positive"),
    ],
)
def test_what_must_be_positive_is(make, says: str) -> None:
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match=says):
            make(wrong)
    make(1e-6)


def test_the_smallest_values_are_allowed() -> None:
    ModelConfig(width=8, num_heads=1, num_registers=0, encoder_layers=1, decoder_layers=1,
                mlp_ratio=1, num_latents=1, geo_width=1, sem_width=1, lang_width=1)  # fmt: skip
    TrainConfig(weight_decay=0.0, log_every=1, betas=(0.0, 0.0))


# --- JSON -----------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("dotted", "value", "says"),
    [
        ("clips.view_counts", [4, "8"], r"ClipSpec.view_counts\[1\] must be int, got '8'"),
        ("clips.view_counts", [4.0], r"view_counts\[0\] must be int, got 4.0"),
        ("clips.view_counts", [True], r"view_counts\[0\] must be int, got True"),
        ("clips.view_counts", [None, 4], r"view_counts\[0\] must be int, got None"),
        ("clips.view_counts", 4, "view_counts must be a list, got 4"),
        ("clips.view_counts", "48", "view_counts must be a list, got '48'"),
        ("clips.gap", [1], r"ClipSpec.gap must have 2 entries, got \[1\]"),
        ("clips.gap", [1, 2, 3], r"gap must have 2 entries, got \[1, 2, 3\]"),
        ("clips.gap", [], r"gap must have 2 entries, got \[\]"),
        ("clips.gap", [1, 2.5], r"gap\[1\] must be int, got 2.5"),
        ("clips.gap", [1, [2]], r"gap\[1\] must be int, got \[2\]"),
        ("clips.mask_schedule", [0.5, "x\ny"], r"mask_schedule\[1\] must be float, got 'x"),
        ("clips.mask_schedule", [True], r"mask_schedule\[0\] must be float, got True"),
        ("train.betas", [0.9], "betas must have 2 entries"),
        ("train.betas", [0.9, "0.95"], r"betas\[1\] must be float, got '0.95'"),
        ("train.betas", [0.9, 1.0], r"betas must be two numbers in \[0, 1\), got \(0.9, 1.0\)"),
        ("train.betas", [-0.1, 0.9], "betas must be two numbers"),
        ("train.betas", [math.nan, 0.9], "betas must be two numbers"),
    ],
)
def test_lists_are_checked_entry_by_entry(dotted: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        override(Recipe(name="x"), {dotted: value})
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_floats_where_floats_are_asked_for() -> None:
    changed = override(Recipe(name="x"), {"train.betas": [0, 0.5], "train.clip_norm": 2})
    assert changed.train == TrainConfig(betas=(0.0, 0.5), clip_norm=2.0)
    found = [*changed.train.betas, changed.train.clip_norm]
    assert all(isinstance(x, float) for x in found)
    same = override(Recipe(name="x"), {"train.betas": [0.0, 0.5], "train.clip_norm": 2.0})
    assert config_hash(changed) == config_hash(same)


@pytest.mark.parametrize(
    "make", [lambda: ClipSpec(gap=(1,)), lambda: TrainConfig(betas=(0.9,))]  # type: ignore[arg-type]
)  # fmt: skip
def test_pairs_are_pairs_in_python_too(make) -> None:
    with pytest.raises(ConfigError, match="two numbers"):
        make()


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
