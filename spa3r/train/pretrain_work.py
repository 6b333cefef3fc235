"""PSFM pre-training as work of the one training loop: targets in, an encoder out."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from spa3r.config import Recipe, TrainConfig
from spa3r.data.batch import TargetSource
from spa3r.errors import SceneError
from spa3r.hub import EncoderCard, Spa3REncoder
from spa3r.models.spa3r import Spa3RModel
from spa3r.plain import to_dict
from spa3r.teachers.checkpoints import load_strict
from spa3r.train.identity import binding
from spa3r.train.sharding import full_tensors
from spa3r.train.sources import DataPlaces, TrainingData, open_data
from spa3r.train.task import PretrainTask
from spa3r.train.validation import validator
from spa3r.train.world import World

logger = logging.getLogger(__name__)

ENCODER: Final = "encoder"


@dataclass(frozen=True, kw_only=True)
class PretrainWork:
    """A recipe and where its targets are (spa3r/train/job.py, Work)."""

    recipe: Recipe
    targets: DataPlaces | str | TargetSource
    init_from: str | None = None
    """As Job.init_from: a part of what the run is."""
    result: str = ENCODER

    @property
    def config(self) -> TrainConfig:
        return self.recipe.train

    def data(self, device: torch.device | str = "cpu") -> TrainingData:
        """Raises ConfigError or ShardError as `open_data`."""
        return open_data(self.targets, self.recipe, device=device)

    def open(self, device: torch.device | str = "cpu") -> "OpenedPretraining":
        """Raises ConfigError or ShardError as `open_data`."""
        return OpenedPretraining(self, self.data(device))

    def identity(self, data: TrainingData) -> dict[str, Any]:
        """What decides a run's result."""
        return {
            "recipe": binding(self.recipe),
            "target_hash": data.target_hash,
            "order_hash": data.order_hash,
            "init_from": self.init_from,
        }


class OpenedPretraining:
    """The student and its targets (spa3r/train/job.py, Opened)."""

    def __init__(self, work: PretrainWork, data: TrainingData) -> None:
        self._recipe, self._data = work.recipe, data
        self.task = PretrainTask(work.recipe, data)
        self.identity = work.identity(data)

    def validate(self, world: World) -> Callable[[], Mapping[str, float]] | None:
        """The field's metrics on held-out scenes."""
        config, data = self._recipe.train, self._data
        if data.held_out is None or not config.validate_every:
            return None
        try:
            return validator(self.task.model, data.held_out, config, world, stats=data.stats)
        except SceneError as error:  # too few of them: a run is worth having all the same
            if world.rank == 0:
                logger.warning("training goes on without validation: %s", error)
            return None

    def export(self, folder: Path, world: World) -> None:
        """Writes the encoder."""
        recipe, data = self._recipe, self._data
        weights = full_tensors(self.task.model.state_dict())
        if world.rank != 0:
            return
        model = Spa3RModel(recipe.model)
        load_strict(model, weights, where=str(folder.parent))
        card = EncoderCard(
            model=recipe.model,
            teacher=recipe.teacher,
            references=data.references,
            image_width=recipe.ingest.width,
            image_multiple=recipe.ingest.multiple,
            provenance={
                "recipe": recipe.name,
                "settings": to_dict(recipe),
                "steps": recipe.train.steps,
                "data_hash": data.data_hash,
                "target_hash": data.target_hash,
                "datasets": sorted({clip.dataset for clip in data.source.clips}),
            },
        )
        Spa3REncoder(model, card).save_pretrained(folder)
