"""The arithmetic of the target sources: its page is today's, and it says what the text says."""

import json

import pytest

from benchmarks.target_sources import CLIPS, MACHINES, VIEWS, costs, page, result
from spa3r.recipes import catalogue
from tests.documents import REPO


def test_the_page_is_what_the_script_says_today() -> None:
    """Else: python -m benchmarks.target_sources --json docs/benchmarks/target_sources.json"""
    numbers = REPO / "docs/benchmarks/target_sources.json"
    assert json.loads(numbers.read_text()) == result()
    assert numbers.with_suffix(".md").read_text() == page()


def test_the_micro_batch_is_that_of_the_recipe() -> None:
    assert catalogue.get("paper").train.views_per_batch // VIEWS == CLIPS


def test_who_wins_where() -> None:
    """Stored targets on a node's own disk, teachers in the loop where eight GPUs share 1 GB/s."""
    found = costs()
    node, slow, _ = MACHINES.values()
    seconds = {name: (cost.seconds(node), cost.seconds(slow)) for name, cost in found.items()}
    assert seconds["cached float16"][0] < seconds["hybrid float16"][0] < seconds["online"][0]
    assert seconds["online"][1] < seconds["cached int8"][1] < seconds["cached float16"][1]


def test_geometric_tokens_have_the_published_size() -> None:
    """Reference: 4.1 MB a view in float16; int8 halves it but for its scales."""
    found = costs()
    whole, half = found["cached float16"].read_bytes, found["cached int8"].read_bytes
    assert whole == pytest.approx(24 * 4.09e6 + 12 * 2.05e6, rel=0.01)
    assert half == pytest.approx(whole / 2, rel=0.01)
