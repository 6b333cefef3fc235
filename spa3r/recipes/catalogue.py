"""All recipes by name: the bases, and the paper's ablations of each."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from spa3r.config import Recipe
from spa3r.errors import ConfigError
from spa3r.plain import override, require
from spa3r.recipes.ablations import ABLATIONS, TABLES, ablated, of_base
from spa3r.recipes.debug import debug
from spa3r.recipes.paper import paper
from spa3r.recipes.release import release
from spa3r.recipes.tiny import tiny

logger = logging.getLogger(__name__)

RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (tiny, debug, paper, release)
}


def get(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of that name: one of RECIPES, or one of them with an ablation, "paper-mask25".

    Args:
        overrides: dotted settings for debugging and tests, e.g. {"train.steps": 40}; logged.

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
    require(number in TABLES, f"table {number}: those with ablations are {sorted(TABLES)}")
    require(base in RECIPES, f"base recipe {base!r} is unknown; choose one of {sorted(RECIPES)}")
    return (base, *(f"{base}-{row}" for row in of_base(RECIPES[base](), number)))


def _named(name: str) -> Recipe:
    base, _, ablation = name.rpartition("-")
    if name in RECIPES:
        return RECIPES[name]()
    if base in RECIPES and ablation in ABLATIONS:
        return ablated(RECIPES[base](), ablation)
    raise ConfigError(
        f"recipe {name!r} is unknown; choose one of {sorted(RECIPES)}, or one of them with an"
        f" ablation of {sorted(ABLATIONS)}, e.g. paper-mask25"
    )
