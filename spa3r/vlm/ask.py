"""Questions from files: one line of JSON a question, one line of JSON an answer.

    {"id": "q1", "images": ["1.jpg", "2.jpg"], "question": "How many chairs are there?"}
    {"id": "q2", "video": "kitchen.mp4", "question": "..."}
    {"id": "q3", "scan": "scans/scene0000_00", "question": "..."}

becomes

    {"answer": "4", "frames": ["1.jpg", "2.jpg"], "id": "q1", "seconds": 0.8}

and, for a line that cannot be answered, {"error": "...", "id": "q4", "line": 4, "reason": "..."}.
Lines come out in the order they went in. Finished blocks of lines lie in `<out>.parts/` until all
are there, so an interrupted run is continued by the same command and gives the same answers.
"""

import codecs
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from spa3r import storage
from spa3r.data.media import MediaReader, answering_frames
from spa3r.errors import (
    ConfigError,
    FormatError,
    ImageError,
    MediaError,
    PromptError,
    SceneError,
    ShardError,
    TeacherError,
)
from spa3r.hub import PHOTOS_NEED_VGGT
from spa3r.instructions import Instruction, MediaKind, Turn
from spa3r.plain import config_hash
from spa3r.progress import meter
from spa3r.vision_input import SceneViews
from spa3r.vlm.batch import Geometry
from spa3r.vlm.spa3_vlm import Request, Spa3VLM

log = logging.getLogger(__name__)

BLOCK: Final = 16
"""Lines whose answers are written together."""
_MEDIA: Final[dict[str, MediaKind]] = {"images": "images", "video": "video", "scan": "scan"}
_KEYS: Final = {"id", "question", *_MEDIA}
ReadScan = Callable[[str], SceneViews]
"""A raw scan's views at the model's working size."""


class LineError(Exception):
    """A line that is no question. `reason` is what it is counted by."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One line, understood."""

    id: str
    question: str
    kind: MediaKind
    media: tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What became of a file of questions."""

    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Lines without an answer, by reason."""

    @property
    def line(self) -> str:
        bad = ", ".join(f"{count} {reason}" for reason, count in sorted(self.errors.items()))
        left = f"; {self.errors.total()} not: {bad}" if bad else ""
        return f"{self.answered} questions answered{left}"


def parse(line: bytes) -> Asked:
    """One line of the input, UTF-8.

    Raises:
        LineError: no JSON object, unknown or missing keys, or values of the wrong kind.
    """
    try:
        row = json.loads(line.decode())
        json.dumps(row, ensure_ascii=False).encode()  # "\\ud800" is no character
    except (ValueError, RecursionError) as error:
        raise LineError("not_json", f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise LineError("not_json", f"a JSON {type(row).__name__}, not an object")
    if unknown := sorted(set(row) - _KEYS):
        raise LineError("unknown_key", f"unknown keys {unknown}; known are {sorted(_KEYS)}")
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise LineError("no_question", 'no question: add "question": "..."')
    given = [name for name in _MEDIA if name in row]
    if len(given) != 1:
        raise LineError("no_media", f"{given or 'nothing'} to look at: give one of {[*_MEDIA]}")
    media = row[given[0]]
    paths = media if given[0] == "images" else [media]
    fits = isinstance(paths, list) and paths and all(isinstance(x, str) and x for x in paths)
    if not fits:
        wanted = "a list of paths" if given[0] == "images" else "a path"
        raise LineError("no_media", f'"{given[0]}" must be {wanted}')
    found = row.get("id", "")
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise LineError("bad_id", '"id" must be a text or a whole number')
    return Asked(id=str(found), question=question, kind=_MEDIA[given[0]], media=tuple(paths))


class Reader:
    """Views of what a question names; the last one's are kept, for questions in a row about it."""

    def __init__(self, vlm: Spa3VLM, root: str, read_scan: ReadScan | None) -> None:
        """
        Args:
            root: path or URL that relative places are looked for under.
            read_scan: for scans as they were recorded; None: only scenes of frame shards.
        """
        self._vlm, self._root, self._read_scan = vlm, root, read_scan
        self._media = MediaReader(root)
        self._shards: dict[str, MediaReader] = {}
        self._last: tuple[object, SceneViews, Geometry | None] | None = None

    def request(self, asked: Asked) -> Request:
        """Raises MediaError and what `Spa3VLM.ask` raises."""
        turns = (Turn(role="user", text=asked.question),)
        key = (asked.kind, asked.media)
        if self._last is None or self._last[0] != key:
            views = self.views(asked.kind, asked.media)
            geometry = self._vlm.geometry_of(Request(turns=turns, views=views))
            self._last = (key, views, geometry)
        _, views, geometry = self._last
        return Request(turns=turns, views=views, geometry=geometry)

    def views(self, kind: MediaKind, media: Sequence[str]) -> SceneViews:
        """At the model's working size.

        Args:
            media: images; or one video, folder of frames, scan, or `<folder of shards>/<scene>`.

        Raises:
            MediaError: missing, damaged or without frames.
        """
        if kind == "scan":
            return self._scan(self._media.place(media[0]))
        return self._read(self._media, kind, tuple(media))

    def _scan(self, place: str) -> SceneViews:
        folder, _, scene = place.rstrip("/").rpartition("/")
        if not storage.exists(place) and storage.exists(storage.join(folder, "manifest.parquet")):
            reader = self._shards.setdefault(folder, MediaReader(folder))
            try:
                return self._read(reader, "scan", (scene,))
            except ShardError as error:  # the whole folder is no dataset
                raise MediaError(str(error), "unreadable_scan") from error
        if self._read_scan is None:
            raise MediaError(f"{place}: no scene of frame shards is there", "missing_media")
        try:
            return self._read_scan(place)
        except (SceneError, FormatError, ImageError) as error:
            raise MediaError(str(error), "unreadable_scan") from error

    def _read(self, reader: MediaReader, kind: MediaKind, media: tuple[str, ...]) -> SceneViews:
        config = self._vlm.card.vlm
        item = Instruction(id="", source="", media_kind=kind, media=media, turns=())
        views = reader.views(item, config, answering_frames(config))
        assert views is not None  # of a question with media
        return views


def answer_file(
    vlm: Spa3VLM,
    source: str | Path,
    out: str | Path,
    *,
    max_new_tokens: int,
    batch_size: int = 1,
    read_scan: ReadScan | None = None,
) -> Outcome:
    """Answers every line of a file; continues where an interrupted run with the same file, model
    and settings stopped.

    Args:
        source: path or URL of JSON lines; relative media lie under its folder.
        out: path or URL to write, when every line is done.

    Raises:
        ConfigError: `out` cannot be written or is `source`, or a file that cannot be read.
        TeacherError: the encoder's teacher is missing.
    """
    storage.check_writable(out)
    if storage.filesystem(source)[1] == storage.filesystem(out)[1]:
        raise ConfigError(f"{out}: holds the questions; name another file for the answers")
    try:
        data = storage.read_bytes(source)
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read ({error.strerror or error})") from error
    rows = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    lines = [x for x in enumerate(rows, start=1) if x[1].strip()]
    root = _folder(str(source))
    digest = hashlib.sha256(data).hexdigest()
    job = config_hash([digest, root, vlm.hash, max_new_tokens, vlm.precision])
    parts = storage.join(f"{out}.parts", job)
    reader = Reader(vlm, root, read_scan)
    done = set(storage.list_names(parts))
    names = [f"{start:08}.jsonl" for start in range(0, len(lines), BLOCK)]
    if kept := len(done.intersection(names)):
        log.info("%s: %d of %d blocks of answers are there already", out, kept, len(names))
    with meter("ask", len(names), "blocks", done=kept) as progress:
        for i, name in enumerate(names):
            if name in done:
                continue
            block = lines[i * BLOCK : (i + 1) * BLOCK]
            rows = _answers(vlm, reader, block, max_new_tokens, batch_size)
            text = "".join(json.dumps(r, ensure_ascii=False, sort_keys=True) + "\n" for r in rows)
            storage.write_bytes(storage.join(parts, name), text.encode())
            progress.advance()
    return _put_together(out, [storage.join(parts, name) for name in names])


def _put_together(out: str | Path, parts: Sequence[str]) -> Outcome:
    """Writes the whole answer file from its blocks, then removes them."""
    outcome = Outcome()
    with storage.named_write_errors(out), storage.atomic_write(out) as f:
        for part in parts:
            block = storage.read_bytes(part)
            f.write(block)
            _count(block, outcome)
    fs, folder = storage.filesystem(f"{out}.parts")
    if fs.exists(folder):
        fs.rm(folder, recursive=True)
    return outcome


def _answers(
    vlm: Spa3VLM,
    reader: Reader,
    block: Sequence[tuple[int, bytes]],
    max_new_tokens: int,
    batch_size: int,
) -> list[dict[str, Any]]:
    """Rows of the output, in the order of the lines."""
    rows: dict[int, dict[str, Any]] = {}
    ready: dict[int, tuple[Asked, Request]] = {}
    for number, data in block:
        asked = None
        try:
            asked = parse(data)
            request = reader.request(asked)
            vlm.check(request, max_new_tokens=max_new_tokens)
            ready[number] = asked, request
        except (LineError, MediaError) as error:
            rows[number] = _error(number, asked, error.reason, error)
        except PromptError as error:
            rows[number] = _error(number, asked, "cannot_be_asked", error)
        except TeacherError as error:
            if str(error) != PHOTOS_NEED_VGGT:
                raise  # the teacher itself is missing: no line can be answered
            rows[number] = _error(number, asked, "no_depth", error)
    answers = vlm.answer_many(
        [request for _, request in ready.values()],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    for (number, (asked, _)), answer in zip(ready.items(), answers, strict=True):
        rows[number] = {
            "id": asked.id,
            "answer": answer.text,
            "seconds": round(answer.seconds, 3),
            "frames": list(answer.frames),
        }
    return [rows[number] for number, _ in block]


def _error(number: int, asked: Asked | None, reason: str, error: Exception) -> dict[str, Any]:
    known = asked.id if asked is not None else None
    return {"id": known, "line": number, "reason": reason, "error": str(error)}


def _count(block: bytes, outcome: Outcome) -> None:
    for line in block.splitlines():
        row = json.loads(line)
        if "error" in row:
            outcome.errors[row["reason"]] += 1
        else:
            outcome.answered += 1


def _folder(path: str) -> str:
    return path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")
