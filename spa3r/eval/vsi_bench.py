"""VSI-Bench: eight tasks about videos of rooms, four answered by an option, four by a number.

Overall is the unweighted mean of the eight; the three kinds of relative direction count as one.
"official" is the benchmark's own code (thinking-in-space), 0 to 100. Both it and lmms-eval take for
an option only what stands before the first space: "(B)" is wrong. They differ in numbers: official
reads the first token, lmms-eval the first number or number word anywhere, which favours models that
talk. VLMEvalKit reads both generously. Where a kind of direction is missing, lmms-eval raises,
official only if the easy kind is there; "strict" takes the mean of those that are.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from spa3r.eval.mra import accuracy_of_error, mean_relative_accuracy, relative_or_absolute_error
from spa3r.eval.option_matcher import match_number, match_option
from spa3r.eval.reference_answers import first_number, first_token, float_or_none
from spa3r.eval.strict_answers import strict_letter, strict_number
from spa3r.eval.suite_rules import Doc, Parsed, Path, Scorer, Suite

DIRECTIONS: Final = tuple(f"object_rel_direction_{kind}" for kind in ("easy", "medium", "hard"))
DIRECTION: Final = "object_rel_direction"
OPTION_TASKS: Final = (
    *DIRECTIONS, "object_rel_distance", "route_planning", "obj_appearance_order",
)  # fmt: skip
NUMBER_TASKS: Final = (
    "object_abs_distance", "object_counting", "object_size_estimation", "room_size_estimation",
)  # fmt: skip
ACCURACY: Final = "accuracy"
MRA: Final = "MRA:.5:.95:.05"
_BEFORE: Final = "These are frames of a video."
_OPTION: Final = "Answer with the option's letter from the given choices directly."
_NUMBER: Final = "Please answer the question using a single word or phrase."
_TABULATED: Final = (
    "overall",
    *(f"{task}_{MRA}" for task in ("object_counting", "object_abs_distance",
                                   "object_size_estimation", "room_size_estimation")),
    *(f"{task}_{ACCURACY}" for task in ("object_rel_distance", DIRECTION, "route_planning",
                                        "obj_appearance_order")),
)  # fmt: skip


def option_texts(options: Sequence[str] | None) -> list[str]:
    """["A. left", "B. right"] -> ["left", "right"]."""
    return [one[2:].strip() if one[1:2] == "." else one for one in options or ()]


def _is_number(doc: Doc) -> bool:
    return doc["question_type"] in NUMBER_TASKS


def _prompt(doc: Doc) -> str:
    if _is_number(doc):
        return "\n".join([_BEFORE, doc["question"], _NUMBER])
    return "\n".join([_BEFORE, doc["question"], "Options:", *doc["options"], _OPTION])


def _parse(scorer: Scorer, doc: Doc, raw: str) -> Parsed:
    if scorer == "strict":
        return strict_number(raw) if _is_number(doc) else (
            strict_letter(raw, option_texts(doc["options"]))
        )  # fmt: skip
    if scorer == "vlmevalkit":
        return match_number(raw) if _is_number(doc) else match_option(raw)
    if not _is_number(doc):
        return first_token(raw)
    return first_number(raw) if scorer == "lmms-eval" else float_or_none(first_token(raw))


def _score(scorer: Scorer, doc: Doc, raw: str) -> float:
    given, gold = _parse(scorer, doc, raw), doc["ground_truth"]
    if not _is_number(doc):
        return _option_score(scorer, given, str(gold))
    truth = float_or_none(gold)
    if not isinstance(given, float) or truth is None:
        return 0.0
    if scorer in ("official", "lmms-eval"):
        return mean_relative_accuracy(given, truth)
    return accuracy_of_error(relative_or_absolute_error(given, truth))


def _option_score(scorer: Scorer, given: Parsed, gold: str) -> float:
    if scorer == "vlmevalkit":  # equal also where neither is found
        return float(given == match_option(gold))
    return float(isinstance(given, str) and given.lower() == gold.lower())


def _rows(_scorer: Scorer, doc: Doc) -> dict[str, Path]:
    task = doc["question_type"]
    merged = DIRECTION if task in DIRECTIONS else task
    inner = (task,) if task in DIRECTIONS else ()
    mean = "numerical" if _is_number(doc) else "multiple choice"
    rows: dict[str, Path] = {"overall": (merged, *inner), mean: (merged, *inner), merged: inner}
    return rows | {task: ()}


def _aggregate(scorer: Scorer, docs: Sequence[Doc], scores: Sequence[float]) -> dict[str, float]:
    if not docs and scorer != "strict":
        raise KeyError("question_type")  # of a table without columns
    by_task: dict[str, list[float]] = {}
    for doc, score in zip(docs, scores, strict=True):
        by_task.setdefault(doc["question_type"], []).append(score)
    found = {
        f"{task}_{MRA if task in NUMBER_TASKS else ACCURACY}": float(np.mean(by_task[task]))
        for task in sorted(by_task)
    }
    kinds = [f"{task}_{ACCURACY}" for task in DIRECTIONS]
    present = [kind for kind in kinds if kind in found]
    merges = {
        "strict": bool(present),
        "lmms-eval": True,
        "official": kinds[0] in present,
        "vlmevalkit": len(present) == len(kinds),
    }
    if merges[scorer]:
        merged = [found.pop(kind) for kind in (present if scorer == "strict" else kinds)]
        found[f"{DIRECTION}_{ACCURACY}"] = sum(merged) / len(merged)
    found["overall"] = sum(found.values()) / len(found) if found else 0.0
    scale = SUITE.scales[scorer]
    return {name: value * scale for name, value in found.items()} if scale != 1 else found


def official_table(found: dict[str, float]) -> tuple[str, str]:
    """The two lines that the benchmark's own code prints: names and values."""
    kept = [name for name in _TABULATED if name in found]
    return ", ".join(kept), ", ".join(f"{found[name]:.3f}" for name in kept)


def lmms_metrics(found: dict[str, float]) -> dict[str, float]:
    """What lmms-eval reports, from its summary: rounded, 0 for a task without questions."""
    names = {f"{task}_{ACCURACY}": f"{task}_accuracy" for task in (*OPTION_TASKS[3:], DIRECTION)}
    names |= {f"{task}_{MRA}": f"{task}_mra" for task in NUMBER_TASKS} | {
        "overall": "vsibench_overall"
    }
    return {theirs: round(found.get(ours, 0.0), 6) for ours, theirs in names.items()}


def _scene(doc: Doc) -> str:
    return f"{doc['dataset']}/{doc['scene_name']}"


def _gold(doc: Doc) -> str:
    gold = str(doc["ground_truth"])
    options = doc.get("options") or ()
    return next((one for one in options if one.startswith(f"{gold}.")), gold)


def _identity(doc: Doc, position: int) -> str:
    """The copy of InternLM/Spatial-SSRL has no ids; there the position is the name."""
    return str(doc.get("id", doc.get("src_index", position)))


def _check(doc: Doc) -> None:
    if _is_number(doc):
        if float_or_none(doc["ground_truth"]) is None:
            raise ValueError(f"ground_truth {doc['ground_truth']!r} is no number")
    elif not doc.get("options") or not all(isinstance(one, str) for one in doc["options"]):
        raise ValueError("no options to choose from")


def _media(doc: Doc) -> tuple[str, ...]:
    return (f"{_scene(doc)}.mp4",)


_FIELDS: tuple[str, ...] = ("dataset", "scene_name", "question_type", "question", "ground_truth")

SUITE: Final[Suite] = Suite(
    name="vsi-bench",
    tasks=(*OPTION_TASKS, *NUMBER_TASKS),
    task_of=lambda doc: doc["question_type"],
    prompt=_prompt,
    template=f"{_BEFORE}\n{{question}}\n[Options:\n{{options}}]\n{_OPTION} | {_NUMBER}",
    identity=_identity,
    check=_check,
    media=_media,
    media_field="",
    video=True,
    scene=_scene,
    gold=_gold,
    required=_FIELDS,
    max_new_tokens=16,
    parse=_parse,
    score=_score,
    rows=_rows,
    aggregate=_aggregate,
    scales={"strict": 100, "official": 100, "lmms-eval": 1, "vlmevalkit": 1},
    order=(
        "numerical",
        *NUMBER_TASKS,
        "multiple choice",
        *OPTION_TASKS[3:],
        DIRECTION,
        *DIRECTIONS,
    ),
    groups=dict.fromkeys(NUMBER_TASKS, "numerical")
    | dict.fromkeys((*OPTION_TASKS, DIRECTION), "multiple choice"),
    numerical=NUMBER_TASKS,
)
