"""CV-Bench: counting and relation in 2D, depth order and relative distance in 3D, by option.

"official" is the published formula, (2D + 3D) / 2 with 2D the mean of ADE20K and COCO, over answers
read as lmms-eval reads them; it raises where a source is missing. lmms-eval and VLMEvalKit give the
share of right answers. "strict" is the published formula over what sources there are.
lmms-eval takes the first letter of the text, whatever word it begins: "The answer is B" is T.
Its prompt names at most the letters A to E; ours names F too where an item has six choices.
"""

from collections.abc import Sequence
from typing import Final

from spa3r.eval.option_matcher import match_option
from spa3r.eval.reference_answers import first_letter
from spa3r.eval.strict_answers import strict_letter
from spa3r.eval.suite_rules import Doc, Parsed, Path, Scorer, Suite, row_scores

SOURCES: Final = {"ADE20K": "2D", "COCO": "2D", "Omni3D": "3D"}
TASKS: Final = ("Count", "Relation", "Depth", "Distance")
_BEFORE: Final = (
    "Note: You only need to respond with {letters} without providing any additional information.\n"
)


def _prompt(doc: Doc) -> str:
    letters = ", ".join(chr(ord("A") + at) for at in range(len(doc["choices"])))
    return f"{_BEFORE.format(letters=letters)}\n{doc['prompt']}"


def _gold_letter(doc: Doc) -> str:
    return doc["answer"].strip("()")


def _parse(scorer: Scorer, doc: Doc, raw: str) -> Parsed:
    if scorer == "strict":
        return strict_letter(raw, [str(one) for one in doc["choices"]])
    return match_option(raw) if scorer == "vlmevalkit" else first_letter(raw)


def _score(scorer: Scorer, doc: Doc, raw: str) -> float:
    given = _parse(scorer, doc, raw)
    gold = match_option(doc["answer"]) if scorer == "vlmevalkit" else _gold_letter(doc)
    return float(given == gold)


def _rows(scorer: Scorer, doc: Doc) -> dict[str, Path]:
    kind = SOURCES[doc["source"]]
    by_source = scorer in ("strict", "official")
    overall = (kind, doc["source"]) if by_source else ()
    return {
        "overall": overall,
        kind: (doc["source"],) if by_source else (),
        doc["task"]: (),
        doc["source"]: (),
    }


def _aggregate(scorer: Scorer, docs: Sequence[Doc], scores: Sequence[float]) -> dict[str, float]:
    if scorer == "strict":
        return row_scores(SUITE, scorer, docs, scores) if docs else {"overall": 0.0}
    found = breakdown(docs, scores)
    if scorer == "official":
        by_source = {
            source: found[key] for source in SOURCES if (key := f"source:{source}") in found
        }
        ade, coco, omni = (by_source[source] for source in SOURCES)
        return found | {"overall": 1 / 2 * ((ade + coco) / 2 + omni)}
    return found | {"overall": sum(scores) / len(scores) if scores else 0}


def breakdown(docs: Sequence[Doc], scores: Sequence[float]) -> dict[str, float]:
    """Mean score by "source:...", "task:..." and "type:..."."""
    found: dict[str, list[float]] = {}
    for doc, score in zip(docs, scores, strict=True):
        for key in ("source", "task", "type"):
            found.setdefault(f"{key}:{doc[key]}", []).append(score)
    return {name: sum(some) / len(some) for name, some in sorted(found.items())}


def _identity(doc: Doc, position: int) -> str:
    return f"{doc['type']}-{doc.get('idx', position)}"


def _check(doc: Doc) -> None:
    if doc["source"] not in SOURCES:
        raise ValueError(f"unknown source {doc['source']!r}")
    if not isinstance(doc["choices"], list) or not doc["choices"]:
        raise ValueError("no choices to choose from")


def _media(doc: Doc) -> tuple[str, ...]:
    """One name, or a list of one where the image stood in the question file."""
    found = doc["filename"]
    return (found,) if isinstance(found, str) else tuple(found)


def _gold(doc: Doc) -> str:
    letter = _gold_letter(doc)
    at = ord(letter[:1] or "?") - ord("A")
    choices = doc["choices"]
    return f"{letter}. {choices[at]}" if 0 <= at < len(choices) else letter


SUITE: Final = Suite(
    name="cv-bench",
    tasks=TASKS,
    task_of=lambda doc: doc["task"],
    prompt=_prompt,
    template=f"{_BEFORE}\n{{prompt}}",
    identity=_identity,
    check=_check,
    media=_media,
    media_field="filename",
    video=False,
    scene=lambda doc: _media(doc)[0],
    gold=_gold,
    required=("type", "task", "choices", "answer", "prompt", "filename", "source"),
    max_new_tokens=16,
    parse=_parse,
    score=_score,
    rows=_rows,
    aggregate=_aggregate,
    scales={"strict": 100, "official": 1, "lmms-eval": 1, "vlmevalkit": 1},
    order=("2D", "3D", *TASKS, *SOURCES),
    groups=dict.fromkeys((*TASKS, *SOURCES), "multiple choice"),
    numerical=(),
)
