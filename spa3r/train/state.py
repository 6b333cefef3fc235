"""The state of a run between two optimizer steps: saved whole or not at all, without pickles.

A checkpoint is a folder <run>/checkpoints/step-<n>/ with model.safetensors, optimizer.safetensors,
rng.safetensors and state.json, which holds the others' SHA-256. It is written under a temporary
name and renamed, so a folder of that name is complete. The learning rate is a function of the step
and the data order one of the position, so both need no state of their own.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from spa3r import storage
from spa3r.errors import ShardError, TrainingError, WeightsError
from spa3r.teachers.checkpoints import load_state_dict, load_strict
from spa3r.train.world import World

logger = logging.getLogger(__name__)

STATE_SCHEMA: Final = 1
MODEL_FILE: Final = "model.safetensors"
OPTIMIZER_FILE: Final = "optimizer.safetensors"
RNG_FILE: Final = "rng.safetensors"
STATE_FILE: Final = "state.json"
_MOMENTS: Final = ("step", "exp_avg", "exp_avg_sq")
# Settings of which the result does not depend: they may change when a run continues.
BOOKKEEPING: Final = frozenset(
    f"recipe.train.{name}" for name in ("checkpoint_every", "keep_checkpoints", "log_every")
)


@dataclass(kw_only=True)
class TrainState:
    """What one optimizer step changes, torch's global generators apart."""

    model: nn.Module
    optimizer: Optimizer
    step: int = 0
    """Optimizer steps taken."""
    position: int = 0
    """Batches taken from the data order, by all ranks together."""


# --- saving ---------------------------------------------------------------------------------------


def save(
    state: TrainState, run: Path, identity: Mapping[str, Any], world: World, keep: int
) -> Path:
    """Writes a checkpoint and drops all but the newest `keep`. Every rank must call it.

    Args:
        identity: what the run is (recipe, data); a later run of another identity is refused.
    """
    rng = world.gather(_rng_state(world.device))
    folder = _folder(run, state.step)
    if world.rank != 0:
        return folder
    temporary = folder.with_name(f".{folder.name}.tmp")
    for stale in folder.parent.glob(".step-*.tmp"):
        shutil.rmtree(stale)
    temporary.mkdir(parents=True)
    contents = {
        MODEL_FILE: state.model.state_dict(),
        OPTIMIZER_FILE: _optimizer_tensors(state),
        RNG_FILE: {f"rank{i:05d}": x for i, x in enumerate(rng)},
    }
    files = {name: _write(temporary / name, tensors) for name, tensors in contents.items()}
    storage.write_json(
        temporary / STATE_FILE,
        {
            "schema": STATE_SCHEMA,
            "step": state.step,
            "position": state.position,
            "identity": dict(identity),
            "files": files,
        },
    )
    if folder.exists():  # a damaged one: it was not restored from, and its step is reached again
        shutil.rmtree(folder)
    temporary.rename(folder)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return folder


def _write(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    save_file({name: x.detach().contiguous() for name, x in tensors.items()}, path)
    with path.open("rb") as f:
        os.fsync(f.fileno())
    return {"bytes": path.stat().st_size, "sha256": storage.sha256(path)}


def _optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    """Every tensor of the optimizer's state, as "<parameter>/<name>"."""
    return {
        f"{parameter}/{name}": state.optimizer.state[p][name]
        for parameter, p in state.model.named_parameters()
        for name in _MOMENTS
    }


def _rng_state(device: torch.device) -> Tensor:
    """uint8: the CPU generator's state and, on CUDA, the device generator's behind it."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


# --- finding and restoring ------------------------------------------------------------------------


def _folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return [p.parent for p in sorted(run.glob(f"checkpoints/step-*/{STATE_FILE}"))]


def latest(run: Path) -> Path | None:
    """The newest complete checkpoint, None where there is none."""
    found = checkpoints(run)
    return found[-1] if found else None


def start(
    state: TrainState,
    run: Path,
    identity: Mapping[str, Any],
    world: World,
    init_from: str | None = None,
) -> None:
    """Brings a fresh state to where the run begins. In this order:

    1. the run's own latest checkpoint: continues as if never stopped;
    2. `init_from`: the weights of another run, nothing else;
    3. scratch: the model as it was initialised.

    Raises:
        TrainingError: the run's checkpoint belongs to another recipe or other data.
        WeightsError: damaged files, or tensors that do not fit (all are named).
    """
    own = latest(run)
    if own is not None:
        restore(state, own, identity, world)
        logger.info("continuing %s from step %d", run, state.step)
    elif init_from is not None:
        load_strict(state.model, load_state_dict(init_from), where=init_from)
        logger.info("%s starts with the weights of %s", run, init_from)


def restore(state: TrainState, folder: Path, identity: Mapping[str, Any], world: World) -> None:
    """Loads one checkpoint into the state and torch's generators. Raises as `start` does."""
    found = read_state(folder)
    changed = differences(found["identity"], identity)
    if changed:
        raise TrainingError(
            f"{folder} belongs to another run: {'; '.join(changed)}. Choose another run folder,"
            " or delete this one to start over"
        )
    load_strict(state.model, _read(folder, MODEL_FILE, found), where=str(folder / MODEL_FILE))
    _restore_optimizer(state, _read(folder, OPTIMIZER_FILE, found), folder / OPTIMIZER_FILE)
    rng = _read(folder, RNG_FILE, found).get(f"rank{world.rank:05d}")
    if rng is not None:  # a world that has grown: its new ranks keep the generator they have
        _restore_rng(rng, world.device)
    state.step, state.position = int(found["step"]), int(found["position"])


def read_state(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint. Raises TrainingError if it is damaged or of another schema."""
    try:
        found = storage.read_json(folder / STATE_FILE)
        if found["schema"] == STATE_SCHEMA and {"step", "position", "identity", "files"} <= set(
            found
        ):
            return found
    except (ShardError, TypeError, KeyError) as error:
        raise TrainingError(
            f"{folder / STATE_FILE} is damaged ({error}); delete the folder to continue from the"
            " checkpoint before it"
        ) from error
    raise TrainingError(
        f"{folder / STATE_FILE} has schema {found['schema']}, this version reads {STATE_SCHEMA}"
    )


def differences(ours: Any, theirs: Any, name: str = "") -> list[str]:
    """ "setting: its value here, its value there" of plain nested data, bookkeeping left out."""
    if name in BOOKKEEPING:
        return []
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        found: list[str] = []
        for key in sorted(set(ours) | set(theirs)):
            dotted = f"{name}.{key}" if name else str(key)
            found += differences(ours.get(key), theirs.get(key), dotted)
        return found
    return [] if ours == theirs else [f"{name} is {ours} there, {theirs} here"]


def _read(folder: Path, name: str, found: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / name
    declared = found["files"].get(name, {})
    if not path.exists() or storage.sha256(path) != declared.get("sha256"):
        raise WeightsError(
            f"{path} is missing or damaged; delete {folder} to continue from the checkpoint before"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error})") from error


def _restore_optimizer(state: TrainState, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Gives AdamW back its two moments and step count of every parameter."""
    parameters = dict(state.model.named_parameters())
    wanted = {
        f"{name}/{part}": torch.Size([]) if part == "step" else parameter.shape
        for name, parameter in parameters.items()
        for part in _MOMENTS
    }
    problems = [f"missing {name}" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [f"unexpected {name}" for name in sorted(tensors.keys() - wanted.keys())]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(wanted[name])}"
        for name in sorted(wanted.keys() & tensors.keys())
        if tensors[name].shape != wanted[name]
    ]
    if problems:
        raise WeightsError(f"{where}: {'; '.join(problems)}; it was made for another model")
    for name, parameter in parameters.items():
        # No view of the file's memory: the optimizer writes in place.
        state.optimizer.state[parameter] = {
            part: tensors[f"{name}/{part}"].to(parameter.device, copy=True) for part in _MOMENTS
        }


def _restore_rng(rng: Tensor, device: torch.device) -> None:
    length = torch.get_rng_state().numel()
    torch.set_rng_state(rng[:length].clone())
    if device.type == "cuda" and rng.numel() > length:
        torch.cuda.set_rng_state(rng[length:].clone(), device)
