"""Every command of the operations pages says how it is checked, and could be typed as it stands.

`sh tested` blocks are run by tests/integration/test_operations.py. `sh cluster` blocks need what no
test has; here their commands are parsed, and what they name is looked up.
"""

import argparse
import ast
import functools
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from flows import settings
from spa3r import cli
from spa3r.recipe_options import overrides_of
from spa3r.recipes import catalogue, vlm_catalogue
from tests.documents import CLUSTER, LABELLED, OPERATIONS, REPO, TESTED, Block, blocks, spans

LABELS = {TESTED, CLUSTER, "text", "text output", "python", "json", "yaml"}
WALKS = (
    "First run on one node",
    "First run on a Kubernetes cluster",
    "Adding scenes",
    "A run that dies at night",
    "A slow loader",
    "A bad scene",
    "Rolling back",
    "Tuning a Spa3-VLM",
    "Scoring on a benchmark",
)
ALL_BLOCKS = [block for page in LABELLED for block in blocks(page)]
COMMANDS = [(block, line) for block in ALL_BLOCKS if block.label in (TESTED, CLUSTER)
            for line in block.commands()]  # fmt: skip
PROGRAM = re.compile(r"(spa3r|prefect|mlflow|ray|kubectl|docker|make|rm|kill) \S")


def words(line: str) -> list[str]:
    """A shell line's words without comment, variables in front and redirections."""
    found = shlex.split(line, comments=True)
    while found and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", found[0]):
        del found[0]
    return found


def calls(program: str) -> list[tuple[Block, list[str]]]:
    """Every call of a program; several may stand in one line."""
    found = []
    for block, line in COMMANDS:
        for part in re.split(r" (?:&&|\|\||;|\|) |&$|[<>]", line.partition(" #")[0]):
            call = words(part)
            if call[:1] == [program]:
                found.append((block, call[1:]))
    return found


@functools.cache
def parser() -> argparse.ArgumentParser:
    return cli._parser()


def test_every_block_is_labelled() -> None:
    for block in ALL_BLOCKS:
        assert block.label in LABELS, f"{block.place}: label {block.label!r}"


def test_a_block_that_is_not_run_says_what_it_needs() -> None:
    for block in ALL_BLOCKS:
        first = block.text.splitlines()[0]
        if block.label == CLUSTER:
            assert first.startswith("# needs "), f"{block.place}: {first}"
        elif block.label == TESTED:
            assert not first.startswith("# needs "), f"{block.place}: {first}"


def test_the_walks_come_first_and_have_commands() -> None:
    sections = re.findall(r"^## (.*)$", OPERATIONS.read_text(), re.MULTILINE)
    assert tuple(sections[: len(WALKS)]) == WALKS
    for walk in WALKS:
        labels = {block.label for block in blocks(OPERATIONS) if block.section == walk}
        assert labels & {TESTED, CLUSTER}, walk
        untested = "Kubernetes" in walk or "benchmark" in walk
        assert untested or TESTED in labels, f"{walk}: nothing of it is tested"


def test_every_spa3r_command_parses_and_its_recipe_exists() -> None:
    found = calls("spa3r")
    assert len(found) > 20
    for block, call in found:
        try:
            arguments = parser().parse_args(call)
        except SystemExit as error:
            raise AssertionError(f"{block.place}: spa3r {shlex.join(call)}") from error
        if hasattr(arguments, "overrides") and hasattr(arguments, "recipe"):
            recipes = vlm_catalogue if call[0] == "tune" else catalogue
            recipes.get(arguments.recipe, overrides_of(arguments))


def deployments() -> dict[str, set[str]]:
    """Parameters of every flow that prefect.yaml deploys, by the deployment's full name. Read from
    the source: importing Prefect takes seconds."""
    found = {}
    for entry in yaml.safe_load((REPO / "prefect.yaml").read_text())["deployments"]:
        path, _, name = entry["entrypoint"].partition(":")
        (flow,) = (
            node
            for node in ast.parse((REPO / path).read_text()).body
            if isinstance(node, ast.FunctionDef) and node.name == name
        )
        arguments = {one.arg for one in (*flow.args.args, *flow.args.kwonlyargs)}
        found[f"{name}/{entry['name']}"] = arguments
    return found


def test_every_deployment_that_is_run_exists_and_takes_its_parameters() -> None:
    known = deployments()
    runs = [call[2:] for _, call in calls("prefect") if call[:2] == ["deployment", "run"]]
    assert runs
    for name, *options in runs:
        assert name in known, name
        given = [options[i + 1] for i, word in enumerate(options) if word == "--param"]
        assert {text.partition("=")[0] for text in given} <= known[name], (name, given)


@pytest.mark.parametrize("program", ["kubectl", "docker"])
def test_files_that_are_applied_exist(program: str) -> None:
    for block, call in calls(program):
        for before, path in pairwise(call):
            if before == "-f" and call[0] != "logs" and not path.startswith("your-"):
                assert (REPO / path).exists(), f"{block.place}: {path}"


def test_variables_of_ours_are_those_that_are_read() -> None:
    code = (REPO / "flows/settings.py").read_text() + (settings.__doc__ or "")
    for page in LABELLED:
        for name in set(re.findall(r"\bSPA3R_[A-Z_]+", page.read_text())):
            assert name in code, f"{page.name}: {name}"


@pytest.mark.parametrize("page", LABELLED, ids=lambda page: page.name)
def test_commands_in_the_text_stand_in_a_block_too(page: Path) -> None:
    """What is to be typed stands in a labelled block; the text only refers to it.

    On other pages than operations.md two words (`spa3r promote`) may be a command's name.
    """
    lines = [line for _, line in COMMANDS]
    for span in spans(page):
        name_only = page != OPERATIONS and len(span.split()) == 2
        if PROGRAM.match(span) and not name_only:
            assert any(span in line for line in lines), f"{page.name}: `{span}`"


def test_links_with_an_anchor_lead_to_a_heading() -> None:
    for page in (*LABELLED, *(REPO / "docs").glob("*.md"), REPO / "README.md"):
        for path, anchor in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", page.read_text()):
            target = page.parent / path if path else page
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{page.name}: {path}#{anchor}"
