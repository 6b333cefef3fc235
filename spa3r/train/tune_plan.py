"""What a tuning run learns from, settled before its first step: which conversations, how long each
is, and which features it reads. One Parquet file in the run's folder, which every worker reads."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from spa3r import storage
from spa3r.data.mixture import Mixture
from spa3r.errors import ConfigError, PromptError
from spa3r.instructions import Instruction
from spa3r.plain import config_hash
from spa3r.tune_config import TuneRecipe
from spa3r.vlm.processor import Processor

FORMAT: Final = "spa3r-plan-1"
LONG: Final = "too_many_tokens"
MANY_FRAMES: Final = "too_many_images"
MALFORMED: Final = "malformed_conversation"
_NUMBERS: Final = (
    *("number", "tokens", "blind_tokens", "images", "height", "width", "placeholders"),
)
_SCHEMA: Final = pa.schema(
    [*((name, pa.int64()) for name in _NUMBERS), ("content", pa.string()), ("held_out", pa.bool_())]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What one video (or one conversation's images) looks like to the model."""

    content: str
    """Its features' key; "": no media."""
    images: int
    height: int
    width: int
    """Pixels at working size."""
    placeholders: int = 0
    """Geometry tokens that stand in the sequence (fusion `append`)."""

    def grid(self, patch: int) -> Tensor | None:
        """(I, 3) int64: time, rows and columns of patches of each image; None: no images."""
        if not self.images:
            return None
        return torch.tensor([[1, self.height // patch, self.width // patch]] * self.images)


NOTHING: Final = Seen(content="", images=0, height=0, width=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One conversation that is kept."""

    number: int
    """In the mixture."""
    tokens: int
    blind_tokens: int
    """Without its images and their geometry."""
    seen: Seen
    held_out: bool


_OF_ROW: Final = ("number", "tokens", "blind_tokens", "held_out")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Conversations by row, in the mixture's order."""

    table: pa.Table
    asked: str
    """Hash of all that it was made from."""
    dropped: dict[str, dict[str, int]]
    """By set: reason -> conversations left out."""

    def __len__(self) -> int:
        return self.table.num_rows

    def row(self, place: int) -> Row:
        """The conversation of a row."""
        found = {name: column[place].as_py() for name, column in self._columns}
        seen = Seen(**{name: found[name] for name in Seen.__dataclass_fields__})
        return Row(seen=seen, **{name: found[name] for name in _OF_ROW})

    @property
    def _columns(self) -> Sequence[tuple[str, Any]]:
        return [(name, self.table[name]) for name in self.table.column_names]

    def numbers(self, name: str) -> np.ndarray:
        """A column, int64."""
        return self.table[name].to_numpy().astype(np.int64)

    @property
    def held_out(self) -> np.ndarray:
        """Rows that are validated on and not learnt, ascending."""
        return np.flatnonzero(self.table["held_out"].to_numpy(zero_copy_only=False))

    @property
    def contents(self) -> set[str]:
        """Keys of all features that it names."""
        return set(self.table["content"].to_pylist()) - {""}

    @property
    def hash(self) -> str:
        """16 hex digits over its rows."""
        return config_hash([self.table[name].to_pylist() for name in self.table.column_names])

    def facts(self) -> dict[str, Any]:
        """For data.json of the run and for reports: counts and drops."""
        tokens, held_out = self.numbers("tokens"), len(self.held_out)
        return {
            "conversations": len(self) - held_out,
            "held_out": held_out,
            "videos": len(self.contents),
            "tokens": {
                "mean": float(tokens.mean()),
                "most": int(tokens.max()),
            },
            "dropped": self.dropped,
        }

    def __str__(self) -> str:
        found = self.facts()
        left_out = sum(sum(counts.values()) for counts in self.dropped.values())
        return (
            f"{found['conversations']} conversations about {found['videos']} videos,"
            f" {found['held_out']} held out, {left_out} left out"
        )

    def save(self, path: Path) -> None:
        """Writes it, atomically."""
        about = {"asked": self.asked, "dropped": self.dropped}
        table = self.table.replace_schema_metadata({"spa3r": json.dumps(about, sort_keys=True)})
        with storage.named_write_errors(path), storage.atomic_write(path) as f:
            pq.write_table(table, f, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """What `save` wrote."""
        with storage.open_read(path) as f:
            table = pq.read_table(f)
        about = json.loads(table.schema.metadata[b"spa3r"])
        return cls(table=table.replace_schema_metadata(None), **about)


def make_plan(
    recipe: TuneRecipe,
    mixture: Mixture,
    processor: Processor,
    seen: Mapping[int, Seen | str],
    asked: str,
) -> Plan:
    """Settles which conversations are learnt, which validated on, and counts the rest.

    Args:
        seen: of every number of the mixture its media, or the reason why it is left out.

    Raises:
        ConfigError: nothing is left.
    """
    drops = {name: Counter(counts) for name, counts in mixture.dropped.items()}
    rows: list[dict[str, Any]] = []
    groups: list[str] = []
    for number in range(len(mixture)):
        one, media = mixture[number], seen[number]
        tokens = 0
        if not isinstance(media, str):
            tokens, media = _measured(one, media, recipe, processor)
        if isinstance(media, str):
            drops[mixture.set_of(number)][media] += 1
            continue
        blind = processor.length(one.turns, None)
        rows.append(
            {"number": number, "tokens": tokens, "blind_tokens": blind}
            | {name: getattr(media, name) for name in Seen.__dataclass_fields__}
        )
        groups.append(_group(one, media))
    if not rows:
        said = {name: dict(counts) for name, counts in drops.items()}
        raise ConfigError(f"nothing is left of the mixture (dropped: {said}); change mixture")
    held_out = _held_out(groups, recipe)
    table = pa.Table.from_pylist(
        [row | {"held_out": out} for row, out in zip(rows, held_out, strict=True)], _SCHEMA
    )
    counted = {name: dict(sorted(counts.items())) for name, counts in drops.items()}
    return Plan(table=table, asked=asked, dropped=counted)


def _measured(
    one: Instruction, media: Seen, recipe: TuneRecipe, processor: Processor
) -> tuple[int, Seen | str]:
    """Tokens of a conversation, and its media or why it is left out."""
    if media.images > recipe.mixture.max_images:
        return 0, MANY_FRAMES
    grid_I3 = media.grid(processor.patch)
    try:
        tokens = processor.length(one.turns, grid_I3, num_placeholder=media.placeholders)
    except PromptError:
        return 0, MALFORMED
    return tokens, media if tokens <= recipe.mixture.max_tokens else LONG


def _group(one: Instruction, media: Seen) -> str:
    """What is learnt as a whole or held out as a whole: a scene, or a video of none."""
    scene = f"{one.dataset}/{one.scene}" if one.scene else ""
    return scene or media.content or one.id


def _held_out(groups: Sequence[str], recipe: TuneRecipe) -> list[bool]:
    """Of each conversation whether it is validated on: all of some groups, chosen by hash, until
    there are enough; at least one group is learnt."""
    chosen: set[str] = set()
    if recipe.train.validate_every:
        sizes = Counter(groups)
        ranked = sorted(sizes, key=lambda group: config_hash(["held out", group]))
        taken = 0
        for group in ranked[: len(ranked) - 1]:
            if taken >= recipe.train.validate_conversations:
                break
            chosen.add(group)
            taken += sizes[group]
    return [group in chosen for group in groups]
