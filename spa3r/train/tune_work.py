"""Instruction tuning as work of the one training loop: a plan and features in, a Spa3-VLM out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from spa3r.data.instruction_sets import InstructionSet, read_set
from spa3r.data.mixture import Mixture
from spa3r.errors import TrainingError
from spa3r.loop_config import LoopConfig
from spa3r.plain import to_dict
from spa3r.train.identity import binding
from spa3r.train.metrics import HELD_OUT_TEXT
from spa3r.train.sharding import copy_full, full_tensors
from spa3r.train.state import trained_state
from spa3r.train.step import autocast
from spa3r.train.tune_features import Stores, open_stores
from spa3r.train.tune_plan import Plan
from spa3r.train.tune_task import TEXT, TuneTask
from spa3r.train.world import World
from spa3r.tune_config import TuneRecipe
from spa3r.vlm import folder as files
from spa3r.vlm.card import VlmCard
from spa3r.vlm.model import Spa3VlmModel
from spa3r.vlm.processor import Processor

VLM: Final = "vlm"


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model underneath."""

    place: str
    """Folder, URL or Hugging Face id."""
    hash: str
    """Of all its weights."""
    kept_hash: str
    """Of those that tuning leaves as they are (spa3r/vlm/folder.py, base_hash)."""
    precision: str
    """In which the vision tower computes tokens that are kept."""


@dataclass(frozen=True, kw_only=True)
class EncoderFacts:
    """What a run must know of the encoder, which itself is not in the loop; "" and 0 of none."""

    uri: str = ""
    version: str = ""
    """In the registry."""
    hash: str = ""
    width: int = 0
    """Channels of a geometry token."""
    made_by: Mapping[str, str] = field(default_factory=dict)
    """What decides features: `open_stores`."""


@dataclass(frozen=True, kw_only=True)
class TuneWork:
    """A recipe, settled (spa3r/train/job.py, Work)."""

    recipe: TuneRecipe
    """With its number of steps."""
    sets: Mapping[str, str]
    """Folder of each instruction set."""
    plan: Path
    features: str
    base: Base
    encoder: EncoderFacts
    result: str = VLM

    @property
    def config(self) -> LoopConfig:
        return self.recipe.train

    @property
    def stores(self) -> Stores:
        """Of the features."""
        base = {"base": self.base.hash, "precision": self.base.precision}
        return open_stores(self.features, self.recipe, encoder=self.encoder.made_by, base=base)

    def read_sets(self) -> dict[str, InstructionSet]:
        """By name. Raises FormatError: one is gone or damaged."""
        return {name: read_set(folder) for name, folder in self.sets.items()}

    def model(self, device: torch.device | str = "cpu") -> Spa3VlmModel:
        """As it is before its first step, in float32. Raises WeightsError."""
        return files.assemble(
            self.recipe.vlm,
            self.base.place,
            geometry_width=self.encoder.width,
            seed=self.recipe.train.seed,
            precision="float32",
            device=torch.device(device),
        )

    def open(self, device: torch.device | str = "cpu") -> "OpenedTuning":
        """Raises FormatError, ConfigError or WeightsError: a set, the plan or the base is gone."""
        return OpenedTuning(self, torch.device(device))

    def identity(self, plan: Plan, sets: Mapping[str, str]) -> dict[str, Any]:
        """What decides a run's result. `sets`: hash of each."""
        return {
            "recipe": binding(self.recipe),
            "sets": dict(sets),
            "encoder": self.encoder.hash,
            "base": self.base.hash,
            "plan": plan.hash,
        }


class OpenedTuning:
    """Model and conversations (spa3r/train/job.py, Opened)."""

    def __init__(self, work: TuneWork, device: torch.device) -> None:
        self._work = work
        sets, self._plan = work.read_sets(), Plan.load(work.plan)
        self._sets = {name: found.hash for name, found in sets.items()}
        self.task = TuneTask(
            work.recipe, work.model(device), Mixture(work.recipe.mixture, sets), self._plan,
            Processor.from_base(work.base.place, work.recipe.vlm), work.stores,
        )  # fmt: skip
        self.identity = work.identity(self._plan, self._sets)

    # --- validation -------------------------------------------------------------------------------

    def validate(self, world: World) -> Callable[[], Mapping[str, float]] | None:
        """Mean cross-entropy of held-out conversations, the same ones every time."""
        config = self._work.recipe.train
        rows = self._plan.held_out[: config.validate_conversations].tolist()
        if not config.validate_every or not rows:
            return None
        batches = self._validation_batches(rows)

        def look() -> dict[str, float]:
            was_training = self.task.training
            self.task.eval()
            sums = torch.zeros(2, dtype=torch.float64, device=world.device)
            # With sharded weights every rank must call the model as often as the others.
            for turn in range(-(-len(batches) // world.size)):
                mine = turn * world.size + world.rank
                loss, tokens = self._loss(batches[min(mine, len(batches) - 1)], world)
                if mine < len(batches):
                    sums += torch.stack([loss * tokens, tokens]).double()
            self.task.train(was_training)
            total, tokens = world.sum(sums).tolist()
            return {HELD_OUT_TEXT: total / max(tokens, 1.0)}

        return look

    def _validation_batches(self, rows: list[int]) -> list[list[int]]:
        """Longest first, as many together as the budget allows."""
        lengths, budget = self._plan.numbers("tokens"), self._work.recipe.train.tokens_per_batch
        waiting = sorted(rows, key=lambda row: (-lengths[row], row))
        batches = []
        while waiting:
            size = budget // int(lengths[waiting[0]])
            batches.append(waiting[:size])
            waiting = waiting[size:]
        return batches

    @torch.no_grad()
    def _loss(self, rows: list[int], world: World) -> tuple[torch.Tensor, torch.Tensor]:
        batch = self.task.load(rows).to(world.device)
        with autocast(self._work.config, world.device):
            return self.task(batch)["total"], self.task.tokens(batch)[TEXT]

    # --- the result -------------------------------------------------------------------------------

    def export(self, folder: Path, world: World) -> None:
        """Writes the Spa3-VLM: what was trained, and references to base and encoder."""
        weights = full_tensors(trained_state(self.task.model))
        if world.rank != 0:
            return
        work = self._work
        model = work.model()
        _fill(model, weights)
        card = VlmCard(
            vlm=work.recipe.vlm,
            geometry_width=work.encoder.width,
            base={
                "kind": "included" if work.recipe.vlm.base == files.TINY else "referenced",
                "uri": work.base.place,
                "hash": work.base.kept_hash,
            },
            encoder=self._reference(),
            weights={},
            provenance={
                "recipe": work.recipe.name,
                "settings": to_dict(work.recipe),
                "steps": work.recipe.train.steps,
                "sets": self._sets,
                "plan_hash": self._plan.hash,
                "base_hash": work.base.hash,
                "dropped": self._plan.dropped,
            },
        )
        files.write(folder, model, card, work.base.place, work.encoder.uri)

    def _reference(self) -> dict[str, str]:
        encoder = self._work.encoder
        if not encoder.hash:
            return {}
        return {"hash": encoder.hash, "uri": encoder.uri, "version": encoder.version}


@torch.no_grad()
def _fill(model: Spa3VlmModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Puts trained weights into a model as it was before its first step."""
    wanted = trained_state(model)
    if wanted.keys() != weights.keys():
        raise TrainingError(f"trained weights {sorted(wanted.keys() ^ weights.keys())} differ")
    for name, tensor in wanted.items():
        copy_full(tensor, weights[name])
