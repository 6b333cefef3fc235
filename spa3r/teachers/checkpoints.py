"""Weights from a file, folder, URL or Hugging Face id, loaded strictly and without pickles."""

import hashlib
import io
import json
import logging
import pickle
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from spa3r import storage
from spa3r.errors import TeacherError, WeightsError

log = logging.getLogger(__name__)

FILE_NAMES = ("model.safetensors", "model.pt")
"""What a folder or repository is searched for, in this order."""
PICKLED_SUFFIXES = (".pt", ".pth", ".bin")
# What torch.load raises, besides UnpicklingError, for files whose bytes were changed or cut.
_DAMAGE = (
    *(RuntimeError, EOFError, ValueError, TypeError, AttributeError, LookupError, AssertionError),
    struct.error,
)


def load_state_dict(uri: str | Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, in their stored dtype.

    Args:
        uri: a .safetensors, .pt, .pth or .bin file or a folder with model.safetensors or model.pt,
            as a path or fsspec URL; or a Hugging Face id such as "facebook/VGGT-1B".

    Raises:
        TeacherError: nothing is there, access is not granted, or the network is out of reach.
        WeightsError: the file is damaged, holds anything but tensors, or is of another kind.
    """
    for name in FILE_NAMES:
        found = find_file(uri, name)
        if found is not None:
            return _read(found)
    raise TeacherError(f"{uri}: holds neither {' nor '.join(FILE_NAMES)}; name the file itself")


def load_json(uri: str | Path, name: str) -> dict[str, Any] | None:
    """A JSON object beside the weights (in the same folder or repository); None if not there."""
    text = str(uri)
    if _is_weights_file(text):
        text = text.rpartition("/")[0] or "."
    found = find_file(text, name)
    if found is None:
        return None
    try:
        value = json.loads(storage.read_bytes(found))
    except ValueError as error:
        raise WeightsError(f"{found}: not valid JSON ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{found}: holds {type(value).__name__}, not a JSON object")
    return value


def find_file(uri: str | Path, name: str) -> str | None:
    """Path or URL of file `name` in a folder or Hugging Face repository; None if it lacks it.

    A `uri` that is itself a weights file is returned as it is. Raises TeacherError.
    """
    text = str(uri)
    if storage.exists(text):
        if _is_weights_file(text):
            return text
        inside = storage.join(text, name)
        return inside if storage.exists(inside) else None
    looks_like_id = re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None
    if not looks_like_id or text.startswith(".") or _is_weights_file(text):
        raise TeacherError(f"{text}: no such file or folder; give its path or a Hugging Face id")
    return _download(text, name)


def load_strict(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    unused_prefixes: Sequence[str] = (),
    where: str | Path = "checkpoint",
) -> None:
    """Loads every tensor of a module, cast to the module's dtypes; nothing is skipped silently.

    A module on the meta device takes the tensors over instead of copying them.

    Args:
        unused_prefixes: tensors whose names start so are declared unused and dropped.
        where: the checkpoint's name, for the message.

    Raises:
        WeightsError: names every missing, unexpected and misshapen tensor.
    """
    wanted = module.state_dict()
    given = {k: v for k, v in state.items() if not k.startswith(tuple(unused_prefixes))}
    if len(given) < len(state):
        log.info("%s: dropped %d unused tensors", where, len(state) - len(given))
    problems = [f"missing {k}" for k in sorted(wanted.keys() - given.keys())]
    problems += [f"unexpected {k}" for k in sorted(given.keys() - wanted.keys())]
    problems += [
        f"{k} has shape {tuple(given[k].shape)}, expected {tuple(wanted[k].shape)}"
        for k in sorted(wanted.keys() & given.keys())
        if given[k].shape != wanted[k].shape
    ]
    if problems:
        raise WeightsError(
            f"{where}: {len(problems)} tensors do not fit {type(module).__name__}:"
            f" {'; '.join(problems)}; use the checkpoint made for this configuration"
        )
    on_meta = any(tensor.is_meta for tensor in wanted.values())
    cast = {k: v.to(wanted[k].dtype) for k, v in given.items()}
    module.load_state_dict(cast, strict=True, assign=on_meta)


def state_hash(state: Mapping[str, Tensor]) -> str:
    """First 16 hex digits of the SHA-256 over names, dtypes, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _is_weights_file(text: str) -> bool:
    return text.endswith((".safetensors", *PICKLED_SUFFIXES))


def _read(file: str) -> dict[str, Tensor]:
    """Tensors of one existing file."""
    local = storage.is_local(file)
    path = Path(file.removeprefix("file://"))
    if file.endswith(".safetensors"):
        try:
            if local:
                return safetensors.torch.load_file(path)
            return safetensors.torch.load(storage.read_bytes(file))
        except safetensors.SafetensorError as error:
            raise WeightsError(f"{file}: damaged ({error}); fetch it again") from error
    source = path if local else io.BytesIO(storage.read_bytes(file))
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file}: not tensors alone (pickled objects are never run); convert to .safetensors"
        ) from error
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends early"
        raise WeightsError(f"{file}: damaged ({reason}); fetch it again") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{file}: not a flat table of tensors; convert it to .safetensors")
    return state


def _download(repo: str, name: str) -> str | None:
    """Local path of a file of a Hugging Face repository, from its cache if it can."""
    from huggingface_hub import errors, hf_hub_download

    local_option = "or download it elsewhere and give the folder's path"
    try:
        return hf_hub_download(repo, name)
    except errors.LocalEntryNotFoundError as error:
        raise TeacherError(
            f"{repo}: not in the local cache and Hugging Face is out of reach; connect,"
            f" unset HF_HUB_OFFLINE, {local_option}"
        ) from error
    except errors.EntryNotFoundError:
        return None
    except errors.OfflineModeIsEnabled as error:
        raise TeacherError(
            f"{repo}: offline mode is on; unset HF_HUB_OFFLINE, {local_option}"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        page = f"https://huggingface.co/{repo}"
        if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
            raise TeacherError(
                f"{repo}: access not granted (HTTP {status}); accept the licence at {page} and log"
                f" in with `hf auth login`, {local_option}"
            ) from error
        raise TeacherError(
            f"{repo}: HTTP {status} from {page}; try again, {local_option}"
        ) from error
    except OSError as error:  # connection refused, no route, no space: httpx errors are OSErrors
        raise TeacherError(
            f"{repo}: cannot be fetched ({error}); try again, {local_option}"
        ) from error
