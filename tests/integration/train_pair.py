"""Pre-training in processes to be killed, quick to start: forked from one that has imported all.

Two of them are a torch.distributed group (gloo), as Ray would open it.
"""

import json
import multiprocessing
import os
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

import torch
from torch import distributed

from spa3r.config import Recipe
from spa3r.train.job import Job, run_job
from spa3r.train.pretrain import pretrain
from spa3r.train.pretrain_work import PretrainWork
from spa3r.train.world import World
from tests.box_rooms import BoxRooms, box_recipe
from tests.unit.train.workers import PRELOADED

RECIPE = box_recipe(train__steps=20, train__checkpoint_every=3, train__batches_per_step=4)
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(PRELOADED)


class Recorded(BoxRooms):
    """Writes down the clips of each batch that is asked for."""

    record = ""

    def load(self, clips):
        if self.record:
            with Path(self.record).open("a") as f:
                f.write(json.dumps([clip.id for clip in clips]) + "\n")
        return super().load(clips)


@dataclass
class Group:
    """Processes that carry a run on together."""

    folder: Path
    size: int = 2
    recipe: Recipe = RECIPE
    stop_after: int = 0
    """End, the state saved, after so many steps; 0: at the end."""
    record: Path | None = None
    """Folder for the clips that each rank has had."""
    ranks: list[BaseProcess] = field(default_factory=list)

    def start(self) -> Self:
        meeting = self.folder.with_name(f"{self.folder.name}-{os.urandom(4).hex()}")
        for rank in range(self.size):
            process = _FORKS.Process(target=self.work, args=(rank, str(meeting)))
            process.start()
            self.ranks.append(process)
        return self

    def work(self, rank: int, meeting: str) -> None:
        """What each process does."""
        torch.set_num_threads(1)
        distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=self.size
        )
        rooms = Recorded(self.recipe, rooms=3)
        rooms.record = str(self.record / f"rank{rank}") if self.record else ""
        left = iter(range(1, self.stop_after))
        job = Job(work=PretrainWork(recipe=self.recipe, targets=rooms), run=self.folder)
        world = World.of_group(torch.device("cpu"))
        run_job(job, world, lambda: bool(self.stop_after) and next(left, None) is None)
        distributed.destroy_process_group()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"ranks": []}

    def wait(self) -> list[int | None]:
        """Exit codes, when all have ended."""
        for process in self.ranks:
            process.join(120)
        return [process.exitcode for process in self.ranks]

    def kill(self) -> None:
        """As a cluster does with what is left of a group when one of it is lost."""
        for process in self.ranks:
            process.kill()
        self.wait()


@dataclass
class Alone(Group):
    """One process, and the whole of `pretrain`."""

    size: int = 1

    def work(self, rank: int, meeting: str) -> None:
        torch.set_num_threads(1)
        pretrain(self.recipe, BoxRooms(self.recipe, rooms=3), self.folder)
