"""ViewSpatial-Bench: directions and orientations from the camera's and from a person's view.

Overall is the share of right answers. The benchmark's own code and lmms-eval are one rule: the
first of A to D that stands alone in the last line, the article "a" too; a last line that is empty
has no answer. Where the item's own answer has no letter, an answer without one is right.
"""

import re
from collections.abc import Sequence
from typing import Final

from spa3r.eval.option_matcher import match_option
from spa3r.eval.reference_answers import standalone_letter
from spa3r.eval.strict_answers import strict_letter
from spa3r.eval.suite_rules import Doc, Parsed, Path, Scorer, Suite, row_scores

TASKS: Final = (
    "Camera perspective - Relative Direction",
    "Camera perspective - Object View Orientation",
    "Person perspective - Relative Direction",
    "Person perspective - Object View Orientation",
    "Person perspective - Scene Simulation Relative Direction",
)
_REPLY: Final = "Reply only to the corresponding option.\nAnswer:"


def options_of(choices: str) -> list[str]:
    """Of "A. left" and "B. right" on two lines -> ["left", "right"]."""
    return [re.sub(r"^\s*[A-Z]\.\s*", "", line) for line in choices.splitlines() if line.strip()]


def _prompt(doc: Doc) -> str:
    return f"Question: {doc['question']}\nChoices: {doc['choices']}\n{_REPLY}"


def _parse(scorer: Scorer, doc: Doc, raw: str) -> Parsed:
    if scorer == "strict":
        return strict_letter(raw, options_of(doc["choices"]))
    return match_option(raw) if scorer == "vlmevalkit" else standalone_letter(raw.split("\n")[-1])


def _score(scorer: Scorer, doc: Doc, raw: str) -> float:
    given = _parse(scorer, doc, raw)
    if scorer == "vlmevalkit":
        return float(given == match_option(doc["answer"]))
    gold = standalone_letter(doc["answer"])
    return float(given == gold and (given is not None or scorer != "strict"))


def _rows(_scorer: Scorer, doc: Doc) -> dict[str, Path]:
    return {"overall": (), doc["question_type"]: ()}


def metric_name(task: str) -> str:
    """ "Camera perspective - Relative Direction" -> lmms-eval's name of its accuracy."""
    return task.lower().replace(" - ", "_").replace(" ", "_") + "_accuracy"


def _aggregate(scorer: Scorer, docs: Sequence[Doc], scores: Sequence[float]) -> dict[str, float]:
    if scorer in ("strict", "vlmevalkit"):
        return row_scores(SUITE, scorer, docs, scores) if docs else {"overall": 0.0}
    found = {"overall": sum(scores) / len(scores) if scores else 0.0}
    for task in TASKS:
        of_task = [s for doc, s in zip(docs, scores, strict=True) if doc["question_type"] == task]
        found[metric_name(task)] = sum(of_task) / len(of_task) if of_task else 0.0
    return found


def _check(doc: Doc) -> None:
    if not isinstance(doc["image_path"], list) or not doc["image_path"]:
        raise ValueError("image_path is no list of images")
    if standalone_letter(doc["answer"]) is None:
        raise ValueError(f"answer {doc['answer']!r} names no option")


def _scene(doc: Doc) -> str:
    """The scan's folder, or the one image."""
    images = doc["image_path"]
    first = images[0] if images else ""
    found = re.search(r"(scene\d{4}_\d\d)", first)
    return found.group(1) if found else first


SUITE: Final = Suite(
    name="view-spatial",
    tasks=TASKS,
    task_of=lambda doc: doc["question_type"],
    prompt=_prompt,
    template=f"Question: {{question}}\nChoices: {{choices}}\n{_REPLY}",
    identity=lambda doc, position: str(doc.get("id", doc.get("src_index", position))),
    check=_check,
    media_field="image_path",
    media=lambda doc: tuple(doc["image_path"]),
    video=False,
    scene=_scene,
    gold=lambda doc: doc["answer"],
    required=("question_type", "image_path", "question", "answer", "choices"),
    max_new_tokens=16,
    parse=_parse,
    score=_score,
    rows=_rows,
    aggregate=_aggregate,
    scales={"strict": 100, "official": 1, "lmms-eval": 1, "vlmevalkit": 100},
    order=TASKS,
    groups=dict.fromkeys(TASKS, "multiple choice"),
    numerical=(),
)
