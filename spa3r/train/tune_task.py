"""Instruction tuning as a task of the training loop: conversations in, cross-entropy out.

Legend: B conversations, T tokens of the longest, t positions whose next token is learnt by some of
them, S learnt tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spa3r.data.mixture import Mixture
from spa3r.errors import TrainingError
from spa3r.train.tune_features import Stores, Videos
from spa3r.train.tune_order import LengthOrder, blind_draw
from spa3r.train.tune_plan import NOTHING, Plan, Row
from spa3r.tune_config import TuneRecipe
from spa3r.vision_input import SceneViews
from spa3r.vlm.batch import VlmBatch
from spa3r.vlm.features import content_of, get_geometry, get_images
from spa3r.vlm.model import Spa3VlmModel
from spa3r.vlm.processor import IGNORED, ImageFeatures, Processor, Sample

TEXT = "text"  # the one part of the loss


@dataclass(frozen=True, slots=True)
class Conversation:
    """Of a batch: what the loop names, and its length."""

    row: int
    """As `TuneTask.load` takes it."""
    name: str
    tokens: int

    def __str__(self) -> str:
        return self.name


class TuneTask(nn.Module):
    """Model, data order and objective (see spa3r/train/objective.py)."""

    sample: str = "conversation"
    starved: str = "no conversation has a token to learn; look at the instruction sets"
    has_teachers: bool = False

    def __init__(
        self,
        recipe: TuneRecipe,
        model: Spa3VlmModel,
        mixture: Mixture,
        plan: Plan,
        processor: Processor,
        stores: Stores,
    ) -> None:
        """Raises ConfigError as `order_of`."""
        super().__init__()
        self.model = model
        self._mixture, self._plan, self._stores = mixture, plan, stores
        self._processor, self._videos = processor, Videos(mixture, recipe)
        self._order = order_of(recipe, mixture, plan)
        if recipe.train.activation_checkpointing:
            model.base.checkpoint_activations()

    # --- data -------------------------------------------------------------------------------------

    def fetch(self, index: int) -> VlmBatch:
        """Batch `index` of the data order, whole: nothing is computed by a teacher here."""
        return self.load(self._order.batch(index))

    def finish(self, fetched: VlmBatch) -> VlmBatch:
        """As it is."""
        return fetched

    def load(self, rows: Sequence[int]) -> VlmBatch:
        """Conversations of the plan, by row; behind the last row all of them again, blind: without
        images and geometry, as the blind control asks (spa3r/eval/vlm_controls.py).

        Raises:
            FormatError: features that are gone or damaged. TrainingError: a video that has changed.
        """
        return self._processor.collate([self._sample(row) for row in rows], pad="right")

    def _sample(self, place: int) -> Sample:
        row = self._row(place)
        one, seen, stores = self._mixture[row.number], row.seen, self._stores
        geometry = None
        if seen.content and stores.geometry is not None:
            geometry = get_geometry(stores.geometry, seen.content)
        name = Conversation(place, f"{self._mixture.set_of(row.number)}/{one.id}", row.tokens)
        return self._processor.sample(
            one.turns, self._views(row), geometry, num_placeholder=seen.placeholders, name=name
        )

    def _row(self, place: int) -> Row:
        blind, place = divmod(place, len(self._plan))
        row = self._plan.row(place)
        return replace(row, seen=NOTHING, tokens=row.blind_tokens) if blind else row

    def _views(self, row: Row) -> SceneViews | ImageFeatures | None:
        seen = row.seen
        if not seen.content:
            return None
        grid_I3 = seen.grid(self._processor.patch)
        if self._stores.images is not None and grid_I3 is not None:
            tokens = get_images(self._stores.images, seen.content)
            return ImageFeatures(tokens=tokens, grid_thw_I3=grid_I3)
        views = self._videos.views(row.number)
        if views is None or content_of(views) != seen.content:
            raise TrainingError(
                f"{self._mixture.set_of(row.number)}/{self._mixture[row.number].id}: its images are"
                " no longer those that its features were made of; put them back, or start a new run"
            )
        return views

    # --- objective --------------------------------------------------------------------------------

    def forward(self, batch: VlmBatch) -> dict[str, Tensor]:
        """Mean cross-entropy over the batch's learnt tokens; logits are made at their places only.

        A batch without any gives 0, with a gradient of 0.
        """
        assert batch.labels_BT is not None
        next_BT = F.pad(batch.labels_BT[:, 1:], (0, 1), value=IGNORED)
        places_t = (next_BT != IGNORED).any(0).nonzero()[:, 0]
        logits_BtK = self.model(batch, logits_to_keep=places_t)
        wanted_Bt = next_BT[:, places_t]
        total = F.cross_entropy(
            logits_BtK.flatten(0, 1).float(), wanted_Bt.flatten(), ignore_index=IGNORED,
            reduction="sum",
        )  # fmt: skip
        mean = total / _count(wanted_Bt).clamp_min(1)
        return {TEXT: mean, "total": mean}

    def tokens(self, batch: VlmBatch) -> dict[str, Tensor]:
        """Learnt tokens. The first of a row has nothing before it that could predict it."""
        assert batch.labels_BT is not None
        return {TEXT: _count(batch.labels_BT[:, 1:])}

    def part_of(self, parameter: str) -> str:
        """There is one."""
        del parameter
        return TEXT

    # --- what is said of it -----------------------------------------------------------------------

    def blocks(self) -> Iterable[nn.Module]:
        """Decoder layers of the language model."""
        return self.model.blocks()

    def counts(self, batch: VlmBatch) -> dict[str, int]:
        """Conversations, and their tokens without padding."""
        tokens = sum(one.tokens for one in batch.samples)
        return {"conversations": len(batch.samples), "tokens": tokens}

    def flops(self, batch: VlmBatch) -> int:
        """Of the language model alone, by its linear layers' weights and attention; a forward done
        again for activation checkpointing is no work.

        A backward costs as much as the forward for the activations, and again for the weights where
        they are trained.
        """
        layers = list(self.model.blocks())
        weights = sum(p.numel() for layer in layers for p in layer.parameters() if p.ndim == 2)
        learnt = any(p.requires_grad and p.ndim == 2 for p in layers[0].parameters())
        full = learnt and self.model.config.language == "full"
        width = self.model.base.hidden_size
        forward = sum(
            2 * weights * one.tokens + 4 * len(layers) * width * one.tokens**2
            for one in batch.samples
        )
        return (3 if full else 2) * forward

    @torch.no_grad()
    def blame(self, samples: tuple[Any, ...]) -> str:
        """The conversations whose own loss is not finite; all if only their sum is."""
        device = next(self.model.parameters()).device
        guilty = [
            one for one in samples if not self(self.load([one.row]).to(device))["total"].isfinite()
        ]
        return ", ".join(f"conversation {one}" for one in guilty or samples)


def order_of(recipe: TuneRecipe, mixture: Mixture, plan: Plan) -> LengthOrder:
    """The order in which a recipe trains on a plan, in rows as `TuneTask.load` takes them.

    Which conversations are blind in an epoch is a function of the mixture's seed and the epoch.

    Raises:
        ConfigError: nothing to train on.
    """
    numbers_N = plan.numbers("number")
    row_of_N = np.full(len(mixture), -1)
    row_of_N[numbers_N] = np.arange(len(plan))
    row_of_N[numbers_N[plan.held_out]] = -1

    share, drawn_by = recipe.mixture.blind_share, recipe.mixture.seed
    has_images_N = plan.numbers("images") > 0

    def rows(epoch: int) -> np.ndarray:
        found = row_of_N[mixture.epoch(epoch)]
        found = found[found >= 0]
        blind_N = blind_draw(share, drawn_by, epoch, len(plan)) & has_images_N
        return found + len(plan) * blind_N[found]

    lengths_N = plan.numbers("tokens")
    if share:
        lengths_N = np.concatenate([lengths_N, plan.numbers("blind_tokens")])
    return LengthOrder(rows, lengths_N, recipe.train.tokens_per_batch, recipe.train.seed)


def _count(labels: Tensor) -> Tensor:
    return (labels != IGNORED).sum().float()
