"""Answers on disk: parts while they are written, one Parquet file when all are there.

A folder holds `meta.json` (what was asked of what, and how), `questions.parquet` (all that scorers
read), `parts/` while it is written, and `predictions.parquet`. Re-scoring needs these alone.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from spa3r import storage
from spa3r.errors import ConfigError, ShardError
from spa3r.eval.suite import METHODS, Method, Prediction, Question

FORMAT: Final = "spa3r-predictions-1"
META: Final = "meta.json"
QUESTIONS: Final = "questions.parquet"
PREDICTIONS: Final = "predictions.parquet"
PARTS: Final = "parts"
SCHEMA: Final = pa.schema([
    ("question", pa.string()), ("method", pa.string()), ("raw", pa.string()),
    ("frames", pa.list_(pa.string())),
])  # fmt: skip
_CURE: Final = "delete the folder and evaluate again"


def start(folder: str, meta: Mapping[str, Any], questions: Sequence[Question]) -> None:
    """Begins a folder, or goes on with it.

    Args:
        meta: plain JSON; its "key" stands for all that decides the answers.

    Raises:
        ConfigError: it holds answers to something else.
    """
    place = storage.join(folder, META)
    if storage.exists(place):
        if read_meta(folder).get("key") != meta["key"]:
            raise ConfigError(
                f"{folder}: holds answers with other settings; evaluate into another folder"
            )
        return
    rows = [
        {"id": q.id, "task": q.task, "scene": q.scene, "prompt": q.prompt,
         "media_kind": q.media_kind, "media": list(q.media), "doc": json.dumps(q.doc)}
        for q in questions
    ]  # fmt: skip
    _write(storage.join(folder, QUESTIONS), pa.Table.from_pylist(rows))
    storage.write_json(place, {"format": FORMAT, **meta})


def read_meta(folder: str) -> dict[str, Any]:
    """Raises ShardError for a folder that holds no answers."""
    place = storage.join(folder, META)
    if not storage.exists(place):
        raise ShardError(f"{folder}: no {META} in it; name a folder that `spa3r evaluate` wrote")
    meta = storage.read_json(place)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise ShardError(f"{place}: not of this version ({FORMAT}); {_CURE}")
    return meta


def read_questions(folder: str) -> list[Question]:
    """What was asked. Raises ShardError for a damaged file."""
    place = storage.join(folder, QUESTIONS)
    try:
        return [
            Question(
                id=row["id"], task=row["task"], scene=row["scene"], prompt=row["prompt"],
                media_kind=row["media_kind"], media=tuple(row["media"]), doc=json.loads(row["doc"]),
            )
            for row in _read(place)
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{place}: not whole ({error!r}); {_CURE}") from error


def has_part(folder: str, number: int) -> bool:
    """Whether a part is written."""
    return storage.exists(_part(folder, number))


def write_part(folder: str, number: int, answers: Sequence[Prediction]) -> None:
    """Keeps some answers; whole or not at all."""
    _write(_part(folder, number), _table(answers))


def finish(folder: str, parts: int) -> None:
    """Joins the parts; then they go."""
    rows = [row for number in range(parts) for row in _read(_part(folder, number))]
    _write(storage.join(folder, PREDICTIONS), pa.Table.from_pylist(rows, schema=SCHEMA))
    fs, path = storage.filesystem(storage.join(folder, PARTS))
    fs.rm(path, recursive=True)


def is_finished(folder: str) -> bool:
    """Whether all answers are there."""
    return storage.exists(storage.join(folder, PREDICTIONS))


def read_predictions(folder: str) -> dict[Method, list[Prediction]]:
    """All answers by method, the model's among them. Raises ShardError: there are none yet, or the
    file is damaged."""
    place = storage.join(folder, PREDICTIONS)
    if not storage.exists(place):
        raise ShardError(f"{place}: missing; the evaluation did not end, start it again")
    found: dict[Method, list[Prediction]] = {}
    seen: set[tuple[str, str]] = set()
    try:
        for row in _read(place):
            _check(row, seen)
            one = Prediction(
                question=row["question"], method=row["method"], raw=row["raw"],
                frames=tuple(row["frames"]),
            )  # fmt: skip
            found.setdefault(one.method, []).append(one)
        if "model" not in found:
            raise ValueError("no answers of the method model")
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{place}: not whole ({error!r}); {_CURE}") from error
    return found


def _check(row: Mapping[str, Any], seen: set[tuple[str, str]]) -> None:
    """Raises ValueError for a row that is no answer, or one that came before."""
    name = row["question"], row["method"]
    if row["method"] not in METHODS or not isinstance(row["raw"], str):
        raise ValueError(
            f"method {row['method']!r} answers question {row['question']!r} by {row['raw']!r}"
        )
    if name in seen:
        raise ValueError(f"two answers of {row['method']} to question {row['question']!r}")
    seen.add(name)


def _part(folder: str, number: int) -> str:
    return storage.join(folder, PARTS, f"{number:05d}.parquet")


def _table(answers: Sequence[Prediction]) -> pa.Table:
    rows = [
        {"question": a.question, "method": a.method, "raw": a.raw, "frames": list(a.frames)}
        for a in answers
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _write(place: str, table: pa.Table) -> None:
    with storage.named_write_errors(place), storage.atomic_write(place) as f:
        pq.write_table(table, f, compression="zstd")


def _read(place: str) -> list[dict[str, Any]]:
    try:
        with storage.open_read(place) as f:
            return pq.read_table(f).to_pylist()
    except (pa.ArrowException, OSError) as error:
        why = " ".join(str(error).split())
        raise ShardError(f"{place}: not a whole Parquet file ({why}); {_CURE}") from error
