"""What a run trains on: a source of targets and what must be known about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from spa3r.config import Recipe, TeacherSpec
from spa3r.data.answers import grid_of
from spa3r.data.batch import ClipBatch, TargetSource
from spa3r.data.cached import CachedTargets
from spa3r.data.clips import Clip
from spa3r.data.online import HybridTargets, OnlineTargets
from spa3r.data.packed import PackedTargets
from spa3r.data.shards import FrameTable
from spa3r.data.stored import StoredTargets
from spa3r.errors import ConfigError, TeacherError
from spa3r.plain import config_hash, to_dict
from spa3r.teachers.base import GeometricTeacher, SemanticTeacher
from spa3r.teachers.build import build_geometric, build_linguistic, build_semantic


@dataclass(frozen=True, kw_only=True)
class DataPlaces:
    """Where a run finds its data, as paths or fsspec URLs; can be sent to another machine."""

    targets: str
    """Of the training split; every source needs its manifest and statistics."""
    held_out: str = ""
    """Targets of the held-out split, for validation; empty: none."""
    frames: str = ""
    """Frame shards, of `online` and `hybrid`."""
    packed: str = ""
    """Sequential shards, of `packed`."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Targets with their statistics, hashes and teachers."""

    source: TargetSource
    stats: Mapping[str, Tensor] | None
    """<kind>_mean and <kind>_std of each kind of token over the training targets."""
    target_hash: str
    data_hash: str
    references: dict[str, dict[str, str]]
    """What an encoder records of its teachers: "geometric", "semantic", "linguistic"."""
    held_out: TargetSource | None = None
    """Stored targets of all views; a damaged clip among them is an error, whatever the policy: two
    encoders must be measured on the same clips."""
    order_hash: str = ""
    """What besides the clips decides their order: how sequential shards were cut."""


def open_data(
    places: DataPlaces | str | TargetSource, recipe: Recipe, *, device: torch.device | str = "cpu"
) -> TrainingData:
    """Opens what the recipe's data.source names, or takes a source as it is.

    Teachers in the loop are loaded when the first batch is asked for: whoever only wants to know
    what a run is needs none. They must be those that the targets' manifest names.

    A source that is not stored may say what it knows as attributes `stats`, `references`,
    `target_hash` and `data_hash`; its clips identify it otherwise.

    Args:
        places: a text is the folder of the training targets.
        device: where teachers in the loop compute.

    Raises:
        ConfigError: the targets were made by other teachers than the recipe's or of other frames,
            hold too little for the source, or a place is lacking.
        ShardError: no finished targets there.
    """
    if isinstance(places, str):
        places = DataPlaces(targets=places)
    if not isinstance(places, DataPlaces):
        return _given(places, recipe)
    targets = _fitting(StoredTargets(places.targets), recipe)
    held_out = None
    if places.held_out:
        held_out = CachedTargets(places.held_out)
        _fitting(held_out, recipe)
    source, order_hash = _source(places, targets, recipe, device)
    return TrainingData(
        source=source,
        stats=targets.stats,
        target_hash=targets.target_hash,
        data_hash=targets.data_hash,
        references={role: ref for role, ref in targets.references.items() if ref is not None},
        held_out=held_out,
        order_hash=order_hash,
    )


def _given(source: TargetSource, recipe: Recipe) -> TrainingData:
    clips = config_hash([clip.id for clip in source.clips])
    references = getattr(source, "references", None)
    if references is None:
        references = {"geometric": build_geometric(recipe.teacher).reference()}
    return TrainingData(
        source=source,
        stats=getattr(source, "stats", None),
        target_hash=getattr(source, "target_hash", clips),
        data_hash=getattr(source, "data_hash", clips),
        references=references,
    )


def _fitting(targets: StoredTargets, recipe: Recipe) -> StoredTargets:
    """Raises ConfigError unless the recipe's teachers made them, and the statistics of as many
    drawn clips."""
    # As specs, not as stored: a manifest older than a setting means that setting's default.
    if targets.spec != recipe.teacher:
        made_by, wanted = to_dict(targets.spec), to_dict(recipe.teacher)
        names = sorted(key for key in wanted if made_by[key] != wanted[key])
        raise ConfigError(
            f"{targets.folder}: targets of another teacher ({', '.join(names)} differ); run"
            f" `spa3r targets --recipe {recipe.name}`"
        )
    drawn = recipe.data.stored != "clips" and targets.stored in ("frames", "statistics")
    wanted, made = recipe.data.statistics_clips, targets.manifest.get("statistics_clips")
    if drawn and made != wanted:
        raise ConfigError(
            f"{targets.folder}: statistics of {made} drawn clips, data.statistics_clips is"
            f" {wanted}; run `spa3r targets --recipe {recipe.name}` with the same settings"
        )
    return targets


# --- sources --------------------------------------------------------------------------------------


def _source(
    places: DataPlaces, targets: StoredTargets, recipe: Recipe, device: torch.device | str
) -> tuple[TargetSource, str]:
    """The source that the recipe names, and what decides its order besides the clips."""
    kind, views, poisoned = recipe.data.source, recipe.loss.views, recipe.data.poisoned
    pin = torch.device(device).type == "cuda"
    if kind == "cached":
        return CachedTargets(places.targets, views=views, poisoned=poisoned, pin=pin), ""
    if kind == "packed":
        folder = _named(places.packed, "packed", kind)
        packed = PackedTargets(folder, views=views, poisoned=poisoned, pin=pin)
        if packed.target_hash != targets.target_hash:
            raise ConfigError(
                f"{folder}: packed of other targets than {targets.folder}; run `spa3r pack` again"
            )
        return packed, packed.manifest["packed"]["pack_hash"]
    if kind == "hybrid" and targets.stored == "statistics":
        raise ConfigError(
            f"{targets.folder}: holds no tokens of frames; run `spa3r targets` again for a recipe"
            " with data.source='hybrid'"
        )
    table = FrameTable(_named(places.frames, "frames", kind))
    if table.data_hash != targets.data_hash:
        raise ConfigError(
            f"{table.folder}: other frames than those of {targets.folder}; run `spa3r targets`"
            " again"
        )

    def open_source() -> OnlineTargets:
        geometric = build_geometric(targets.spec, device=device, compiled=recipe.train.compile)
        if kind == "hybrid":
            _check_teachers(targets, {"geometric": geometric})
            return HybridTargets(
                table, targets, geometric, device=device, views=views, poisoned=poisoned
            )
        semantic = build_semantic(targets.spec, device=device)
        linguistic = build_linguistic(targets.spec, device=device)
        _check_teachers(
            targets, {"geometric": geometric, "semantic": semantic, "linguistic": linguistic}
        )
        return OnlineTargets(
            table, targets.clips, targets.spec, geometric, semantic, linguistic,
            device=device, views=views, poisoned=poisoned,
        )  # fmt: skip

    return _TeachersWhenAsked(table, targets.clips, targets.spec, open_source), ""


def _named(place: str, name: str, source: str) -> str:
    if not place:
        raise ConfigError(f"data.source is {source!r}, which needs DataPlaces.{name}: name them")
    return place


def _check_teachers(
    targets: StoredTargets, teachers: Mapping[str, GeometricTeacher | SemanticTeacher | None]
) -> None:
    """Raises TeacherError unless they are those that made the stored statistics and tokens."""
    for role, teacher in teachers.items():
        recorded = (targets.references.get(role) or {}).get("hash")
        if teacher is not None and teacher.hash != recorded:
            raise TeacherError(
                f"{targets.folder}: its {role} teacher has hash {recorded}, the one at hand"
                f" {teacher.hash}: use the same weights, or run `spa3r targets` again"
            )


class _TeachersWhenAsked:
    """A Staged source whose teachers are loaded with the first batch."""

    def __init__(
        self,
        table: FrameTable,
        clips: Sequence[Clip],
        spec: TeacherSpec,
        open_source: Callable[[], OnlineTargets],
    ) -> None:
        self.clips = tuple(clips)
        self._table, self._spec, self._open_source = table, spec, open_source
        self._opened: OnlineTargets | None = None
        self._lock = Lock()

    def grid_hw(self, clip: Clip) -> tuple[int, int]:
        return grid_of(self._table, clip, self._spec.patch_size)

    def load(self, clips: Sequence[Clip]) -> ClipBatch:
        return self._source.load(clips)

    def fetch(self, clips: Sequence[Clip]) -> Any:
        return self._source.fetch(clips)

    def finish(self, fetched: Any) -> ClipBatch:
        return self._source.finish(fetched)

    @property
    def _source(self) -> OnlineTargets:
        with self._lock:  # loader threads ask at once
            if self._opened is None:
                self._opened = self._open_source()
            return self._opened
