"""obj_appearance_order: in which order a video first shows categories."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import numpy as np

from preprocessing.questions import wording
from preprocessing.questions.choices import ordered_choices
from preprocessing.questions.facts import SIMILAR, STRUCTURAL, UNSEEN, SceneFacts, is_ambiguous
from preprocessing.questions.spec import Drawn

GAP: Final = 1.0
"""Seconds between two categories' first appearances, at least."""
CLEAR: Final = 0.005
"""Share of a frame's pixels from which on a category is there for everyone."""
GLIMPSED: Final = 0.0005
"""Share below which it is not there at all. In between its first appearance may be argued about, so
nothing else may appear in that time."""

NO_SIGHT: Final = "the frames lack depth, labels, intrinsics or poses"
NO_TIMES: Final = "the frames have no timestamps"
TOO_FEW: Final = "fewer than four categories are seen"
TOO_SOON: Final = "two first appearances within 1 s"
_OPTIONS: Final = 4


def appearance_order(facts: SceneFacts, rng: np.random.Generator) -> Iterator[Drawn | str]:
    """Four categories, of any number of instances, that appear one after the other."""
    sight = facts.sight
    if sight is None or sight.seconds_F is None:
        yield NO_SIGHT if sight is None else NO_TIMES
        return
    spans, dropped = _appearances(facts, sight.share_FT, sight.seconds_F)
    yield from dropped
    if len(spans) < _OPTIONS:
        yield TOO_FEW
        return
    known: set[frozenset[str]] = set()
    for names in ordered_choices(rng, list(spans), _OPTIONS):
        if frozenset(names) in known:
            continue
        known.add(frozenset(names))
        right = sorted(names, key=lambda name: spans[name])
        gaps = [spans[b][0] - spans[a][1] for a, b in pairwise(right)]
        if min(gaps) < GAP:
            yield TOO_SOON
            continue
        wrong = {tuple(right)}
        while len(wrong) < _OPTIONS:
            wrong.add(tuple(names[i] for i in rng.permutation(len(names))))
        yield Drawn(
            text=wording.order(names), truth=", ".join(right),
            wrong=tuple(sorted(", ".join(one) for one in wrong - {tuple(right)})),
        )  # fmt: skip


def _appearances(
    facts: SceneFacts, share_FT: np.ndarray, seconds_F: np.ndarray
) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """Of each category when something of it is first glimpsed and when it is first seen well; and
    why other categories are not asked about."""
    categories = facts.by_category
    spans: dict[str, tuple[float, float]] = {}
    dropped = [STRUCTURAL] * len(facts.structure)
    for category, places in categories.items():
        share_F = share_FT[:, places].sum(axis=1)
        if is_ambiguous(category, categories):
            dropped.append(SIMILAR)
        elif not (share_F >= CLEAR).any():
            dropped.append(UNSEEN)
        else:
            glimpsed, seen = (int((share_F >= least).argmax()) for least in (GLIMPSED, CLEAR))
            spans[category] = (float(seconds_F[glimpsed]), float(seconds_F[seen]))
    return spans, dropped
