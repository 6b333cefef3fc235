"""Tuning in processes to be killed (see train_pair.py)."""

from pathlib import Path

import torch

from spa3r.train.tune import tune
from tests.integration import train_pair
from tests.unit.train.tune_rooms import Colours, recipe

RECIPE = recipe(
    train__steps=8, train__checkpoint_every=2, train__batches_per_step=2,
    train__features="latents_and_images",
)  # fmt: skip


class Alone(train_pair.Group):
    """One process, and the whole of `tune`: features, plan, training, export.

    The colours lie in <folder>/../../colours; each run has features of its own, which kills may
    leave half made.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, size=1)

    def work(self, rank: int, meeting: str) -> None:
        torch.set_num_threads(1)
        rooms = Colours(self.folder.parent.parent / "colours")
        places = rooms.places(features=str(self.folder.with_name(f"{self.folder.name}-features")))
        tune(RECIPE, places, self.folder)
