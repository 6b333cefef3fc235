"""What the documents tell a reader to type or to open exists."""

import argparse
import re
from pathlib import Path

import pytest

from spa3r import cli

REPO = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*REPO.glob("*.md"), *(REPO / "docs").rglob("*.md"), *REPO.glob("infra/*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<img[^>]*\ssrc=\"([^\"]+)\"")
CODE = re.compile(r"```.*?```|^(?: {4}|\t)[^\n]*$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:^|[\s`(]|\.venv/bin/)spa3r ([a-z]+)\b([^\n`|]*)", re.MULTILINE)

documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(REPO)))


def code(path: Path) -> str:
    """Blocks and spans of code: prose may speak of "the spa3r command"."""
    return "\n".join(CODE.findall(path.read_text()))


def commands() -> dict[str, argparse.ArgumentParser]:
    for action in cli._parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("spa3r has no subcommands")


@documents
def test_every_make_target_exists(path: Path) -> None:
    makefile = (REPO / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][\w-]*):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?<![\w-])make ([a-z][\w-]*)", code(path)))
    assert named <= targets, f"{path.name}: make {sorted(named - targets)}"


@documents
def test_every_spa3r_command_exists_with_its_options(path: Path) -> None:
    known = commands()
    for name, rest in COMMAND.findall(code(path)):
        assert name in known, f"{path.name}: spa3r {name}"
        options = set(known[name]._option_string_actions)
        for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", rest.partition("#")[0]):
            assert option in options, f"{path.name}: spa3r {name} {option}"


@documents
def test_every_link_into_the_repository_leads_somewhere(path: Path) -> None:
    for groups in LINK.findall(path.read_text()):
        target = (groups[0] or groups[1]).partition("#")[0]
        if target and not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_readme_shows_the_two_commands_and_a_picture() -> None:
    text = (REPO / "README.md").read_text()
    assert "make demo" in text and "make test" in text
    assert re.search(r"!\[[^\]]*\]\([^)\s]+\.(png|jpg|webp|svg)\)|<img ", text), "no picture"
