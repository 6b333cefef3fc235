"""`spa3r pretrain`: targets -> a registered encoder."""

import argparse
from collections.abc import Callable

from spa3r.recipe_options import data_options, recipe_of


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; `add` is the one of spa3r/cli.py."""
    add(
        "pretrain",
        _pretrain,
        "targets -> trained encoder, registered as candidate",
        data_options(),
    )


def _pretrain(arguments: argparse.Namespace) -> None:
    from flows import train_stage

    print(train_stage.pretrain(dataset=arguments.dataset, **recipe_of(arguments)).line)
