"""What all published formats share: rows of LLaVA-style conversations about images or a video.

A row that cannot be used becomes a Drop with a short reason, which the import counts. Keys of a row
that a format does not name are passed over.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from spa3r.errors import ConfigError
from spa3r.guard import GENERATED, drop_reason, held_out_media
from spa3r.instructions import IMAGE, VIDEO, Instruction, MediaKind, Role, Turn, fault_of
from spa3r.json_lines import numbered_rows
from spa3r.storage import join, list_names

MALFORMED: Final = "malformed_row"
MISSING: Final = "missing_media"
OUTSIDE: Final = "media_outside_root"
_ROLES: Final[dict[Any, Role]] = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"
}  # fmt: skip
_LINE_END: Final = re.compile(f"({IMAGE}|{VIDEO})[ \t]*\r?\n")
_IMAGES: Final = re.compile(f"(?:{IMAGE}\\s*)+")
# By the beginning of a folder's name, longest first; "arkit" and "scannetppv2" are VSI-590K's.
_DATASETS: Final = (
    ("scannetpp", "scannetpp"), ("scannet++", "scannetpp"), ("scannet", "scannet"),
    ("arkit", "arkitscenes"),
)  # fmt: skip
_SCENE: Final = re.compile(r"scene\d{4}_\d{2}|[0-9a-f]{10}|\d{8}")


class Drop(NamedTuple):
    """A row that is left out."""

    reason: str
    """Short and the same for all of its kind: what drops are counted by."""
    row: int
    """Line of the file, or place in its list, from 1."""
    detail: str


class RefusedError(Exception):
    """Raised by what reads one row; becomes a Drop."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Media(NamedTuple):
    """What a row is about."""

    kind: MediaKind
    paths: tuple[str, ...]


Row = Mapping[str, Any]
Item = Instruction | Drop


def read_rows(path: str, convert: Callable[[Row, int], Instruction]) -> Iterator[Item]:
    """Every row of a .json or .jsonl file, in order, one at a time in memory.

    Args:
        convert: makes a conversation of a row and its place; raises RefusedError.

    Raises:
        FormatError: neither a list nor lines of JSON, or cut short.
        OSError: it cannot be read.
    """
    for place, row in numbered_rows(path):
        if isinstance(row, ValueError):
            yield Drop(MALFORMED, place, str(row))
            continue
        try:
            one = convert(row, place)
        except RefusedError as error:
            yield Drop(error.reason, place, str(error))
            continue
        fault = fault_of(one)
        yield one if fault is None else Drop(fault.reason, place, fault.detail)


def usable(items: Iterable[Item], *, media_root: str, benchmark_scenes: bool) -> Iterator[Item]:
    """The same, with a Drop for conversations about media that are absent or lie elsewhere, or
    about a benchmark's scene.

    A row is a stranger's: what it names is looked for under the media root and nowhere else.

    Args:
        benchmark_scenes: keep those too.
    """

    is_absent = absent_media(media_root)
    for item in items:
        if isinstance(item, Drop):
            yield item
            continue
        place = int(item.id.rpartition("#")[2])
        why = "" if benchmark_scenes else held_out_media(item.dataset, item.scene, item.media)
        if why:
            yield Drop(drop_reason(item.dataset), place, why)
        elif (outside := _outside(item.media, media_root)) is not None:
            yield Drop(OUTSIDE, place, f"{outside}: not under {media_root}")
        elif (absent := is_absent(item.media)) is not None:
            yield Drop(MISSING, place, f"{absent}: not under {media_root}")
        else:
            yield item


def _outside(paths: Iterable[str], media_root: str) -> str | None:
    """The first path or URL that does not begin with the media root; relative ones always do."""
    roots = {media_root.rstrip("/")}
    if "://" not in media_root:
        roots.add(str(Path(media_root).resolve()))
    inside = tuple(f"{root}/" for root in roots)
    named = (path for path in paths if "://" in path or path.startswith("/"))
    return next((path for path in named if not path.startswith(inside)), None)


def absent_media(media_root: str) -> Callable[[Iterable[str]], str | None]:
    """What says which of some paths is the first that is not there; None: all are.

    Folders are listed once each; what a few thousand of them hold is remembered.
    """

    @lru_cache(maxsize=4096)
    def names(folder: str) -> frozenset[str]:
        try:
            return frozenset(list_names(folder or "/"))
        except ConfigError:  # a URL of a kind that is not known
            return frozenset()

    def is_there(path: str) -> bool:
        absolute = "://" in path or path.startswith("/")
        folder, _, name = (path if absolute else join(media_root, path)).rpartition("/")
        return name in names(folder)

    return lambda paths: next((path for path in paths if not is_there(path)), None)


# --- parts of a row -------------------------------------------------------------------------------


def media_of(row: Row) -> Media:
    """Its images, or its video: a file or a folder of frames. Raises RefusedError."""
    found = {key: _paths(key, row[key]) for key in ("images", "image", "video") if row.get(key)}
    if len(found) > 1:
        raise RefusedError("malformed_media", f"has {' and '.join(found)}")
    for key, paths in found.items():
        if key == "video" and len(paths) != 1:
            raise RefusedError("malformed_media", f"{len(paths)} videos")
        return Media("video" if key == "video" else "images", paths)
    return Media("none", ())


def _paths(key: str, value: Any) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(path, str) and path for path in listed):
        raise RefusedError("malformed_media", f"{key} is {str(value)[:80]!r}, not a path or paths")
    return tuple(path.removeprefix("./").rstrip("/") for path in listed)


def turns_of(value: Any, media: Media) -> tuple[Turn, ...]:
    """A list of {"from", "value"} or {"role", "content"}, markers brought to our form: one <image>
    for each image or one <video>, at the beginning where there is none, and no line end behind.

    Raises:
        RefusedError: not such a list. Who speaks when is not looked at here.
    """
    if not isinstance(value, list):
        raise RefusedError("not_a_conversation", f"conversations is {type(value).__name__}")
    turns = [_turn(one) for one in value]
    said = "".join(turn.text for turn in turns if turn.role == "user")
    marker = {"images": IMAGE * len(media.paths), "none": ""}.get(media.kind, VIDEO)
    absent = bool(turns) and IMAGE not in said and VIDEO not in said
    formed: list[Turn] = []
    for place, turn in enumerate(turns):
        text = turn.text
        if turn.role == "user":
            text = _with_markers(text, media, marker)
            text = marker + text if absent and place == 0 else text
        formed.append(Turn(role=turn.role, text=text))
    return tuple(formed)


def _turn(one: Any) -> Turn:
    if not isinstance(one, dict):
        raise RefusedError("not_a_conversation", f"a turn is {type(one).__name__}")
    role, text = one.get("from", one.get("role")), one.get("value", one.get("content"))
    if not isinstance(role, str) or role not in _ROLES:
        raise RefusedError("unknown_role", f"a turn is from {str(role)[:40]!r}")
    if not isinstance(text, str):
        raise RefusedError("empty_text", f"a turn's text is {type(text).__name__}")
    return Turn(role=_ROLES[role], text=text)


def _with_markers(text: str, media: Media, marker: str) -> str:
    if media.kind == "images":
        text = text.replace(VIDEO, marker)
    elif media.kind == "video" and VIDEO not in text:
        text = _IMAGES.sub(VIDEO, text, count=1)  # VSI-590K writes <image> for videos too
    return _LINE_END.sub(r"\1", text)


def text_of(row: Row, key: str) -> str:
    """A short text of a row; "" where it has none. Raises RefusedError for anything else."""
    value = row.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RefusedError(MALFORMED, f"{key} is {type(value).__name__}")
    return str(value)


def id_of(row: Row, place: int) -> str:
    """The row's own id and its place: published ids are absent or stand twice."""
    return f"{text_of(row, 'id') or 'row'}#{place}"


def scene_of(media: Media, data_source: str = "") -> tuple[str, str]:
    """(data set, scene) as the media's paths name them.

    Args:
        data_source: what the row says; goes before.
    """
    parts = media.paths[0].split("/") if media.paths else []
    dataset = _known_dataset((data_source, *parts)) or data_source or (parts[0] if parts else "")
    dataset = "" if dataset == GENERATED else dataset  # ours alone is not looked at by the guard
    if not parts:
        return dataset, ""
    stems = [part.partition(".")[0] for part in parts]
    # Of pictures the folder, unless it only says that they are pictures.
    fallback = stems[-1] if media.kind == "video" or len(stems) == 1 else stems[-2]
    return dataset, next((stem for stem in stems if _SCENE.fullmatch(stem)), fallback)


def _known_dataset(parts: Iterable[str]) -> str:
    """The first that begins as one of ours does; "" if none does."""
    pairs = ((part.lower(), start, name) for part in parts for start, name in _DATASETS)
    return next((name for part, start, name in pairs if part.startswith(start)), "")
