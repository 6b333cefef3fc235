"""The stage from annotated frame shards to questions about them. No Prefect here."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from flows.data_stages import require_shards
from flows.settings import Settings
from flows.stage import StageResult, say, timed
from preprocessing.questions.spec import GENERATOR_VERSION, QuestionSpec
from spa3r import storage
from spa3r.errors import FormatError, SceneError
from spa3r.plain import config_hash, to_dict
from spa3r.progress import meter
from spa3r.recipes import catalogue

if TYPE_CHECKING:
    from preprocessing.questions.draw import SceneQuestions
    from spa3r.data.shards import FrameTable

Overrides = Mapping[str, Any] | None
Found: TypeAlias = dict[str, Any]
"""What was asked and what was not, by split; the manifest."""
FORMAT: Final = "spa3r-questions-1"
QUESTIONS: Final = "questions.jsonl"
MANIFEST: Final = "manifest.json"
TRAIN, VAL = "train", "val"


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionPlaces:
    """Where questions about a dataset lie."""

    train: str
    """Folder of an instruction set about the training scenes."""
    val: str
    """Folder with questions.jsonl about held-out scenes, in VSI-Bench's form, and manifest.json."""
    media: str
    """Frame shards that both are about."""


def questions_of(
    settings: Settings,
    *,
    dataset: str = "rooms",
    recipe: str = "tiny",
    overrides: Overrides = None,
    spec: QuestionSpec | None = None,
) -> QuestionPlaces:
    """The places; nothing is looked at or written."""
    ingest = catalogue.get(recipe, overrides).ingest
    media = settings.shards(dataset, ingest)
    made_with = config_hash(spec or QuestionSpec(), GENERATOR_VERSION, ingest.shard_hash())[:8]
    name = f"{dataset}-{made_with}"
    return QuestionPlaces(
        train=settings.instruction_set(name), val=str(settings.questions / name), media=media
    )


def questions(
    *,
    dataset: str = "rooms",
    recipe: str = "tiny",
    overrides: Overrides = None,
    spec: QuestionSpec | None = None,
) -> StageResult:
    """Questions about the training scenes as an instruction set, about the held-out ones as a
    question file of VSI-Bench's form.

    Raises:
        ShardError: the dataset was not ingested, or another process is writing the questions.
        SceneError: nothing can be asked about either split.
    """
    from spa3r.data.shards import FrameTable

    settings, plan = Settings.from_environment(), catalogue.get(recipe, overrides)
    asked = spec or QuestionSpec()
    table = FrameTable(require_shards(settings, dataset, plan))
    places = questions_of(settings, dataset=dataset, recipe=recipe, overrides=overrides, spec=asked)
    with timed(settings, "questions", Path(places.val).name) as outcome:
        made_from = _made_from(table, asked)
        if not (found := _finished(places, made_from)):
            found = _generate(table, places, asked, made_from, dataset, settings.workers)
        else:
            outcome["reused"] = True
        reused = outcome["reused"]
    line = (
        f"{found[TRAIN]['questions']} questions in {found[TRAIN]['conversations']} conversations"
        f" about {found[TRAIN]['scenes']} scenes, {found[VAL]['questions']} about"
        f" {found[VAL]['scenes']} held-out scenes"
    )
    facts = {"instructions": places.train, "held-out questions": places.val, "media": places.media}
    facts |= _table(found, asked)
    return StageResult(stage="questions", line=say(line, reused=reused), facts=facts, reused=reused)


# --- what there is already ------------------------------------------------------------------------


def _made_from(table: "FrameTable", spec: QuestionSpec) -> Found:
    """All that decides what is asked, and the truth."""
    from preprocessing.rooms.questions import objects_urls

    scenes = [scene for split in (TRAIN, VAL) for scene in table.scenes(split)]
    contents = storage.read_many(objects_urls(table, scenes))
    digest = hashlib.sha256()
    for scene, content in zip(scenes, contents, strict=True):
        digest.update(f"{scene} {hashlib.sha256(content or b'').hexdigest()}\n".encode())
    return {
        "generator": GENERATOR_VERSION, "spec": to_dict(spec), "data_hash": table.data_hash,
        "objects": digest.hexdigest(),
    }  # fmt: skip


def _finished(places: QuestionPlaces, made_from: Found) -> Found:
    """What an earlier run made of the same; {} if it was something else, or is not whole."""
    from spa3r.data.instruction_sets import read_set

    url, rows = (storage.join(places.val, name) for name in (MANIFEST, QUESTIONS))
    found = storage.read_json(url) if storage.exists(url) else {}
    if not isinstance(found, dict) or found.get("made_from") != made_from:
        return {}
    if not storage.exists(rows) or storage.sha256(rows) != found[VAL]["hash"]:
        return {}
    if not found[TRAIN]["conversations"]:
        return found
    try:
        whole = read_set(places.train).hash == found[TRAIN]["hash"]
    except FormatError:
        return {}
    return found if whole else {}


# --- making it ------------------------------------------------------------------------------------


def _generate(
    table: "FrameTable",
    places: QuestionPlaces,
    spec: QuestionSpec,
    made_from: Found,
    dataset: str,
    workers: int,
) -> Found:
    """Asks, writes both splits and, last, the manifest."""
    from preprocessing.lock import output_lock
    from preprocessing.rooms.questions import ask_scenes

    scenes = {split: table.scenes(split) for split in (TRAIN, VAL)}
    with meter("questions", sum(map(len, scenes.values())), "scenes") as progress:
        drawn = {
            split: ask_scenes(table, names, spec, workers=workers, on_done=progress.advance)
            for split, names in scenes.items()
        }
    splits = {split: _summary(found) for split, found in drawn.items()}
    if not any(summary["questions"] for summary in splits.values()):
        why = _most_frequent(_rejected([*drawn[TRAIN], *drawn[VAL]])) or "it has none"
        raise SceneError(
            f"{places.media}: nothing can be asked about its training and held-out scenes ({why});"
            " ingest scans with annotations, or other splits"
        )
    with output_lock(places.train):
        storage.remove(storage.join(places.val, MANIFEST))
        splits[TRAIN] |= _write_train(places, drawn[TRAIN], spec, made_from, dataset)
        splits[VAL] |= {"hash": _write_val(places, drawn[VAL], spec)}
        found = {
            "format": FORMAT, "made_from": made_from, "media": places.media, "media_kind": "scan",
            "instructions": places.train, **splits,
        }  # fmt: skip
        storage.write_json(storage.join(places.val, MANIFEST), found)
    return found


def _summary(drawn: Sequence["SceneQuestions"]) -> Found:
    asked = Counter(family for scene in drawn for family, _ in scene.drawn)
    rejected: dict[str, dict[str, int]] = {}
    for (family, reason), count in sorted(_rejected(drawn).items()):
        rejected.setdefault(family, {})[reason] = count
    return {
        "scenes": sum(bool(scene.drawn) for scene in drawn),
        "scenes_without_questions": sum(not scene.drawn for scene in drawn),
        "questions": sum(asked.values()),
        "asked": dict(sorted(asked.items())),
        "rejected": rejected,
    }


def _rejected(drawn: Sequence["SceneQuestions"]) -> Counter[tuple[str, str]]:
    total: Counter[tuple[str, str]] = Counter()
    for scene in drawn:
        total.update(scene.rejected)
    return total


def _write_train(
    places: QuestionPlaces,
    drawn: Sequence["SceneQuestions"],
    spec: QuestionSpec,
    made_from: Found,
    source: str,
) -> Found:
    """The instruction set; none, where nothing is asked. Returns its hash and size."""
    from preprocessing.questions.draw import give_letters
    from preprocessing.questions.files import conversations
    from spa3r.data.instruction_sets import write_set

    if not any(scene.drawn for scene in drawn):
        return {"conversations": 0, "hash": ""}
    written = write_set(
        places.train,
        conversations(give_letters(drawn, spec), spec, source),
        source=source,
        media_root=places.media,
        dropped={f"{family}: {why}": n for (family, why), n in sorted(_rejected(drawn).items())},
        made_from=made_from,
    )
    return {"conversations": len(written.instructions), "hash": written.hash}


def _write_val(
    places: QuestionPlaces, drawn: Sequence["SceneQuestions"], spec: QuestionSpec
) -> str:
    """The question file; returns its SHA-256."""
    from preprocessing.questions.draw import give_letters
    from preprocessing.questions.files import published

    rows = published(give_letters(drawn, spec))
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    storage.write_bytes(storage.join(places.val, QUESTIONS), data)
    return hashlib.sha256(data).hexdigest()


# --- saying it ------------------------------------------------------------------------------------


def _table(found: Found, spec: QuestionSpec) -> dict[str, str]:
    """A line for each family: how many questions, and why not more."""
    lines: dict[str, str] = {}
    for family in spec.families:
        asked = [found[split]["asked"].get(family, 0) for split in (TRAIN, VAL)]
        reasons: Counter[str] = Counter()
        for split in (TRAIN, VAL):
            reasons.update(found[split]["rejected"].get(family, {}))
        why = _most_frequent(reasons)
        lines[family] = f"{asked[0]} + {asked[1]} held out" + (f"; not asked: {why}" if why else "")
    return lines


def _most_frequent(reasons: Mapping[Any, int]) -> str:
    """Counts and reasons on one line, the most frequent first; all families together."""
    total: Counter[str] = Counter()
    for reason, count in reasons.items():
        total[reason[1] if isinstance(reason, tuple) else reason] += count
    most = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in most)
