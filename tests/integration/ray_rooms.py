"""Rooms whose reading kills, fails or waits, in whichever process of a cluster it happens.

python -m tests.integration.ray_rooms RUN: a driver with a Ray of its own; prints each step.
"""

import os
import signal
import sys
import time
from pathlib import Path

from spa3r.config import Recipe
from spa3r.errors import ShardError
from spa3r.train.checkpoint_files import newest_step
from spa3r.train.pretrain import pretrain
from tests.box_rooms import BoxRooms, box_recipe

RECIPE = box_recipe(train__steps=12, train__checkpoint_every=2, train__batches_per_step=2)


def wait_for_checkpoint(run: Path, step: int) -> None:
    """Returns when the newest checkpoint of a run is that of this step."""
    give_up = time.monotonic() + 200
    while newest_step(str(run / "checkpoints")) != step:
        assert time.monotonic() < give_up
        time.sleep(0.02)


class Rooms(BoxRooms):
    """Counts what this process has read."""

    loads = 0

    def __init__(self, recipe: Recipe, run: Path) -> None:
        super().__init__(recipe, rooms=3)
        self.run = run
        self.checkpoints = str(run / "checkpoints")

    def load(self, clips):
        self.loads += 1
        self.happen(clips)
        return super().load(clips)

    def happen(self, clips) -> None:
        """What comes with the reading."""

    def once(self, name: str) -> bool:
        """Whether no process has done this before; notes the newest checkpoint's step."""
        note = self.run.with_name(f"{self.run.name}-{name}")
        if note.exists():
            return False
        note.write_text(str(newest_step(self.checkpoints)))
        return True


class Patient(Rooms):
    """From its fifth batch on waits until somebody stops the run."""

    def happen(self, clips) -> None:
        while self.loads >= 5 and not (self.run / "stop").exists():
            time.sleep(0.01)
        time.sleep(0.2 if self.loads >= 5 else 0)


class Mortal(Rooms):
    """One worker is told to go at its third batch; later one is killed."""

    def happen(self, clips) -> None:
        if self.loads == 3 and self.once("told"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)  # until its main thread has noticed
        elif self.loads == 2 and newest_step(self.checkpoints) and self.once("killed"):
            os.kill(os.getpid(), signal.SIGKILL)


class Damaged(Rooms):
    """One clip cannot be read: the other worker is left waiting for the gradient."""

    def happen(self, clips) -> None:
        if self.clips[0] in clips:
            raise ShardError(f"{self.clips[0].scene}.tar: damaged")


if __name__ == "__main__":
    from spa3r.train.cluster import on_ray

    folder = Path(sys.argv[1])
    pretrain(
        RECIPE, Patient(RECIPE, folder), folder,
        launch=on_ray(workers=2), on_line=lambda line: print(line["step"], flush=True),
    )  # fmt: skip
