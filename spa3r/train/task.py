"""The PSFM objective as a task of the training loop: student, data order and losses.

Legend: B clips, V views.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spa3r.config import Recipe
from spa3r.data.batch import ClipBatch, Staged
from spa3r.data.clips import Clip
from spa3r.data.order import build_order
from spa3r.errors import ConfigError
from spa3r.models.losses import FieldTargets, psfm_loss, select_views
from spa3r.models.spa3r import Spa3RModel
from spa3r.models.transformer import Block
from spa3r.train.flops import student_flops
from spa3r.train.sharding import blocks
from spa3r.train.sources import TrainingData

_PROBE = "depth_prob"  # name of the probe and of its loss


class PretrainTask(nn.Module):
    """Student, data order and objective (see spa3r/train/objective.py)."""

    sample: str = "clip"
    starved: str = "all clips were dropped or are nowhere valid; run `spa3r targets` again"

    def __init__(self, recipe: Recipe, data: TrainingData) -> None:
        """Initialises the student from the recipe's seed, torch's global generator untouched.

        Raises:
            ConfigError: the recipe standardises tokens but the targets come without statistics; or
                as build_order.
        """
        super().__init__()
        self._loss = recipe.loss
        self._source = data.source
        self._order = build_order(data.source, recipe)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.train.seed)
            self.model = Spa3RModel(recipe.model)
        if recipe.model.standardise:
            names = dict(self.model.named_buffers())
            if data.stats is None or not set(names) <= set(data.stats):
                raise ConfigError(
                    f"model.standardise needs the statistics {', '.join(names)} of stored targets:"
                    " write them with `spa3r targets`, or switch it off"
                )
            self.model.set_statistics({name: data.stats[name] for name in names})

    # --- data -------------------------------------------------------------------------------------

    @property
    def has_teachers(self) -> bool:
        return isinstance(self._source, Staged)

    def fetch(self, index: int) -> Any:
        """The host's part of batch `index` of the data order."""
        clips = self._order.batch(index)
        if isinstance(self._source, Staged):
            return self._source.fetch(clips)
        return self._source.load(clips)

    def finish(self, fetched: Any) -> ClipBatch:
        """The device's part: teachers, where they are in the loop."""
        return self._source.finish(fetched) if isinstance(self._source, Staged) else fetched

    def load(self, index: int) -> ClipBatch:
        """Batch `index` of the data order."""
        return self.finish(self.fetch(index))

    # --- objective --------------------------------------------------------------------------------

    def forward(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Losses of a batch. With the loss on targets, only target views are decoded."""
        is_target_BV = torch.tensor([clip.is_target for clip in batch.clips])

        def asked(x_BV: Tensor) -> Tensor:
            return select_views(x_BV, is_target_BV) if self._loss.views == "targets" else x_BV

        model = self.model
        latents_BLD = model.encode(batch.context_BCND, batch.grid_hw)
        hidden_BVND = model.decode(
            latents_BLD,
            asked(batch.camera_from_world_BV44),
            asked(batch.K_BV33),
            batch.grid_hw,
        )
        wanted = {
            kind: model.standardise(kind, asked(x_BVND))
            for kind, x_BVND in batch.tokens().items()
            if kind in model.heads
        }
        targets = FieldTargets(
            geo_BVND=wanted.get("geo"),
            sem_BVND=wanted.get("sem"),
            lang_BVND=wanted.get("lang"),
            depth_BVN=asked(batch.depth_BVN),
            valid_BVN=asked(batch.valid_BVN),
            is_target_BV=asked(batch.is_target_BV),
        )
        return psfm_loss(model.predict(hidden_BVND), targets, self._loss)

    def tokens(self, batch: ClipBatch) -> dict[str, Tensor]:
        """How many tokens each part of the loss is a mean over, as psfm_loss counts them."""
        counts_BVN = batch.valid_BVN
        if self._loss.views == "targets":
            counts_BVN = counts_BVN & batch.is_target_BV[..., None]
        features = counts_BVN.sum().float()
        parts = {f"{kind}/{loss}": features for kind in self.model.heads for loss in ("l1", "cos")}
        return parts | {_PROBE: (counts_BVN & (batch.depth_BVN > 0)).sum().float()}

    def part_of(self, parameter: str) -> str:
        """The probe learns from its own loss, all else from the features'."""
        if parameter.startswith(f"{_PROBE}."):
            return _PROBE
        return f"{next(iter(self.model.heads))}/l1"

    def blocks(self) -> Iterator[Block]:
        """Those of encoder and decoder."""
        return blocks(self)

    def counts(self, batch: ClipBatch) -> dict[str, int]:
        """Views and patch tokens."""
        return {"views": batch.is_target_BV.numel(), "tokens": batch.valid_BVN.numel()}

    def flops(self, batch: ClipBatch) -> int:
        """Of the student's forward and backward."""
        clips, views = batch.is_target_BV.shape
        context = batch.context_BCND.shape[1]
        forward = student_flops(
            self.model.config,
            context_views=context,
            decoded_views=views - context if self._loss.views == "targets" else views,
            grid_hw=batch.grid_hw,
        )
        return 3 * clips * forward

    @torch.no_grad()
    def blame(self, samples: tuple[Clip, ...]) -> str:
        """Scenes and ids of the clips whose own loss is not finite; all if only their sum is."""
        device = next(self.model.parameters()).device
        guilty = [
            clip
            for clip in samples
            if not self(self._source.load([clip]).to(device))["total"].isfinite()
        ]
        return ", ".join(f"scene {c.scene} clip {c.id}" for c in guilty or samples)
