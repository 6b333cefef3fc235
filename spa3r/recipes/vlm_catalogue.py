"""All recipes of Spa3-VLM by name: the bases, and the ablations of each."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from spa3r.errors import ConfigError
from spa3r.plain import override, require
from spa3r.recipes.vlm_ablations import VLM_ABLATIONS, VLM_TABLES, ablated_vlm
from spa3r.recipes.vlm_paper import vlm_images, vlm_release, vlm_vsi
from spa3r.recipes.vlm_tiny import vlm_debug, vlm_learn, vlm_tiny
from spa3r.tune_config import TuneRecipe

logger = logging.getLogger(__name__)

TUNE_RECIPES: Final[dict[str, Callable[[], TuneRecipe]]] = {
    recipe.__name__.replace("_", "-"): recipe
    for recipe in (vlm_tiny, vlm_debug, vlm_learn, vlm_vsi, vlm_images, vlm_release)
}


def get(name: str, overrides: Mapping[str, Any] | None = None) -> TuneRecipe:
    """The tuning recipe of that name: one of TUNE_RECIPES, or one with an ablation.

    Args:
        overrides: dotted settings, e.g. {"train.steps": 40}; logged.

    Raises:
        ConfigError: unknown name or setting, or overrides that contradict the rest.
    """
    recipe = _named(name)
    if overrides:
        recipe = override(recipe, overrides)
        logger.info("recipe %s with overrides %s", name, dict(overrides))
    return recipe


def table(number: int, base: str) -> tuple[str, ...]:
    """Recipes of one of the paper's ablation tables: the base, then its rows in their order.

    Raises:
        ConfigError: no such table or base.
    """
    require(number in VLM_TABLES, f"table {number}: those of tuning are {sorted(VLM_TABLES)}")
    require(base in TUNE_RECIPES, f"base recipe {base!r} is unknown; choose {_choices()}")
    rows = (name for name, one in VLM_ABLATIONS.items() if number in one.tables)
    return (base, *(f"{base}-{row}" for row in rows))


def _named(name: str) -> TuneRecipe:
    base, _, ablation = name.rpartition("-")
    if name in TUNE_RECIPES:
        return TUNE_RECIPES[name]()
    if base in TUNE_RECIPES and ablation in VLM_ABLATIONS:
        return ablated_vlm(TUNE_RECIPES[base](), ablation)
    raise ConfigError(
        f"tuning recipe {name!r} is unknown; choose {_choices()}, or one of them with an ablation"
        f" of {sorted(VLM_ABLATIONS)}, e.g. vlm-vsi-append"
    )


def _choices() -> str:
    return f"one of {sorted(TUNE_RECIPES)}"
