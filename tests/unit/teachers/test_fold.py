"""Messages that name hundreds of tensors, and still name every one."""

import re
from collections.abc import Iterable
from random import Random

import pytest
import torch
from torch import Tensor

from spa3r.errors import WeightsError
from spa3r.teachers.checkpoints import check_fit, fold


def unfold(text: str) -> list[str]:
    """What braces stand for, by trying nothing clever."""
    found = re.search(r"\{(.*?)\}", text)
    if found is None:
        return [text]
    whole = []
    for part in found[1].split(","):
        first, _, last = part.partition("..")
        for number in range(int(first), int(last or first) + 1):
            whole += unfold(text[: found.start()] + str(number) + text[found.end() :])
    return whole


@pytest.mark.parametrize("count", [20, 21, 400])
def test_many_misfits_are_folded_and_every_name_can_be_recovered(count: int) -> None:
    random = Random(count)
    endings = ["w", "mlp.0", "norm1", "norm2", *(f"e.{i}.w" for i in range(4))]
    names = {
        f"{random.choice(['missing ', 'unexpected '])}{random.choice(['a.', 'x.b2.', ''])}"
        f"{random.randrange(12)}.{random.choice(endings)}"
        for _ in range(9 * count)
    }
    problems = sorted(names)[: count - 4]
    # Numbers that are no part of a name, or do not read back, stay as they are.
    problems += ["a.1.w has shape (1, 2), expected (3,)", "a.2.w has shape (1, 2), expected (4,)"]
    problems += ["missing a.007.w", "missing a.{8}.w"]
    folded = fold(problems[:count])
    assert sorted(name for text in folded for name in unfold(text)) == sorted(
        text.replace("{8}", "8") for text in problems[:count]
    )
    assert (folded == problems) if len(problems) <= 20 else (len(folded) < len(problems))


def test_a_network_of_another_depth_or_width_is_one_readable_line() -> None:
    def blocks(numbers: Iterable[int], width: int) -> dict[str, Tensor]:
        names = [f"blocks.{i}.{name}" for i in numbers for name in ("mlp.0.weight", "norm.bias")]
        return {name: torch.zeros(width) for name in names} | {"head.bias": torch.zeros(1)}

    wanted = blocks(range(24), 4)
    with pytest.raises(WeightsError) as caught:
        check_fit(wanted, blocks(range(24), 2), network="Net", where="x.pt")
    assert str(caught.value) == (
        "x.pt: 48 tensors do not fit Net:"
        " blocks.{0..23}.mlp.0.weight has shape (2,), expected (4,);"
        " blocks.{0..23}.norm.bias has shape (2,), expected (4,);"
        " use the checkpoint made for this configuration"
    )
    with pytest.raises(WeightsError) as caught:
        check_fit(wanted, blocks([0, 1, 5, 7, 10, 23, 30], 4), network="Net")
    for kind, numbers in (("missing", "{2..4,6,8,9,11..22}"), ("unexpected", "30")):
        assert f"{kind} blocks.{numbers}.norm.bias;" in str(caught.value)
    with pytest.raises(WeightsError, match=r"missing blocks\.3\.mlp.*missing blocks\.4\.norm"):
        check_fit(wanted, blocks([*range(3), *range(5, 24)], 4), network="Net")
