"""Question files as they are published: JSON lines, one JSON list, or Parquet with or without the
images inside."""

import hashlib
import html
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from spa3r import storage
from spa3r.data.shards import FrameTable
from spa3r.errors import FormatError, MediaError
from spa3r.eval.suite import Question
from spa3r.eval.suite_rules import Doc, Suite
from spa3r.eval.suites import suite_of
from spa3r.json_lines import numbered_rows

_ENDINGS: Final = (".jsonl", ".json", ".parquet")
_EMBEDDED: Final = ("image", "images")
UNPACKED: Final = "unpacked_images"
"""Field of an item whose images stood in the question file: their names in the folder `unpack`."""
_AT_ONCE: Final = 64  # rows with their images
_FORMATS: Final = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp"}


def read(
    name: str, places: str | Path | Sequence[str | Path], *, unpack: str | Path = ""
) -> list[Question]:
    """Questions of a suite, in the order of its files.

    Args:
        name: of the suite.
        places: files or URLs, or folders that hold one question file each. CV-Bench has two files.
        unpack: folder that images inside a Parquet file are written to, by their content; then the
            questions name those. "": such images are left alone, and the names beside them count.

    Raises:
        ConfigError: no such suite. FormatError: one line that names file and row: not such a file,
            a field that is missing or of another type, an unknown task, an id that came before.
    """
    suite = suite_of(name)
    one = isinstance(places, str | Path)
    files = [_file_of(str(place)) for place in ([places] if one else places)]
    questions: list[Question] = []
    seen: dict[str, str] = {}
    for url in files:
        for number, row in _rows(url, str(unpack), suite):
            where = f"{url}, row {number}"
            question = _question(suite, row, where, position=len(questions))
            if question.id in seen:
                raise FormatError(
                    f"{where}: id {question.id!r} came before ({seen[question.id]}); name each"
                    " question file once, and remove the repetition"
                )
            seen[question.id] = where
            questions.append(question)
    if not questions:
        raise FormatError(f"{', '.join(files)}: no questions in it; name the suite's question file")
    return questions


def content_hash(places: str | Path | Sequence[str | Path]) -> str:
    """Hex SHA-256 over the bytes of the question files."""
    one = isinstance(places, str | Path)
    hashes = [storage.sha256(_file_of(str(place))) for place in ([places] if one else places)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _file_of(place: str) -> str:
    if place.endswith(_ENDINGS):
        if not storage.exists(place):
            raise FormatError(f"{place}: no such question file; name it with --questions")
        return place
    names = [name for name in storage.list_names(place) if name != "manifest.json"]  # ours
    found = [name for name in names if name.endswith(_ENDINGS)]
    if len(found) != 1:
        raise FormatError(
            f"{place}: {len(found)} question files ({', '.join(_ENDINGS)}) in it, not one; name the"
            " file with --questions"
        )
    return storage.join(place, found[0])


def _rows(url: str, unpack: str, suite: Suite) -> Iterator[tuple[int, Doc]]:
    if url.endswith(".parquet"):
        yield from _parquet_rows(url, unpack, suite)
        return
    try:
        for number, row in numbered_rows(url):
            if isinstance(row, ValueError):
                raise FormatError(f"{url}, row {number}: {row}; download the file again")
            yield number, row
    except OSError as error:
        raise FormatError(f"{url}: cannot be read ({error})") from error


def _parquet_rows(url: str, unpack: str, suite: Suite) -> Iterator[tuple[int, Doc]]:
    number = 0
    try:
        with storage.open_read(url) as f:
            table = pq.ParquetFile(f)
            inside = [
                c for c in _EMBEDDED if c in table.schema_arrow.names and _has_bytes(table, c)
            ]
            kept = [c for c in table.schema_arrow.names if unpack or c not in inside]
            for batch in table.iter_batches(batch_size=_AT_ONCE, columns=kept):
                for row in batch.to_pylist():
                    number += 1
                    for column in inside if unpack else ():
                        images = row.pop(column)
                        several = images if isinstance(images, list) else [images]
                        row |= _unpacked(several, unpack, f"{url}, row {number}", row, suite)
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split())
        raise FormatError(f"{url}: not a whole Parquet file ({why}); download it again") from error


def _has_bytes(table: pq.ParquetFile, column: str) -> bool:
    """Whether images themselves stand in a column, as Hugging Face datasets keep them."""
    kind = table.schema_arrow.field(column).type
    kind = kind.value_type if pa.types.is_list(kind) else kind
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _unpacked(
    images: Sequence[Any], folder: str, where: str, row: Doc, suite: Suite
) -> dict[str, Any]:
    """Writes images that are not there yet; fields of the row that name them."""
    names: list[str] = []
    called: list[str] = []
    for image in images:
        data = (image or {}).get("bytes")
        if not data:
            raise FormatError(f"{where}: an image without content; name the images with --media")
        kind = next((end for head, end in _FORMATS.items() if data.startswith(head)), "bin")
        names.append(f"{hashlib.sha256(data).hexdigest()[:32]}.{kind}")
        called.append(image.get("path") or names[-1])
        if not storage.exists(storage.join(folder, names[-1])):
            storage.write_bytes(storage.join(folder, names[-1]), data)
    known = {suite.media_field: row.get(suite.media_field) or called}
    return {**known, UNPACKED: names}


def _question(suite: Suite, row: Doc, where: str, *, position: int) -> Question:
    missing = [field for field in suite.required if row.get(field) is None]
    if missing:
        raise FormatError(
            f"{where}: no {', '.join(missing)}; this is no question of {suite.name}, or a damaged"
            " one: download the file again"
        )
    try:
        task = str(suite.task_of(row))
        if task not in suite.tasks:
            raise FormatError(
                f"{where}: unknown task {task!r} of {suite.name}; known are"
                f" {', '.join(suite.tasks)}: leave the row out"
            )
        suite.check(row)
        question = Question(
            id=suite.identity(row, position),
            task=task,
            prompt=suite.prompt(row),
            media_kind="video" if suite.video else "images",
            media=tuple(row.get(UNPACKED) or suite.media(row)),
            scene=suite.scene(row),
            doc=dict(row),
        )
        _rehearse(suite, question)
    except (TypeError, AttributeError, ValueError, KeyError, IndexError) as error:
        raise FormatError(
            f"{where}: malformed question ({type(error).__name__}: {error}); download it again"
        ) from error
    return question


def _rehearse(suite: Suite, question: Question) -> None:
    """Raises ValueError, TypeError ... for what could be asked, but not be kept, found, scored or
    shown afterwards: better now than when every answer is there."""
    json.dumps([question.prompt, question.media, question.doc], ensure_ascii=False).encode()
    for path in question.media:
        if path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise ValueError(f"{path[:80]!r} leads out of the media's root")
        if not path.strip("./ "):
            raise ValueError(f"{path[:80]!r} names no file")
    html.escape(suite.gold(question.doc))
    for scorer in suite.scorers:
        with suppress(ZeroDivisionError):  # the reference's, of a truth of 0: it is reported
            suite.score(scorer, question.doc, "3")


def with_media(questions: Sequence[Question], media_root: str | Path) -> list[Question]:
    """The questions, their media as they lie under the root: a video file, else the folder of its
    frames, else the scan of a folder of frame shards.

    Raises:
        MediaError: some are missing; one line that names the first and says how many.
        ShardError: frame shards that are none.
    """
    root, scans = str(media_root), None
    if storage.exists(storage.join(root, "manifest.parquet")):
        scans = frozenset(FrameTable(root).scenes())
    found: dict[tuple[str, ...], Question | None] = {}
    for question in questions:
        if question.media not in found:
            found[question.media] = _located(question, root, scans)
    if lost := [media for media, place in found.items() if place is None]:
        asked = Counter(question.media for question in questions)
        raise MediaError(
            f"{storage.join(root, lost[0][0])}: missing, {asked[lost[0]]} questions are about it"
            f" ({len(lost)} of {len(found)} media are missing); put them there, or name their root"
            " with --media",
            "missing_media",
        )
    places = {media: place for media, place in found.items() if place is not None}
    return [
        replace(q, media_kind=places[q.media].media_kind, media=places[q.media].media)
        for q in questions
    ]


def _located(question: Question, root: str, scans: Collection[str] | None) -> Question | None:
    """None: it is not there. `scans`: of frame shards; None: the root holds none."""
    if question.media_kind == "video":
        if scans is not None:
            scene = str(question.doc["scene_name"])
            found = replace(question, media_kind="scan", media=(scene,))
            return found if scene in scans else None
        (video,) = question.media
        for media in (video, video.removesuffix(".mp4")):
            if storage.exists(storage.join(root, media)):
                return replace(question, media=(media,))
        return None
    whole = all(storage.exists(storage.join(root, one)) for one in question.media)
    return question if question.media and whole else None
