"""`spa3r targets`: frame shards -> teacher targets."""

import argparse
from collections.abc import Callable

from spa3r.recipe_options import data_options, recipe_of


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `add` is the one of spa3r/cli.py."""
    add("targets", _targets, "frame shards -> teacher targets", data_options())


def _targets(arguments: argparse.Namespace) -> None:
    from flows import data_stages

    print(data_stages.targets(dataset=arguments.dataset, **recipe_of(arguments)).line)
