"""From a scene's facts to its questions, family by family; letters are given out at the end."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from preprocessing.questions import numbers, relations, wording
from preprocessing.questions.choices import generator, shuffled
from preprocessing.questions.facts import SceneFacts
from preprocessing.questions.order import appearance_order
from preprocessing.questions.relations import LEVELS, direction
from preprocessing.questions.routes import routes
from preprocessing.questions.spec import (
    CLOSEST,
    COUNTING,
    DISTANCE,
    ORDER,
    ROOM_SIZE,
    ROUTE,
    SIZE,
    Asked,
    Drawn,
    QuestionSpec,
)

LETTERS: Final = "ABCD"
_Family = Callable[[SceneFacts, np.random.Generator], Iterator[Drawn | str]]
_FAMILIES: Final[dict[str, _Family]] = {
    COUNTING: numbers.counting,
    DISTANCE: numbers.far_apart,
    SIZE: numbers.size,
    ROOM_SIZE: numbers.room_size,
    CLOSEST: relations.closest,
    **{family: partial(direction, family) for family in LEVELS},
    ROUTE: routes,
    ORDER: appearance_order,
}
"""Each yields a question, or why a candidate is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneQuestions:
    """What was drawn about one scene: (family, question), and (family, reason) of candidates that
    were not asked."""

    scene: str
    dataset: str
    drawn: tuple[tuple[str, Drawn], ...]
    rejected: Counter[tuple[str, str]]


def draw(facts: SceneFacts, spec: QuestionSpec) -> SceneQuestions:
    """Questions about one scene. They depend on the spec, the scene and nothing else."""
    drawn: list[tuple[str, Drawn]] = []
    rejected: Counter[tuple[str, str]] = Counter()
    for family in spec.families:
        rng = generator(spec.seed, facts.dataset, facts.scene, family)
        wanted = spec.per_family_per_scene
        for outcome in _FAMILIES[family](facts, rng):
            if isinstance(outcome, str):
                rejected[family, outcome] += 1
                continue
            drawn.append((family, outcome))
            wanted -= 1
            if not wanted:
                break
    return SceneQuestions(
        scene=facts.scene, dataset=facts.dataset, drawn=tuple(drawn), rejected=rejected
    )


def give_letters(scenes: Iterable[SceneQuestions], spec: QuestionSpec) -> Iterator[Asked]:
    """The questions with options in order. Among those of a family with as many options, the right
    one stands equally often at every letter, give or take one."""
    decks: dict[tuple[str, int], list[int]] = {}
    for scene in scenes:
        for number, (family, question) in enumerate(scene.drawn):
            rng = generator(spec.seed, scene.dataset, scene.scene, family, number, "options")
            texts, answer = (), question.truth
            if count := len(question.wrong):
                deck = decks.setdefault((family, count), [])
                if not deck:
                    deck += shuffled(rng, range(count + 1))
                place = deck.pop()
                wrong = shuffled(rng, question.wrong)
                texts = (*wrong[:place], question.truth, *wrong[place:])
                answer = LETTERS[place]
            yield Asked(
                scene=scene.scene, dataset=scene.dataset, family=family, answer=answer,
                text=question.text.replace(wording.CHOICES, ", ".join(texts)),
                options=tuple(f"{a}. {text}" for a, text in zip(LETTERS, texts, strict=False)),
            )  # fmt: skip
