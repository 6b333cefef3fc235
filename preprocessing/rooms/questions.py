"""Questions about annotated scans, generated rooms first: the eight task families of VSI-Bench.

What is true is read off the annotations: `<scene>.objects.json` beside a scene's frames, whoever
annotated them, and the frames themselves for what is seen and when. preprocessing/questions/ holds
the families and their rules; here is what generated rooms have of their own:

* time: their frames are those of a slow hand-held walk (a step or ten degrees from one to the
  next), but the .sens writer counts 30 of them a second. Two frames count as a second here.
* size: their walls are slabs, and an outline around the mesh is one around the slabs. Their floor
  is what lies between the walls, known from the floor slab, which reaches as far as they do.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np

from preprocessing.questions.draw import SceneQuestions, draw
from preprocessing.questions.facts import SceneFacts, Sight, read_facts
from preprocessing.questions.sight import Frame, shares
from preprocessing.questions.spec import QuestionSpec
from preprocessing.rooms.fixtures import WALL_THICKNESS
from spa3r import storage
from spa3r.guard import GENERATED
from spa3r.schema import OBJECTS_SUFFIX

SECONDS_A_FRAME: Final = 0.5
NO_OBJECTS: Final = "the scene has no annotated objects"
_AT_ONCE: Final = 32  # frames in memory


class Frames(Protocol):
    """What is needed of spa3r.data.shards.FrameTable; several threads use it."""

    def dataset(self, scene: str) -> str:
        """Name of the dataset a scene belongs to."""
        ...

    def shard_url(self, scene: str) -> str:
        """Where its shard lies; its objects lie beside."""
        ...

    def frames(self, scene: str) -> list[int]:
        """Numbers of its kept frames, ascending."""
        ...

    def row(self, scene: str, frame: int) -> dict[str, Any]:
        """A frame's row of the manifest."""
        ...

    def load_frames(self, scene: str, frames: Sequence[int]) -> Sequence[Frame]:
        """The frames, decoded."""
        ...


def objects_urls(table: Frames, scenes: Sequence[str]) -> list[str]:
    """Where the scenes' objects files lie, or would lie."""
    return [table.shard_url(scene).removesuffix(".tar") + OBJECTS_SUFFIX for scene in scenes]


def ask_scenes(
    table: Frames,
    scenes: Sequence[str],
    spec: QuestionSpec,
    *,
    workers: int = 1,
    on_done: Callable[[], None] | None = None,
) -> list[SceneQuestions]:
    """Questions about each of the scenes, in order.

    Args:
        workers: threads.
        on_done: called when a scene is finished.

    Raises:
        FormatError: an objects file is damaged. ShardError: frames are.
    """
    urls = objects_urls(table, scenes)

    def ask(scene: str, url: str, content: bytes | None) -> SceneQuestions:
        found = _ask(table, scene, url, content, spec)
        if on_done is not None:
            on_done()
        return found

    with ThreadPoolExecutor(workers) as pool:
        try:
            return list(pool.map(ask, scenes, urls, storage.read_many(urls)))
        finally:
            pool.shutdown(cancel_futures=True)


def _ask(
    table: Frames, scene: str, url: str, content: bytes | None, spec: QuestionSpec
) -> SceneQuestions:
    dataset = table.dataset(scene)
    facts = None if content is None else read_facts(content, url, scene=scene, dataset=dataset)
    if facts is None or not facts.things:
        rejected = Counter({(family, NO_OBJECTS): 1 for family in spec.families})
        return SceneQuestions(scene=scene, dataset=dataset, drawn=(), rejected=rejected)
    if dataset == GENERATED:
        facts = replace(facts, room_size=floor_between_walls(facts))
    return draw(replace(facts, sight=_sight(table, facts)), spec)


def floor_between_walls(facts: SceneFacts) -> float | None:
    """Square metres of a generated room's floor; None: nothing is annotated as its floor."""
    floors = [thing.box for thing in facts.structure if thing.category == "floor"]
    if len(floors) != 1:
        return None
    return float((floors[0].level_lengths_2 - 2 * WALL_THICKNESS).prod())


def _sight(table: Frames, facts: SceneFacts) -> Sight | None:
    """What the scene's kept frames see of its things; None: they lack depth, labels or cameras."""
    frames = table.frames(facts.scene)
    share_FT = shares(
        _loaded(table, facts.scene, frames), facts.things, facts.aligned_from_world_44
    )
    if share_FT is None:
        return None
    return Sight(share_FT=share_FT, seconds_F=_seconds(table, facts, frames))


def _loaded(table: Frames, scene: str, frames: Sequence[int]) -> Iterator[Frame]:
    for start in range(0, len(frames), _AT_ONCE):
        yield from table.load_frames(scene, frames[start : start + _AT_ONCE])


def _seconds(table: Frames, facts: SceneFacts, frames: Sequence[int]) -> np.ndarray | None:
    """(F,) when each frame was taken; None: a frame has no timestamp."""
    if facts.dataset == GENERATED:
        return np.array(frames) * SECONDS_A_FRAME
    times_F = np.array([table.row(facts.scene, frame)["timestamp_us"] for frame in frames])
    return times_F / 1e6 if (times_F >= 0).all() else None
