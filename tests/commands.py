"""A parser with the commands of one module, as spa3r/cli.py would register them."""

import argparse
from collections.abc import Callable
from typing import Any


def parser_of(register: Callable[..., None]) -> argparse.ArgumentParser:
    """What `register(add)` of a `*_commands.py` module makes."""
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True, dest="command")

    def add(name: str, run: Any, summary: str, *, text: str = "") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=text or summary)
        command.set_defaults(run=run)
        return command

    register(add)
    return parser
