"""Before the first step: every video of a mixture is looked at once, and its features are kept.

The teacher runs here and nowhere else. What is finished stays: a killed preparation goes on where
it was, by the features in their store and by <run>/media-<hash>.jsonl.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from torch import Tensor

from spa3r.data.media import MediaReader, training_frames
from spa3r.data.mixture import Mixture
from spa3r.errors import MediaError, TeacherError
from spa3r.instructions import Instruction
from spa3r.plain import config_hash
from spa3r.progress import meter
from spa3r.train.ahead import load_ahead
from spa3r.train.tune_plan import NOTHING, Seen
from spa3r.tune_config import TuneRecipe
from spa3r.vision_input import SceneViews
from spa3r.vlm.batch import Geometry
from spa3r.vlm.features import FeatureStore, content_of, get_geometry, put_geometry, put_images
from spa3r.vlm.processor import Processor

JOURNAL: Final = "media-{}.jsonl"
_GEOMETRY, _IMAGES = "geometry", "images"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stores:
    """Where features are kept; None: that kind is not."""

    geometry: FeatureStore | None
    images: FeatureStore | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Towers:
    """What computes features; None: that kind is not computed before."""

    geometry: Callable[[SceneViews], Geometry] | None
    """The encoder, or its teacher."""
    images: Callable[[Tensor, Tensor], tuple[Tensor, ...]] | None
    """The frozen vision tower: pixel values (P, C) and patches (I, 3) in, (n, H) each out."""


def open_stores(
    folder: str, recipe: TuneRecipe, *, encoder: Mapping[str, str], base: Mapping[str, str]
) -> Stores:
    """The stores that a recipe reads.

    Args:
        encoder, base: what decides what they give: hashes, precision.
    """
    fusion, geometry, images = recipe.vlm.fusion, None, None
    if fusion.kind != "none":
        layers = list(fusion.layers) if fusion.source == "teacher" else []
        made_by = {"kind": _GEOMETRY, "source": fusion.source, "layers": layers, **encoder}
        geometry = FeatureStore(folder, made_by)
    if recipe.train.features == "latents_and_images":
        images = FeatureStore(folder, {"kind": _IMAGES, **base})
    return Stores(geometry=geometry, images=images)


class Videos:
    """Views of the conversations' media, for several threads at a time."""

    def __init__(self, mixture: Mixture, recipe: TuneRecipe) -> None:
        self._mixture, self._vlm = mixture, recipe.vlm
        self._rule = training_frames(recipe.mixture)
        self._mine = threading.local()  # a reader is not for two threads

    def views(self, number: int) -> SceneViews | None:
        """Of a conversation's media; None: it has none. Raises MediaError as MediaReader."""
        return self._reader(self._mixture.media_root(number)).views(
            self._mixture[number], self._vlm, self._rule
        )

    def _reader(self, root: str) -> MediaReader:
        readers: dict[str, MediaReader] = self._mine.__dict__.setdefault("readers", {})
        if root not in readers:
            readers[root] = MediaReader(root)
        return readers[root]


def prepare_features(
    recipe: TuneRecipe,
    mixture: Mixture,
    processor: Processor,
    stores: Stores,
    *,
    journal: Path,
    towers: Callable[[], Towers],
    threads: int = 1,
) -> dict[int, Seen | str]:
    """Looks at every video, computes the features that are missing, with a progress bar.

    Args:
        journal: file of what was looked at already.
        towers: loads them; asked where a video is to be looked at.
        threads: that read media ahead.

    Returns:
        What each conversation of the mixture has to look at, or why it is left out.

    Raises:
        TeacherError: photos, but an encoder that needs depth. ConfigError: no place to write.
    """
    groups = _by_media(mixture)
    notes = _Journal(journal)
    known = {key: notes.seen[key] for key in groups if _is_kept(notes.seen.get(key), stores)}
    waiting = [key for key in groups if key not in known]
    append = recipe.vlm.fusion.kind == "append"
    loaded = towers() if waiting else Towers(geometry=None, images=None)
    videos = Videos(mixture, recipe)

    def read(place: int) -> SceneViews | MediaError | None:
        try:
            return videos.views(groups[waiting[place]][0])
        except MediaError as error:
            return error

    with (
        _quiet("spa3r.encode"),
        meter("features", len(groups), "videos", done=len(known)) as bar,
        load_ahead(read, range(len(waiting)), threads) as found,
    ):
        for key, views in zip(waiting, found, strict=True):
            try:
                seen = _look(views, processor, stores, loaded, append=append)
            except TeacherError as error:
                raise TeacherError(f"{_name(mixture, groups[key][0])}: {error}") from error
            notes.note(key, seen)
            known[key] = seen
            bar.advance(1)
    return {number: known[key] for key, numbers in groups.items() for number in numbers}


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without the line that a module says of each of its pieces of work."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _look(
    views: SceneViews | MediaError | None,
    processor: Processor,
    stores: Stores,
    towers: Towers,
    *,
    append: bool,
) -> Seen | str:
    """Keeps the features of one video; the reason where it cannot be shown."""
    if isinstance(views, MediaError):
        return views.reason
    if views is None:
        return NOTHING
    content = content_of(views)
    images, height, width = views.rgb_VHW3.shape[:3]
    placeholders = 0
    if stores.geometry is not None and towers.geometry is not None:
        if not stores.geometry.has(content):
            put_geometry(stores.geometry, content, towers.geometry(views))
        if append:
            placeholders = len(get_geometry(stores.geometry, content).tokens[0])
    if stores.images is not None and towers.images is not None and not stores.images.has(content):
        _keep_images(stores.images, content, views, processor, towers.images)
    return Seen(
        content=content, images=images, height=height, width=width, placeholders=placeholders
    )


def _keep_images(
    store: FeatureStore,
    content: str,
    views: SceneViews,
    processor: Processor,
    tower: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
) -> None:
    grid_I3 = processor.grid_of(views)
    assert grid_I3 is not None
    put_images(store, content, tower(processor.pixels(views), grid_I3))


def _is_kept(seen: Seen | str | None, stores: Stores) -> bool:
    """Whether a video was looked at and its features are all there. One that could not be shown is
    looked at again: it may have been put there since."""
    if seen is None or isinstance(seen, str):
        return False
    kept = (store for store in (stores.geometry, stores.images) if store is not None)
    return not seen.content or all(store.has(seen.content) for store in kept)


def _by_media(mixture: Mixture) -> dict[str, list[int]]:
    """Numbers of the conversations that look at the same thing, by what that is."""
    groups: dict[str, list[int]] = {}
    for number in range(len(mixture)):
        key = _media_key(mixture[number], mixture.media_root(number))
        groups.setdefault(key, []).append(number)
    return groups


def _name(mixture: Mixture, number: int) -> str:
    return f"{mixture.set_of(number)}/{mixture[number].id}"


def _media_key(one: Instruction, root: str) -> str:
    return config_hash([root, one.media_kind, one.media, [asdict(mark) for mark in one.marks]])


class _Journal:
    """What was looked at, a line each; a line that a killed process has not finished is passed
    over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seen: dict[str, Seen | str] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_bytes().rpartition(b"\n")[0].splitlines() if path.exists() else []
        for line in whole:
            key, found = json.loads(line)
            self.seen[key] = found if isinstance(found, str) else Seen(**found)
        path.write_bytes(b"".join(line + b"\n" for line in whole))

    def note(self, key: str, seen: Seen | str) -> None:
        """Adds a line."""
        with self._path.open("a") as f:
            f.write(json.dumps([key, seen if isinstance(seen, str) else asdict(seen)]) + "\n")
