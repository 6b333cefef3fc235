"""One pre-training run, to be killed: python -m tests.integration.train_once RUN."""

import sys
from pathlib import Path

import torch

from spa3r.train.pretrain import pretrain
from tests.box_rooms import BoxRooms, box_recipe

RECIPE = box_recipe(train__steps=60, train__checkpoint_every=4, train__batches_per_step=1)


def run(folder: Path) -> None:
    pretrain(RECIPE, BoxRooms(RECIPE, rooms=3), folder)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("ready", flush=True)
    run(Path(sys.argv[1]))
