"""Weights from a file, folder, URL or Hugging Face id, loaded strictly and without pickles."""

import hashlib
import io
import json
import logging
import pickle
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from spa3r import storage
from spa3r.errors import TeacherError, WeightsError

log = logging.getLogger(__name__)

INDEX_SUFFIX = ".index.json"
FILE_NAMES = (
    *("model.safetensors", f"model.safetensors{INDEX_SUFFIX}", "model.pt"),
    *("pytorch_model.bin", f"pytorch_model.bin{INDEX_SUFFIX}"),
)
"""What a folder or repository is searched for, in this order; an index names shards beside it."""
PICKLED_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
FEW_MISFITS = 20
"""So many are listed one by one; more are folded."""
# A number in a dotted name ("blocks.11.norm2"; not in a shape), or numbers that are folded already.
_DIGITS = r"(?:(?:0|[1-9][0-9]*)(?![0-9])|\{[0-9.,]+\})"
_NUMBER = re.compile(rf"(?<=[A-Za-z_.]){_DIGITS}|(?<![^ ]){_DIGITS}(?=\.)")
# What torch.load raises, besides UnpicklingError, for files whose bytes were changed or cut.
_DAMAGE = (
    *(RuntimeError, EOFError, ValueError, TypeError, AttributeError, LookupError, AssertionError),
    struct.error,
)


def load_state_dict(uri: str | Path, *, inside: str | None = None) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, in their stored dtype.

    Local files are mapped, not read: a tensor costs memory when it is first used. So the file must
    not be overwritten in place while its tensors are in use (renaming another over it is safe).

    Args:
        uri: a .safetensors, .pt, .pth, .bin or .ckpt file or a folder with one of FILE_NAMES, as a
            path or fsspec URL; or a Hugging Face id such as "facebook/VGGT-1B".
        inside: the table to take of a nested checkpoint ("state_dict" of Lightning's); a file that
            holds nothing but tensors is taken as that table itself.

    Raises:
        TeacherError: nothing is there, access is not granted, or the network is out of reach.
        WeightsError: the file is damaged, holds anything but tensors, lacks `inside`, or is of
            another kind; or a shard of it is missing or holds other tensors than the index says.
    """
    table = load_nested(uri)
    if inside is not None and not _is_flat(table):
        if inside not in table:
            names = ", ".join(sorted(map(repr, table))[:20])
            raise WeightsError(f"{uri}: has no table {inside!r}, only {names}; save its tensors")
        table = table[inside]
    if not _is_flat(table):
        raise WeightsError(f"{uri}: not a flat table of tensors; convert it to .safetensors")
    return table


def load_nested(uri: str | Path) -> dict[str, Any]:
    """The whole table of a checkpoint, whatever weights_only=True allows in it: tensors, numbers,
    text and tables of them. Arguments and errors as `load_state_dict`."""
    for name in FILE_NAMES:
        found = find_file(uri, name)
        if found is None:
            continue
        return _read_shards(uri, found) if found.endswith(INDEX_SUFFIX) else _read(found)
    raise TeacherError(f"{uri}: holds none of {', '.join(FILE_NAMES)}; name the file itself")


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
    except (ValueError, RecursionError, OSError) as error:
        raise WeightsError(f"{found}: no readable JSON ({error}); fetch it again") from error
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
    name_of: Callable[[str], str] = str,
) -> None:
    """Loads every tensor of a module, cast to the module's dtypes; nothing is skipped silently.

    A module on the meta device takes the tensors over instead of copying them.

    Args:
        unused_prefixes: tensors whose names start so are declared unused and dropped.
        where: the checkpoint's name, for the message.
        name_of: from the module's name of a tensor to the checkpoint's.

    Raises:
        WeightsError: names every missing, unexpected and misshapen tensor.
    """
    wanted = module.state_dict()
    given = {k: v for k, v in state.items() if not k.startswith(tuple(unused_prefixes))}
    if len(given) < len(state):
        log.info("%s: dropped %d unused tensors", where, len(state) - len(given))
    named = {name_of(k): v for k, v in wanted.items()}
    check_fit(named, given, network=type(module).__name__, where=where)
    on_meta = any(tensor.is_meta for tensor in wanted.values())
    cast = {k: given[name_of(k)].to(v.dtype) for k, v in wanted.items()}
    module.load_state_dict(cast, strict=True, assign=on_meta)


def check_fit(
    wanted: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    *,
    network: str,
    where: str | Path = "checkpoint",
) -> None:
    """Raises WeightsError naming every missing, unexpected and misshapen tensor of a network; many
    that differ in a number only as `fold` writes them."""
    problems = [f"missing {k}" for k in sorted(wanted.keys() - given.keys())]
    problems += [f"unexpected {k}" for k in sorted(given.keys() - wanted.keys())]
    problems += [
        f"{k} has shape {tuple(given[k].shape)}, expected {tuple(wanted[k].shape)}"
        for k in sorted(wanted.keys() & given.keys())
        if given[k].shape != wanted[k].shape
    ]
    if problems:
        raise WeightsError(
            f"{where}: {len(problems)} tensors do not fit {network}: {'; '.join(fold(problems))};"
            " use the checkpoint made for this configuration"
        )


def fold(problems: Sequence[str]) -> list[str]:
    """Misfits, in order; of more than FEW_MISFITS, those that differ in one number become one.

    "missing blocks.{0..5,7}.bias" stands for seven tensors: braces hold numbers and ranges, both
    ends included; with two of them every combination is meant. So every name can be recovered.
    """
    folded = list(problems)
    if len(folded) <= FEW_MISFITS:
        return folded
    for place in range(max(len(_NUMBER.findall(text)) for text in folded)):
        groups: dict[tuple[str, str], list[str]] = {}
        for text in folded:
            found = list(_NUMBER.finditer(text))
            if place < len(found) and found[place][0].isdigit():
                start, end = found[place].span()
                groups.setdefault((text[:start], text[end:]), []).append(text[start:end])
            else:
                groups[text, ""] = [""]
        folded = [before + _ranges(numbers) + after for (before, after), numbers in groups.items()]
    return folded


def _ranges(numbers: Sequence[str]) -> str:
    """A single number as it is; several in braces, three and more in a row as a range."""
    if len(numbers) == 1:
        return numbers[0]
    runs: list[list[int]] = []
    for number in sorted(map(int, numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = (f"{r[0]}..{r[-1]}" if len(r) > 2 else ",".join(map(str, r)) for r in runs)
    return "{" + ",".join(parts) + "}"


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


def _is_flat(table: Any) -> bool:
    return isinstance(table, dict) and all(isinstance(v, Tensor) for v in table.values())


def _read(file: str) -> dict[str, Any]:
    """The table of one existing file."""
    local = storage.is_local(file)
    path = Path(file.removeprefix("file://"))
    if local and not path.is_file():
        raise WeightsError(f"{file}: a folder, not a file of tensors; name a file in it")
    if file.endswith(".safetensors"):
        try:
            if local:
                return safetensors.torch.load_file(path)
            return safetensors.torch.load(storage.read_bytes(file))
        except safetensors.SafetensorError as error:
            raise WeightsError(f"{file}: damaged ({error}); fetch it again") from error
    source = path if local else io.BytesIO(storage.read_bytes(file))
    mapped = local and _starts_with(path, b"PK\x03\x04")  # torch's older format is no zip
    try:
        table = torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(file, error)) from error
    except _DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends early"
        raise WeightsError(f"{file}: damaged ({reason}); fetch it again") from error
    if not isinstance(table, dict):
        raise WeightsError(f"{file}: holds {type(table).__name__}, not a flat table of tensors;"
                           " convert it to .safetensors")  # fmt: skip
    return table


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as f:
        return f.read(len(magic)) == magic


def _refusal(file: str, error: pickle.UnpicklingError) -> str:
    """Why a pickle was not opened, and how its owner makes one that is."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found is None:
        return (
            f"{file}: damaged, or not tensors alone (pickled objects are never run); fetch it"
            " again or convert it to .safetensors"
        )
    return (
        f"{file}: holds {found[1]} (pickled objects are never run); if you trust the file, save its"
        f' tensors alone: python -c \'import torch; x = torch.load("{file}", weights_only=False);'
        ' torch.save(x.get("state_dict", x), "weights.pt")\''
    )


def _read_shards(uri: str | Path, index: str) -> dict[str, Any]:
    """All tensors of a checkpoint in shards, each from the shard where the index says it is."""
    try:
        place = dict(json.loads(storage.read_bytes(index))["weight_map"])
        wanted = {shard: {k for k in place if place[k] == shard} for shard in place.values()}
        # A shard lies beside its index, so an index of unknown origin reaches no other file.
        strange = [shard for shard in wanted if not re.fullmatch(r"[\w-][\w.-]*", shard)]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{index}: no index of shards ({error!r}); fetch it again") from error
    if strange := strange + [shard for shard in wanted if not _is_weights_file(shard)]:
        raise WeightsError(f"{index}: names {', '.join(strange)}, which is no shard beside it")
    files = {shard: find_file(uri, shard) for shard in sorted(wanted)}
    if missing := [shard for shard, file in files.items() if file is None]:
        raise WeightsError(f"{index}: shards missing beside it: {', '.join(missing)}; fetch them")
    state: dict[str, Any] = {}
    problems = []
    for shard, file in files.items():
        tensors = _read(str(file))
        problems += [f"{shard} lacks {k}" for k in sorted(wanted[shard] - tensors.keys())]
        problems += [f"{shard} also holds {k}" for k in sorted(tensors.keys() - wanted[shard])]
        state |= tensors
    if problems:
        raise WeightsError(f"{index}: {'; '.join(problems)}; fetch index and shards again together")
    return state


def _download(repo: str, name: str) -> str | None:
    """Local path of a file of a Hugging Face repository, from its cache if it can."""
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    local_option = "or download it elsewhere and give the folder's path"
    if "dinov3" in repo.lower():
        local_option += "; or choose DINOv2, which is not gated, by teacher.semantic='dinov2'"
        local_option += " and teacher.semantic_uri='facebook/dinov2-large'"
    try:
        return hf_hub_download(repo, name)
    except errors.LocalEntryNotFoundError as error:
        if any(isinstance(try_to_load_from_cache(repo, file), str) for file in FILE_NAMES):
            return None  # its weights are cached under another name: work on without a network
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _hub_refusal(repo, error.__cause__, local_option) from error
        raise TeacherError(
            f"{repo}: no such folder here, {name} is not in the local cache, Hugging Face is out of"
            f" reach; connect, unset HF_HUB_OFFLINE, {local_option}"
        ) from error
    except errors.EntryNotFoundError:
        return None
    except errors.OfflineModeIsEnabled as error:
        raise TeacherError(
            f"{repo}: offline mode is on; unset HF_HUB_OFFLINE, {local_option}"
        ) from error
    except errors.HfHubHTTPError as error:
        raise _hub_refusal(repo, error, local_option) from error
    except OSError as error:  # connection refused, no route, no space: httpx errors are OSErrors
        raise TeacherError(
            f"{repo}: cannot be fetched ({error}); try again, {local_option}"
        ) from error


def _hub_refusal(repo: str, error: Any, local_option: str) -> TeacherError:
    """What the hub's answer means (an HfHubHTTPError). It says 401, 403 or 404 to who may not see
    a repository; the client wraps some of its answers into "not found in the cache"."""
    from huggingface_hub import errors

    status, page = error.response.status_code, f"https://huggingface.co/{repo}"
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return TeacherError(
            f"{repo}: access not granted (HTTP {status}); accept the licence at {page} and log"
            f" in with `hf auth login`, {local_option}"
        )
    return TeacherError(f"{repo}: HTTP {status} from {page}; try again, {local_option}")
