"""SPAR-Bench: twenty tasks about one or several views; options, numbers and camera motion.

Overall is the unweighted mean of the tasks. The references, and what is wrong with them:

- official: an option is right if the answer is the target, is part of it ("" is part of everything)
  or has it as its first character. A number loses its sign; of several views the last number
  counts, of one view the first. The error of a view change is divided by the prediction, as its
  arguments are swapped, and view_change_infer is missing from the middle level, by a slip in names.
- lmms-eval 0.7.3: the same, but every numeric task scores 0: it lost an import and catches the
  error.
- vlmevalkit: divides by the ground truth and has all levels, but equals two answers without letter.
- strict: an answer is read as spa3r/eval/strict_answers.py says, sentences are compared whole, a
  negative number is negative, errors are divided by the ground truth, every level has its tasks.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from spa3r.eval.mra import accuracy_of_error, relative_or_absolute_error
from spa3r.eval.option_matcher import match_number, match_option
from spa3r.eval.reference_answers import float_or_none, unsigned_number
from spa3r.eval.strict_answers import answer_text, same_text, strict_letter, strict_number
from spa3r.eval.suite_rules import Doc, Parsed, Path, Scorer, Suite, row_scores

NUMBER_TASKS: Final = (
    "depth_prediction_oc", "depth_prediction_oo", "distance_prediction_oc",
    "distance_prediction_oo", "depth_prediction_oc_mv", "depth_prediction_oo_mv",
    "distance_prediction_oo_mv", "distance_prediction_oc_mv",
)  # fmt: skip
VIEW_CHANGE: Final = "view_change_infer"
BOX_TASKS: Final = ("position_matching", "camera_motion_infer")
HIGH: Final = (
    "obj_spatial_relation_oo", "obj_spatial_relation_oc_mv", "obj_spatial_relation_oo_mv",
    "spatial_imagination_oc", "spatial_imagination_oo", "spatial_imagination_oc_mv",
    "spatial_imagination_oo_mv", "distance_infer_center_oo", "distance_infer_center_oo_mv",
)  # fmt: skip
OPTION_TASKS: Final = (*HIGH, *BOX_TASKS)
LEVELS: Final = {"low": NUMBER_TASKS, "middle": (VIEW_CHANGE, *BOX_TASKS), "high": HIGH}
_AXES: Final = (
    ("move_right", "move_left"),
    ("move_up", "move_down"),
    ("move_forward", "move_backward"),
    ("rotate_right", "rotate_left"),
    ("rotate_up", "rotate_down"),
)
_METRICS: Final[dict[str, str]] = (
    dict.fromkeys(OPTION_TASKS, "accuracy")
    | dict.fromkeys(NUMBER_TASKS, "MRA:.5:.95:.05")
    | {VIEW_CHANGE: "vci_metric"}
)
_NUMBER: Final = "Please answer the question using a single word or phrase."
_OPTION: Final = "Answer with the option's letter from the given choices directly."
_BOXES: Final = (
    "The values represent the bounding box coordinates normalized to a 0-1000 scale, with the"
    " top-left corner as the origin of the image."
)
_MOTION: Final = re.compile(r"(move|rotate)_([a-z]+)\s*[:=]\s*([-+]?(?:\d+(?:\.\d+)?|\.\d+))")

Motion = dict[str, float]


def _prompt(doc: Doc) -> str:
    task = doc["task"]
    if task in NUMBER_TASKS:
        return f"\n{doc['question']}\n{_NUMBER}"
    if task == VIEW_CHANGE:
        return f"\n{doc['question']}\n\n"
    return f"\n{doc['question']}\n{_BOXES if task in BOX_TASKS else ''}\n{_OPTION}"


def options_of(question: str) -> list[str]:
    """The lines "A. ...", "B. ..." of a question, in order, without their letters."""
    found: list[str] = []
    for line in question.splitlines():
        label = f"{chr(ord('A') + len(found))}."
        if line.strip().startswith(label):
            found.append(line.strip()[len(label) :].strip())
    return found


def _parse(scorer: Scorer, doc: Doc, raw: str) -> Parsed:
    task = doc["task"]
    if task == VIEW_CHANGE:
        return raw if _READERS[scorer](raw) else None
    if task in NUMBER_TASKS:
        if scorer == "strict":
            return strict_number(raw)
        if scorer == "vlmevalkit":
            return match_number(raw)
        several = task.endswith("_mv")
        found = unsigned_number(raw, last=several)
        return -1.0 if found is None and several else found
    if scorer == "strict":
        return _strict_option(doc, raw)
    return match_option(raw) if scorer == "vlmevalkit" else raw


def _strict_option(doc: Doc, raw: str) -> Parsed:
    """A letter where the target is one; else the sentence."""
    if len(doc["answer"]) == 1:
        return strict_letter(raw, options_of(doc["question"]) or [""] * 4)
    return answer_text(raw)


def _score(scorer: Scorer, doc: Doc, raw: str) -> float:
    task, target = doc["task"], doc["answer"]
    if task in NUMBER_TASKS:
        return _number_score(scorer, _parse(scorer, doc, raw), float_or_none(target))
    if task == VIEW_CHANGE:
        return _view_change_score(scorer, raw, target)
    if scorer == "vlmevalkit":  # equal also where neither is found
        return float(match_option(raw) == match_option(target))
    if scorer == "strict":
        given = _parse(scorer, doc, raw)
        return float(isinstance(given, str) and same_text(given, target))
    given, wanted = raw.lower(), target.lower()
    return float(given in wanted or given[0] == wanted)


def _number_score(scorer: Scorer, given: Parsed, truth: float | None) -> float:
    if scorer == "lmms-eval" or truth is None or not isinstance(given, float):
        return 0.0
    return accuracy_of_error(relative_or_absolute_error(given, truth))


def _view_change_score(scorer: Scorer, raw: str, target: str) -> float:
    """Mean over five axes. 0 where the scorer cannot read one of the two."""
    read = _READERS[scorer]
    given, wanted = read(raw), read(target)
    if given is None or wanted is None:
        return 0.0
    pairs = zip(_signed(given), _signed(wanted), strict=True)
    swapped = scorer in ("official", "lmms-eval")
    errors = [relative_or_absolute_error(*((w, g) if swapped else (g, w))) for g, w in pairs]
    return float(np.mean([accuracy_of_error(error) for error in errors]))


def _signed(motion: Motion) -> list[float]:
    return [motion.get(there, 0.0) - motion.get(back, 0.0) for there, back in _AXES]


def _official_motion(text: str) -> Motion | None:
    """Every part must be "key:value"; spaces are part of a key."""
    pairs = [part.split(":") for part in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        return None
    values = [float_or_none(value) for _, value in pairs]
    if None in values:
        return None
    return {key: value for (key, _), value in zip(pairs, values, strict=True) if value is not None}


def _lenient_motion(text: str) -> Motion:
    """Parts that are no "key: value" are left out."""
    pairs = [part.partition(":") for part in text.split(",")]
    read = {key.strip(): float_or_none(value.strip()) for key, colon, value in pairs if colon}
    return {key: value for key, value in read.items() if value is not None}


def _strict_motion(text: str) -> Motion | None:
    """The motions that an answer names, in any case and order; None where it names none of them, or
    one of them twice and differently."""
    said = answer_text(" ".join(text.split())).lower()
    found: Motion = {}
    for kind, way, value in _MOTION.findall(said):
        if found.setdefault(f"{kind}_{way}", float(value)) != float(value):
            return None
    return found if found.keys() & {name for axis in _AXES for name in axis} else None


_READERS: Final[dict[Scorer, Callable[[str], Motion | None]]] = {
    "strict": _strict_motion,
    "official": _official_motion,
    "lmms-eval": _official_motion,
    "vlmevalkit": _lenient_motion,
}


def _rows(scorer: Scorer, doc: Doc) -> dict[str, Path]:
    task = doc["task"]
    lost = task == VIEW_CHANGE and scorer in ("official", "lmms-eval")
    levels = {level: (task,) for level, tasks in LEVELS.items() if task in tasks and not lost}
    return {"overall": (task,)} | levels | {task: ()}


def _aggregate(scorer: Scorer, docs: Sequence[Doc], scores: Sequence[float]) -> dict[str, float]:
    if scorer == "strict":
        return row_scores(SUITE, scorer, docs, scores) if docs else {"overall": 0.0}
    if not docs and scorer != "vlmevalkit":
        raise KeyError("task")  # of a table without columns
    found = task_means(docs, scores)
    overall = sum(found.values()) / len(found) if found else 0.0
    all_levels = scorer == "vlmevalkit"
    return found | {"overall": overall} | level_means(found, with_view_change=all_levels)


def metric_of(task: str) -> str:
    """Name of what a task is scored by."""
    return _METRICS[task]


def task_means(docs: Sequence[Doc], scores: Sequence[float]) -> dict[str, float]:
    """Mean score of each task there is, in the order of their names, named with their metric."""
    by_task: dict[str, list[float]] = {}
    for doc, score in zip(docs, scores, strict=True):
        by_task.setdefault(doc["task"], []).append(score)
    return {f"{task}_{_METRICS[task]}": float(np.mean(by_task[task])) for task in sorted(by_task)}


def level_means(found: dict[str, float], *, with_view_change: bool) -> dict[str, float]:
    """Mean of the tasks of each level, 0 for a level without tasks.

    Args:
        found: as `task_means` returns it.
        with_view_change: as was meant; the benchmark's own code and lmms-eval lose that task.
    """
    lost = () if with_view_change else (VIEW_CHANGE,)
    means: dict[str, float] = {}
    for level, tasks in LEVELS.items():
        names = {f"{task}_{_METRICS[task]}" for task in tasks if task not in lost}
        values = [value for name, value in found.items() if name in names]
        means[level] = float(np.mean(values)) if values else 0.0
    return means


def _check(doc: Doc) -> None:
    if not isinstance(doc["image"], list) or not doc["image"]:
        raise ValueError("image is no list of images")
    if doc["task"] in NUMBER_TASKS and float_or_none(doc["answer"]) is None:
        raise ValueError(f"answer {doc['answer']!r} is no number")
    if doc["task"] == VIEW_CHANGE and _official_motion(doc["answer"]) is None:
        raise ValueError(f"answer {doc['answer']!r} is no list of motions")


def _scene(doc: Doc) -> str:
    """The scan, where paths of images or the item tell it; else the first image."""
    images = doc["image"]
    first = images[0] if images else str(doc["id"])
    found = re.search(r"(scene\d{4}_\d\d|scene_\d{5})", first)
    return found.group(1) if found else first


SUITE: Final[Suite] = Suite(
    name="spar-bench",
    tasks=(*NUMBER_TASKS, VIEW_CHANGE, *OPTION_TASKS),
    task_of=lambda doc: doc["task"],
    prompt=_prompt,
    template=f"{{question}}\n[{_BOXES}]\n{_OPTION} | {_NUMBER}",
    identity=lambda doc, _position: f"{doc['task']}-{doc['id']}",
    check=_check,
    media_field="image",
    media=lambda doc: tuple(doc["image"]),
    video=False,
    scene=_scene,
    gold=lambda doc: doc["answer"],
    required=("id", "task", "image", "answer", "question"),
    max_new_tokens=100,
    parse=_parse,
    score=_score,
    rows=_rows,
    aggregate=_aggregate,
    scales={"strict": 100, "official": 1, "lmms-eval": 1, "vlmevalkit": 1},
    order=tuple(name for level, tasks in LEVELS.items() for name in (level, *tasks)),
    groups={
        task: "multiple choice" if metric == "accuracy" else "numerical"
        for task, metric in _METRICS.items()
    },
    numerical=(*NUMBER_TASKS, VIEW_CHANGE),
)
