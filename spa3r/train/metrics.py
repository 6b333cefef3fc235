"""metrics.jsonl: what a run measured, one line per log window, no step twice."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from spa3r import storage
from spa3r.eval.field_report import COMPARED, MODEL
from spa3r.train.world import World

METRICS: Final = "metrics.jsonl"
HELD_OUT_TEXT: Final = "validation/text"
"""Mean cross-entropy of conversations that are held out of tuning."""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Complete lines of a metrics file, [] where it is absent.

    A line without its newline is one that a killed or a running process has not finished.
    """
    if not path.exists():
        return []
    complete = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in complete if line.strip()]


def score_of(scores: Mapping[str, float]) -> float | None:
    """Higher is better: R2 of the first kind of token that the student predicts; of tuning, minus
    the held-out conversations' loss. None: unknown."""
    if HELD_OUT_TEXT in scores:
        return -scores[HELD_OUT_TEXT]
    names = (f"field/{MODEL}/{metric}" for metric in COMPARED)
    return next((scores[name] for name in names if name in scores), None)


class StepLines:
    """A file of lines with a "step", which rank 0 writes."""

    def __init__(self, path: Path, world: World, *, first_step: int) -> None:
        """Cuts the file back to `first_step`: what a killed process did after its last checkpoint
        is done, and logged, again."""
        self._path, self._writes = path, world.rank == 0
        self.kept: list[dict[str, Any]] = []
        """The lines up to `first_step`; [] on all ranks but 0."""
        if self._writes:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.kept = [line for line in read_lines(path) if line["step"] <= first_step]
            if path.exists():
                storage.write_bytes(path, "".join(map(_text, self.kept)).encode())

    def append(self, line: Mapping[str, Any]) -> None:
        """Adds a line; does nothing on ranks other than 0."""
        if self._writes:
            with self._path.open("a") as f:
                f.write(_text(line))


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line, sort_keys=True) + "\n"


class MeanLosses:
    """Means of the parts of the loss over all tokens of a window of steps, on the device."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = defaultdict(self._zero)
        self._tokens: dict[str, Tensor] = defaultdict(self._zero)

    def _zero(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64, device=self._world.device)

    def add(self, losses: Mapping[str, Tensor], tokens: Mapping[str, Tensor]) -> None:
        """Adds the parts of one micro-batch, each with the number of tokens that it is the mean of.
        Never waits for the device."""
        for part, number in tokens.items():
            self._sums[part] += losses[part].detach() * number
            self._tokens[part] += number

    def read(self) -> dict[str, float]:
        """Means over all ranks, and their "total"; {} if no token counted. Begins a new window.

        Every rank must call it.
        """
        both = torch.stack([*self._sums.values(), *self._tokens.values()])
        sums, tokens = self._world.sum(both).view(2, -1).tolist()
        means = {
            part: total / max(number, 1.0)
            for part, total, number in zip(self._sums, sums, tokens, strict=True)
        }
        self._reset()
        return means | {"total": sum(means.values(), 0.0)} if any(tokens) else {}
