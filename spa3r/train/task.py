"""The PSFM objective as a task of the training loop: student, data order and losses.

Legend: B clips, V views.
"""

from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from spa3r.config import Recipe
from spa3r.data.batch import ClipBatch
from spa3r.data.order import Curriculum
from spa3r.errors import ConfigError
from spa3r.models.losses import FieldTargets, psfm_loss, select_views
from spa3r.models.spa3r import Spa3RModel
from spa3r.train.sources import TrainingData


class PretrainTask(nn.Module):
    """Student, data order and objective (see spa3r/train/loop.py, Task)."""

    def __init__(self, recipe: Recipe, data: TrainingData, *, batches: int | None = None) -> None:
        """Initialises the student from the recipe's seed, torch's global generator untouched.

        Args:
            batches: of the whole training, over all workers; None: of a training by one worker.

        Raises:
            ConfigError: the recipe standardises tokens but the targets come without statistics; or
                as Curriculum.
        """
        super().__init__()
        self._loss = recipe.loss
        self._source = data.source
        self._order = Curriculum(
            data.source.clips,
            recipe.train.views_per_batch,
            recipe.train.seed,
            stages=recipe.clips.stages,
            total=batches or recipe.train.steps * recipe.train.batches_per_step,
        )
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

    def load(self, index: int) -> ClipBatch:
        """Batch `index` of the data order."""
        return self._source.load(self._order.batch(index))

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

    @torch.no_grad()
    def blame(self, batch: ClipBatch) -> str:
        """The clips whose own loss is not finite; all of the batch if only their sum is."""
        device = next(self.model.parameters()).device
        guilty = [
            clip
            for i, clip in enumerate(batch.clips)
            if not self(_one_clip(batch, i).to(device))["total"].isfinite()
        ]
        return ", ".join(f"scene {c.scene} clip {c.id}" for c in guilty or batch.clips)


def _one_clip(batch: ClipBatch, i: int) -> ClipBatch:
    parts = {
        f.name: getattr(batch, f.name)[i : i + 1]
        for f in fields(batch)
        if isinstance(getattr(batch, f.name), Tensor)
    }
    return replace(batch, clips=batch.clips[i : i + 1], **parts)
