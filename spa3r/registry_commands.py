"""`spa3r evaluate` and `spa3r promote`: what a registered encoder is worth."""

import argparse
from collections.abc import Callable

from spa3r.recipe_options import data_options, recipe_of


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the commands; `add` is the one of spa3r/cli.py."""
    evaluate = add(
        "evaluate", _evaluate, "held-out quality against five controls, report", data_options()
    )
    evaluate.add_argument("model", nargs="?", default="models:/spa3r-encoder@candidate")
    add("promote", _promote, "move alias champion to the candidate if the field gate holds")


def _evaluate(arguments: argparse.Namespace) -> None:
    from flows import judge_stages

    result = judge_stages.evaluate(
        arguments.model, dataset=arguments.dataset, **recipe_of(arguments)
    )
    print(result.line)


def _promote(_arguments: argparse.Namespace) -> None:
    from flows import judge_stages

    print(judge_stages.promote().line)
