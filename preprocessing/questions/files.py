"""Questions as conversations to learn from, and as a file in VSI-Bench's form."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final

from preprocessing.questions.choices import generator, shuffled
from preprocessing.questions.spec import Asked, QuestionSpec
from preprocessing.questions.wording import prompt
from spa3r.instructions import Instruction, Turn

MIXED: Final = "mixed"
"""Type of a conversation whose questions are not all of one family."""


def conversations(asked: Iterable[Asked], spec: QuestionSpec, source: str) -> Iterator[Instruction]:
    """Questions of one scene, mixed, so many in each conversation as the spec says.

    Args:
        asked: those of a scene together.
        source: name of the set's origin.
    """
    for (dataset, scene), group in itertools.groupby(asked, lambda one: (one.dataset, one.scene)):
        rng = generator(spec.seed, dataset, scene, "conversations")
        size, questions = spec.turns_per_conversation, shuffled(rng, list(group))
        for number, start in enumerate(range(0, len(questions), size)):
            some = questions[start : start + size]
            families = {one.family for one in some}
            turns = [_turns(one, first=not place) for place, one in enumerate(some)]
            yield Instruction(
                id=f"{dataset}/{scene}/{number:04d}",
                source=source,
                media_kind="scan",
                media=(scene,),
                turns=tuple(itertools.chain.from_iterable(turns)),
                question_type=families.pop() if len(families) == 1 else MIXED,
                dataset=dataset,
                scene=scene,
            )


def _turns(one: Asked, *, first: bool) -> tuple[Turn, Turn]:
    question = prompt(one.text, one.options, first=first)
    return Turn(role="user", text=question), Turn(role="assistant", text=one.answer)


def published(asked: Iterable[Asked]) -> Iterator[dict[str, Any]]:
    """Rows with VSI-Bench's fields, numbered from 0."""
    for number, one in enumerate(asked):
        yield {
            "id": number,
            "dataset": one.dataset,
            "scene_name": one.scene,
            "question_type": one.family,
            "question": one.text,
            "options": list(one.options) or None,
            "ground_truth": one.answer,
        }
