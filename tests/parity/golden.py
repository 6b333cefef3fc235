"""One numerical fixture: configuration, tensors by group, tolerance."""

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import golden_names, shared_folder


def named(prefix: str) -> list[str]:
    """Fixtures of one kind, by their name's beginning."""
    return [name for name in golden_names() if name.startswith(prefix)]


def variants(names: list[str], group: str, depth: int = 1) -> list[tuple[str, str]]:
    """(fixture, variant): the parts of tensor names below a group, from the JSON's own list."""
    found = []
    for name in names:
        spec = json.loads((shared_folder() / "golden" / f"{name}.json").read_text())
        keys = [k.removeprefix(group) for k in spec["tensors"] if k.startswith(group)]
        found += [(name, v) for v in sorted({"/".join(k.split("/")[:depth]) for k in keys})]
    return found


def read_keymap(name: str) -> dict[str, Any]:
    """golden/keymap_<name>.json; the test is skipped where the folder has none."""
    path = shared_folder() / "golden" / f"keymap_{name}.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text())


class Golden:
    """A fixture; the `Case` classes of single tests add what they alone need."""

    def __init__(self, name: str) -> None:
        folder = shared_folder() / "golden"
        self.spec: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
        self.config: dict[str, Any] = self.spec["config"]
        self.tensors = load_file(folder / f"{name}.safetensors")

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names start with a prefix, under the rest of their names."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def close(self, ours: Tensor, name: str) -> None:
        """Compares with outputs/<name> within the tolerance that the fixture states."""
        tolerance = self.spec["tolerance"]
        torch.testing.assert_close(
            ours,
            self.tensors[f"outputs/{name}"],
            atol=tolerance["atol"],
            rtol=tolerance["rtol"],
            msg=lambda text: f"{name}: {text}",
        )
