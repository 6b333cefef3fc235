"""What a run trains on: a source of targets and what must be known about it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from spa3r.config import Recipe
from spa3r.data.batch import TargetSource
from spa3r.data.targets import CachedTargets
from spa3r.errors import ConfigError
from spa3r.plain import config_hash, to_dict
from spa3r.teachers.build import build_geometric


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


def open_data(targets: str | TargetSource, recipe: Recipe) -> TrainingData:
    """Opens stored targets, or takes a source as it is.

    A source that is not stored may say what it knows as attributes `stats`, `references`,
    `target_hash` and `data_hash`; its clips identify it otherwise.

    Raises:
        ConfigError: the targets were made by other teachers than the recipe's.
        ShardError: no finished targets there.
    """
    if isinstance(targets, str):
        return _stored(CachedTargets(targets), recipe)
    clips = config_hash([clip.id for clip in targets.clips])
    references = getattr(targets, "references", None)
    if references is None:
        references = {"geometric": build_geometric(recipe.teacher).reference()}
    return TrainingData(
        source=targets,
        stats=getattr(targets, "stats", None),
        target_hash=getattr(targets, "target_hash", clips),
        data_hash=getattr(targets, "data_hash", clips),
        references=references,
    )


def _stored(cached: CachedTargets, recipe: Recipe) -> TrainingData:
    # As specs, not as stored: a manifest older than a setting means that setting's default.
    if cached.spec != recipe.teacher:
        made_by, wanted = to_dict(cached.spec), to_dict(recipe.teacher)
        names = sorted(key for key in wanted if made_by[key] != wanted[key])
        raise ConfigError(
            f"{cached.folder}: targets of another teacher ({', '.join(names)} differ); run"
            f" `spa3r targets --recipe {recipe.name}`"
        )
    return TrainingData(
        source=cached,
        stats=cached.stats,
        target_hash=cached.target_hash,
        data_hash=cached.manifest["data_hash"],
        references={role: ref for role, ref in cached.references.items() if ref is not None},
    )
