"""Every tuning recipe builds and says what the sources say; an ablation changes the fusion only."""

from dataclasses import replace

import pytest

from spa3r.errors import ConfigError
from spa3r.plain import config_hash, from_dict, to_dict
from spa3r.recipes import vlm_catalogue
from spa3r.recipes.vlm_ablations import VLM_ABLATIONS, VLM_TABLES, paper_row_of
from spa3r.tune_config import TuneRecipe

NAMES = [
    name
    for base in sorted(vlm_catalogue.TUNE_RECIPES)
    for name in (base, *(f"{base}-{ablation}" for ablation in VLM_ABLATIONS))
]


@pytest.mark.parametrize("name", NAMES)
def test_recipe_builds_and_survives_json(name: str):
    recipe = vlm_catalogue.get(name)
    assert recipe.name == name
    assert from_dict(TuneRecipe, to_dict(recipe)) == recipe


@pytest.mark.parametrize("name", sorted(vlm_catalogue.TUNE_RECIPES))
def test_docstring_has_command_hardware_hours_metric(name: str):
    text = vlm_catalogue.TUNE_RECIPES[name].__doc__ or ""
    for word in ("Command:", "Hardware:", "Hours:", "Metric:"):
        assert word in text


def test_the_published_recipes_have_the_published_settings():
    """reference.md 2.3: learning rate, schedule, frames, length, sets."""
    for name, sets in (
        ("vlm-vsi", ("vsi-590k",)),
        ("vlm-images", ("spar-234k", "llava-hound-64k", "vlm-3r")),
        ("vlm-release", ("vsi-590k",)),
    ):
        recipe = vlm_catalogue.get(name)
        train, mixture = recipe.train, recipe.mixture
        assert tuple(s for s, _ in mixture.weights) == sets
        assert (train.steps, train.epochs, train.lr, train.min_lr) == (0, 1.0, 1e-5, 0.0)
        assert (train.warmup_share, train.weight_decay, train.clip_norm) == (0.03, 0.01, 1.0)
        assert (train.precision, train.sharding) == ("bfloat16", "fsdp2")
        assert train.activation_checkpointing and recipe.vlm.language == "full"
        assert (mixture.frames, mixture.seconds_per_frame) == ((4, 8), 2.0)
        assert (mixture.max_tokens, recipe.vlm.max_frames) == (16_384, 32)
        assert recipe.vlm.base == "Qwen/Qwen2.5-VL-3B-Instruct"
        assert mixture.benchmark_scenes == "keep_out"
    forms = {name: vlm_catalogue.get(name).vlm.fusion.form for name in ("vlm-vsi", "vlm-release")}
    assert forms == {"vlm-vsi": "paper", "vlm-release": "release"}


@pytest.mark.parametrize("base", sorted(vlm_catalogue.TUNE_RECIPES))
@pytest.mark.parametrize("ablation", sorted(VLM_ABLATIONS))
def test_an_ablation_changes_the_fusion_and_nothing_else(base: str, ablation: str):
    plain, found = vlm_catalogue.get(base), vlm_catalogue.get(f"{base}-{ablation}")
    fusion = found.vlm.fusion
    assert fusion != plain.vlm.fusion
    undone = replace(found, name=base, vlm=replace(found.vlm, fusion=plain.vlm.fusion))
    assert undone == plain
    expected = {
        "none": ("none", "latents"), "vggt": ("cross_attention", "teacher"),
        "append": ("append", "latents"), "add": ("add", "teacher"),
        "deepstack": ("deep_stack", "teacher"),
    }  # fmt: skip
    assert (fusion.kind, fusion.source) == expected[ablation]


def test_deep_stack_has_the_peers_layers_where_the_teacher_has_layers():
    assert vlm_catalogue.get("vlm-vsi-deepstack").vlm.fusion.layers == (11, 17, 23)
    assert vlm_catalogue.get("vlm-tiny-deepstack").vlm.fusion.layers == (-1,)


def test_the_tables_are_the_papers():
    assert vlm_catalogue.table(3, "vlm-vsi") == ("vlm-vsi", "vlm-vsi-none", "vlm-vsi-vggt")
    assert vlm_catalogue.table(5, "vlm-vsi") == ("vlm-vsi", "vlm-vsi-none", "vlm-vsi-append")
    averages = {
        name: row.average for name in VLM_ABLATIONS if (row := paper_row_of(f"vlm-vsi-{name}"))
    }
    assert averages == {"none": 50.9, "vggt": 55.1, "append": 51.1}
    full = paper_row_of("vlm-vsi")
    assert full is not None and full.average == 58.6
    assert set(VLM_TABLES) == {3, 5}
    for number, base in ((4, "vlm-vsi"), (5, "vlm-vsi-none")):
        with pytest.raises(ConfigError):
            vlm_catalogue.table(number, base)


def test_overrides_change_the_hash_and_unknown_names_are_refused():
    short = vlm_catalogue.get("vlm-tiny", {"train.steps": 11})
    assert short.train.steps == 11
    assert config_hash(short) != config_hash(vlm_catalogue.get("vlm-tiny"))
    for unknown in ("tiny", "vlm-huge", "vlm-tiny-mask25", "vlm-tiny-none-add", "none"):
        with pytest.raises(ConfigError, match="choose one of") as caught:
            vlm_catalogue.get(unknown)
        assert "\n" not in str(caught.value)
    for setting, value, why in (
        ("train.stepz", 1, "stepz"),
        ("train.steps", 5, "warmup"),
        ("train.tokens_per_batch", 512, "micro-batch only 512"),
        ("vlm.fusion.kind", "add", "set source='teacher'"),
    ):
        with pytest.raises(ConfigError, match=why):
            vlm_catalogue.get("vlm-tiny", {setting: value})
