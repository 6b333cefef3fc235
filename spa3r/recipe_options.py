"""The options of every command that works with a recipe."""

import argparse
import json
from typing import Any

from spa3r.errors import ConfigError


def recipe_options() -> argparse.ArgumentParser:
    """--recipe and --set, as a parent of a command's parser."""
    parser = argparse.ArgumentParser(add_help=False, parents=[set_option()])
    parser.add_argument("--recipe", default="tiny", help="named experiment (default: tiny)")
    return parser


def set_option() -> argparse.ArgumentParser:
    """--set alone, as a parent of a command's parser."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override one recipe setting, e.g. --set train.steps=100 (value is JSON)",
    )  # fmt: skip
    return parser


def recipe_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a stage takes: `recipe` and `overrides`. Raises ConfigError as `overrides_of`."""
    return {"recipe": arguments.recipe, "overrides": overrides_of(arguments)}


def overrides_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings of --set by name, with values read as JSON or else as text.

    Raises:
        ConfigError: an override without "=".
    """
    overrides: dict[str, Any] = {}
    for item in arguments.overrides:
        key, sign, text = item.partition("=")
        if not sign:
            raise ConfigError(f"--set {item}: write KEY=VALUE, e.g. train.steps=100")
        try:
            overrides[key] = json.loads(text)
        except ValueError:
            overrides[key] = text
    return overrides


def data_options() -> argparse.ArgumentParser:
    """Parent parser with --dataset beside --recipe and --set."""
    data = argparse.ArgumentParser(add_help=False, parents=[recipe_options()])
    data.add_argument("--dataset", default="rooms", help="name of the ingested dataset")
    return data
