"""When a run saves, what it keeps and what it begins from. It trains on while a save is written."""

import logging
import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from torch import Tensor

from spa3r.errors import Spa3RError, TrainingError, WeightsError
from spa3r.loop_config import LoopConfig
from spa3r.teachers.checkpoints import load_state_dict
from spa3r.train import checkpoint_files as files
from spa3r.train.checkpoint_files import Checkpoint
from spa3r.train.identity import differences
from spa3r.train.state import TrainState, begin_with, restore, snapshot
from spa3r.train.world import World

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, at any fsspec URL that all ranks can read.

    A context manager: at its end the last save is complete, or the error of writing it is raised.
    """

    def __init__(
        self,
        url: str,
        world: World,
        config: LoopConfig,
        identity: Mapping[str, Any],
        *,
        allowed: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is read or written yet.

        Args:
            config: which ones are kept (`keep_checkpoints`, `keep_best`, `keep_every`).
            identity: what the run is; checkpoints of another identity are refused.
            allowed: asked before a save; raises where another process has taken the run over.
        """
        self.url = url
        self._world, self._config = world, config
        self._identity, self._allowed = dict(identity), allowed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._good: list[Checkpoint] = []
        self._damaged: list[str] = []
        self._read: dict[str, dict[str, Tensor]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.wait()
        except Spa3RError as late:
            if error is None:
                raise
            log.warning("%s", late)
        finally:
            self._thread.shutdown()

    # --- beginning --------------------------------------------------------------------------------

    def start(self, state: TrainState, init_from: str | None = None) -> None:
        """Brings a fresh state to where the run begins. Every rank must call it. In this order:

        1. the run's own newest checkpoint, or with a warning the newest that is not damaged: the
           run continues as if it had never stopped;
        2. `init_from`: the weights of another run, nothing else;
        3. scratch: the model as it was initialised.

        Raises:
            TrainingError: a checkpoint of other settings or data, or all of them are damaged.
            WeightsError: tensors that do not fit (all are named).
        """
        folder = self._agreed()
        if folder:
            checkpoint = files.read_state(folder)
            found = self._read or files.read_all(checkpoint)
            restore(state, found, self._world, folder)
            state.step, self._read = checkpoint.step, {}
            log.info("%s: continuing from step %d", self.url, state.step)
        elif init_from is not None:
            begin_with(state, load_state_dict(init_from), init_from)
            log.info("%s: starting with the weights of %s", self.url, init_from)

    def _agreed(self) -> str:
        """The folder that rank 0 has chosen to continue from, or its error, on every rank."""
        mine: list[str] = []
        if self._world.rank == 0:
            try:
                mine = ["", self._choose()]
            except Spa3RError as error:
                mine = [str(error), ""]
        problem, folder = self._world.texts(mine)
        if problem:
            raise TrainingError(problem)
        return folder

    def _choose(self) -> str:
        """Newest whole checkpoint, its files read; "": there is none. Clears what kills left."""
        for half in files.remove_half_written(self.url):
            log.info("%s: a save that was cut short, removed", half)
        damage: list[str] = []
        chosen = ""
        for folder in reversed(files.complete(self.url)):
            try:
                checkpoint = files.read_state(folder)
                if not chosen:
                    self._refuse_others(checkpoint)
                    self._read = files.read_all(checkpoint)
                    chosen = folder
                self._good.append(checkpoint)
            except WeightsError as error:
                damage.append(str(error))
                self._damaged.append(folder)
        if damage and not chosen:
            raise TrainingError(
                f"{self.url}: all {len(damage)} checkpoints are damaged ({damage[0]}); delete them"
                " to start over"
            )
        if damage:
            log.warning(
                "%s: %d damaged checkpoints passed over (%s); continuing from the one before",
                *(self.url, len(damage), "; ".join(damage)),
            )
        return chosen

    def _refuse_others(self, checkpoint: Checkpoint) -> None:
        changed = differences(checkpoint.identity, self._identity)
        if changed:
            raise TrainingError(
                f"{checkpoint.folder} belongs to another run: {'; '.join(changed)}. Choose another"
                f" run folder, or delete {self.url} to start over"
            )

    # --- saving -----------------------------------------------------------------------------------

    def save(self, state: TrainState, *, score: float | None = None) -> None:
        """Copies the state now; rank 0 writes the copy behind the run. Every rank must call it.

        The save before it is waited for.

        Args:
            score: of the validation at this step, higher is better.

        Raises:
            TrainingError: the save before it could not be written (a full disk, say), or this run
                has been taken over by another process.
        """
        self.wait()
        tables = snapshot(state, self._world)
        if self._world.rank != 0:
            return
        self._allowed()
        if score is not None and not math.isfinite(score):
            score = None
        said = {"step": state.step, "identity": self._identity, "score": score}
        self._writing = self._thread.submit(self._write, tables, said)

    def among_best(self, score: float | None) -> bool:
        """Whether `keep_best` would keep a state of this score. Every rank must call it, with the
        same score. Waits for the save in progress. Raises TrainingError as `wait`."""
        if score is None or not math.isfinite(score) or not self._config.keep_best:
            return False
        self.wait()
        as_good = sum(c.score is not None and c.score >= score for c in self._good)
        return bool(self._world.first(float(as_good < self._config.keep_best)))

    def wait(self) -> None:
        """Returns when the last save is written. Raises TrainingError if it could not be."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self, tables: dict[str, dict[str, Tensor]], said: Mapping[str, Any]) -> None:
        new = files.write(files.folder_of(self.url, said["step"]), tables, said)
        self._good = sorted(
            [new, *(c for c in self._good if c.folder != new.folder)], key=lambda c: c.step
        )
        kept = self._kept()
        for folder in [c.folder for c in self._good if c not in kept] + self._damaged:
            if folder != new.folder:
                files.remove(folder)
        self._good, self._damaged = kept, []

    def _kept(self) -> list[Checkpoint]:
        """Of the whole ones: the newest, the best, and those at round steps."""
        config, good = self._config, self._good
        scored = [c for c in good if c.score is not None]
        best = sorted(scored, key=lambda c: (c.score, c.step), reverse=True)[: config.keep_best]
        steps = {c.step for c in (*good[-config.keep_checkpoints :], *best)}
        every = config.keep_every
        return [c for c in good if c.step in steps or (every and c.step % every == 0)]
