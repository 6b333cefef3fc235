"""Where a conversion may write: never over its source, itself, or files of somebody else."""

import json
import os
import re
from pathlib import Path
from typing import Any, Final

from spa3r import storage
from spa3r.encoder_card import CONFIG_FILE
from spa3r.encoder_card import FORMAT as ENCODER_FORMAT
from spa3r.errors import ConfigError
from spa3r.plain import from_dict
from spa3r.teachers.vggt import VggtConfig

ADAPTER_FORMAT: Final = "spa3r-adapter-1"
ENCODER, ADAPTER = "encoder", "adapter"
"""Folders inside the given one, of a Spa3-VLM."""
_FILES: Final = (CONFIG_FILE, "model.safetensors", "README.md")
_LEFTOVER: Final = re.compile(r"\..*\.tmp")


def check_places(source: str | Path, out: str | Path, teacher_out: str | Path | None) -> None:
    """Asked before any work, for both kinds of source: only then is it known which one it is.

    Raises:
        ConfigError: a folder that cannot be written, or that holds anything but an earlier
            conversion; two of source, encoder, adapter and teacher in one folder.
    """
    for folder in (out, teacher_out):
        if folder is not None:
            storage.check_writable(folder, folder=True)
    written = {
        _resolved(out): "the output folder (-o)",
        **{_resolved(storage.join(out, x)): f"{x}/ of the output" for x in (ENCODER, ADAPTER)},
    }
    teacher = None if teacher_out is None else _resolved(teacher_out)
    if teacher in written:
        raise ConfigError(
            f"{teacher_out}: the teacher's folder is also {written[teacher]}, one would overwrite"
            " the other; choose another folder for --teacher"
        )
    if teacher is not None:
        written[teacher] = "the teacher's folder (--teacher)"
    sources = _folders_of(source)
    for place, what in written.items():
        if place in sources:
            raise ConfigError(
                f"{place}: {what} is the folder of the source, whose files would be overwritten;"
                " choose another or an empty folder"
            )
    _check_contents(str(out), kind=ENCODER, other=teacher)
    if teacher_out is not None:
        _check_contents(str(teacher_out), kind="teacher", other=_resolved(out))


def recorded_place(encoder: str, teacher: str | Path, *, otherwise: str) -> str:
    """What config.json says of the teacher's folder: no absolute path of this machine.

    A path from the encoder's folder ("./vggt", "../vggt") where both lie in one tree, so that they
    can be moved together; the URL of an object store; else `otherwise`.

    Args:
        encoder: the folder that was given for the conversion's output, or encoder/ in it.
    """
    if not storage.is_local(teacher):
        return str(teacher)
    if not storage.is_local(encoder):
        return otherwise
    way = Path(os.path.relpath(_resolved(teacher), _resolved(encoder))).as_posix()
    levels = 2 if Path(encoder).name == ENCODER else 1
    if way.split("/").count("..") > levels:
        return otherwise
    return way if way.startswith("..") else f"./{way}"


def _resolved(place: str | Path) -> str:
    fs, path = storage.filesystem(str(place))
    if storage.is_local(place):
        return str(Path(path).resolve())
    return fs.unstrip_protocol(path).rstrip("/")


def _folders_of(source: str | Path) -> set[str]:
    """Folder of a source file or the source folder; none of a Hugging Face id.

    A link counts with its own folder and with that of the file it leads to.
    """
    if not storage.exists(source):
        return set()
    fs, path = storage.filesystem(str(source))
    if fs.isdir(path):
        return {_resolved(source)}
    parent = str(source).rpartition("/")[0] or ("/" if str(source).startswith("/") else ".")
    found = {_resolved(parent)}
    if storage.is_local(source):
        found.add(str(Path(_resolved(source)).parent))
    return found


def _check_contents(folder: str, *, kind: str, other: str | None) -> None:
    """Refuses a folder with a file or folder that no conversion of this kind writes.

    Args:
        other: resolved place that this conversion writes too and that may lie inside.
    """
    fs, path = storage.filesystem(folder)
    with storage.named_write_errors(folder):
        if not fs.isdir(path):
            return
        names = sorted(Path(x).name for x in fs.ls(path, detail=False))
    ours = _is_ours(folder, kind) if CONFIG_FILE in names else False
    for name in names:
        inside = storage.join(folder, name)
        is_folder = fs.isdir(storage.filesystem(inside)[1])
        if is_folder and kind == ENCODER and name in (ENCODER, ADAPTER):
            _check_contents(inside, kind=name, other=other)
        elif is_folder and other is not None and f"{other}/".startswith(f"{_resolved(inside)}/"):
            continue  # checked on its own
        elif is_folder or not (_LEFTOVER.fullmatch(name) or (ours and name in _FILES)):
            raise ConfigError(
                f"{folder}: holds {name}, which is not of an earlier conversion; choose another or"
                " an empty folder"
            )


def _is_ours(folder: str, kind: str) -> bool:
    """Whether a conversion wrote a folder's config.json; a trained encoder is none."""
    try:
        values: Any = json.loads(storage.read_bytes(storage.join(folder, CONFIG_FILE)))
        if kind == "teacher":
            from_dict(VggtConfig, values)
            return "aggregator" in values
        if kind == ADAPTER:
            return values["format"] == ADAPTER_FORMAT
        return values["format"] == ENCODER_FORMAT and "converted_from" in values["provenance"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError):
        return False
