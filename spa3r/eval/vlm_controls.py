"""The three controls of a Spa3-VLM: what it would answer without pictures, without geometry, and
with the geometry of another scene."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from spa3r.errors import ConfigError
from spa3r.eval.suite import METHODS, Method, Question
from spa3r.instructions import Turn

if TYPE_CHECKING:
    from spa3r.vlm.batch import Geometry
    from spa3r.vlm.processor import ImageFeatures
    from spa3r.vlm.spa3_vlm import Request, Spa3VLM

CONTROLS: Final = METHODS[1:]
PER_PATCH: Final = ("add", "deep_stack")
"""Fusions that need one geometry token for each image token."""


def scene_cycle(questions: Sequence[Question], *, seed: int = 0) -> list[str]:
    """All scenes once, in a drawn order: each is given the geometry of the one behind it, the last
    that of the first. With two scenes or more none is given its own."""
    scenes = sorted({question.scene for question in questions})
    rng = np.random.Generator(np.random.PCG64(seed))
    return [scenes[int(i)] for i in rng.permutation(len(scenes))]


def methods_of(vlm: "Spa3VLM", scenes: int, *, controls: bool) -> tuple[Method, ...]:
    """The methods that say something of this model.

    Args:
        scenes: how many there are; of one no geometry can be shuffled.
    """
    if not controls:
        return METHODS[:1]
    if vlm.geometry is None:
        return ("model", "blind")
    return METHODS if scenes > 1 else ("model", "blind", "no_geometry")


def request_of(
    method: Method,
    question: Question,
    images: "ImageFeatures | None",
    own: "Geometry | None",
    other: "Geometry | None",
) -> "Request":
    """A question as a method puts it.

    Args:
        images: the vision tower's tokens of the question's media; the blind ones need none.
        own, other: geometry of these media, and of another scene; None where none enters.
    """
    from spa3r.vlm.spa3_vlm import Request

    turns = (Turn(role="user", text=question.prompt),)
    if method == "blind":
        return Request(turns=turns, use_geometry=False)
    if method == "shuffled":
        return Request(turns=turns, views=images, geometry=other)
    use = method == "model" and own is not None
    return Request(turns=turns, views=images, geometry=own, use_geometry=use)


def check_exchange(vlm: "Spa3VLM", own: "Geometry", other: "Geometry") -> None:
    """Raises ConfigError where a fusion patch by patch cannot take another scene's geometry."""
    shapes = [(one.views, one.grid_hw) for one in (own, other)]
    if vlm.card.vlm.fusion.kind in PER_PATCH and shapes[0] != shapes[1]:
        raise ConfigError(
            f"fusion {vlm.card.vlm.fusion.kind} cannot take the geometry of a scene of another size"
            f" ({shapes[0]} and {shapes[1]} views and patches): evaluate with --no-controls"
        )
