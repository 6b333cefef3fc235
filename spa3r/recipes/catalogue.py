"""All recipes by name."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from spa3r.config import Recipe
from spa3r.errors import ConfigError
from spa3r.plain import override
from spa3r.recipes.debug import debug
from spa3r.recipes.paper import paper
from spa3r.recipes.release import release
from spa3r.recipes.tiny import tiny

logger = logging.getLogger(__name__)

RECIPES: dict[str, Callable[[], Recipe]] = {
    recipe.__name__: recipe for recipe in (tiny, debug, paper, release)
}


def get(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of that name.

    Args:
        overrides: dotted settings for debugging and tests, e.g. {"train.steps": 40}; logged.

    Raises:
        ConfigError: unknown name or setting, or overrides that contradict the rest.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} is unknown; choose one of {sorted(RECIPES)}")
    recipe = RECIPES[name]()
    if overrides:
        recipe = override(recipe, overrides)
        logger.info("recipe %s with overrides %s", name, dict(overrides))
    return recipe
