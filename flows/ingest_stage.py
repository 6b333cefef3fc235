"""Stage `ingest`, what it would do, and several ingested datasets as one. No Prefect here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.data_stages import require_shards
from flows.settings import Settings
from flows.stage import StageResult, say, timed
from spa3r import storage
from spa3r.errors import ConfigError
from spa3r.recipes import catalogue
from spa3r.schema import ROOT

if TYPE_CHECKING:
    from preprocessing.runners import Runner

Overrides = Mapping[str, Any] | None
_NAMED = 20
"""Scenes named in an artifact; a first run has thousands of new ones."""


def ingest(
    root: str,
    *,
    dataset: str = "",
    recipe: str = "tiny",
    overrides: Overrides = None,
    scenes: Sequence[str] | None = None,
    ray: bool = False,
) -> StageResult:
    """Raw scans to frame shards and a manifest.

    Args:
        scenes: only these; None: all.
        ray: on the cluster of RAY_ADDRESS, or a Ray started here; else in processes of this
            machine.
    """
    from preprocessing.dataset import ingest_dataset
    from preprocessing.sources import detect_dataset

    settings, spec = Settings.from_environment(), catalogue.get(recipe, overrides).ingest
    name = dataset or detect_dataset(root)
    out = settings.shards(name, spec)
    with timed(settings, "ingest", Path(out).name) as outcome:
        runner = _runner(settings.workers, out, ray=ray)
        manifest = ingest_dataset(root, name, spec, out, scenes=scenes, runner=runner)
        outcome["reused"] = reused = manifest.reused == manifest.scenes
        # Beside the manifest, not in it: scans that were moved are the same data.
        place = str(Path(root).resolve()) if storage.is_local(root) else root
        storage.write_json(storage.join(out, ROOT), {"root": place})
    found = asdict(manifest)
    line = say(_line(found), reused=reused)
    return StageResult(stage="ingest", line=line, facts=_facts(found), reused=reused)


def dry_run(
    root: str,
    *,
    dataset: str = "",
    recipe: str = "tiny",
    overrides: Overrides = None,
    scenes: Sequence[str] | None = None,
) -> str:
    """Lines saying what `ingest` would do, and how long it would take; nothing is written."""
    from preprocessing.estimate import describe, estimate
    from preprocessing.sources import detect_dataset

    settings, spec = Settings.from_environment(), catalogue.get(recipe, overrides).ingest
    name = dataset or detect_dataset(root)
    out = settings.shards(name, spec)
    found = estimate(root, name, spec, out, workers=settings.workers, scenes=scenes)
    return describe(found, spec)


def merge(
    name: str, datasets: Sequence[str], *, recipe: str = "tiny", overrides: Overrides = None
) -> StageResult:
    """Ingested datasets as one more dataset, whose manifest points into their shards.

    Raises:
        ConfigError: the name is that of a dataset of its own. ShardError: one is not ingested.
    """
    from preprocessing.merge import merge_manifests
    from preprocessing.sources import DATASETS

    settings, plan = Settings.from_environment(), catalogue.get(recipe, overrides)
    if name in datasets or name in DATASETS:
        raise ConfigError(f"merge {name}: a dataset has that name; choose another")
    folders = [require_shards(settings, dataset, plan) for dataset in datasets]
    out = settings.shards(name, plan.ingest)
    found = merge_manifests(folders, out, name) | {"folder": out}
    facts = _facts(found) | {"datasets": ", ".join(datasets)}
    return StageResult(stage="merge", line=say(_line(found), reused=False), facts=facts)


def _runner(workers: int, out: str, *, ray: bool) -> "Runner":
    from preprocessing.space import Room

    if ray:
        from preprocessing.ray_runner import ray_runner

        return ray_runner(workers, Room(out))
    from preprocessing.runners import local_runner

    return local_runner(workers, Room(out))


def _line(found: Mapping[str, Any]) -> str:
    """What was done, for a person; only what there is."""
    how = [f"{len(scenes)} {why}" for why, scenes in found.get("changed", {}).items() if scenes]
    if how and found["reused"]:
        how.append(f"{found['reused']} re-used")
    dropped = [f"{n} {reason}" for reason, n in sorted(found["dropped"].items()) if n]
    parts = [
        f"{found['scenes']} scene{'s' * (found['scenes'] != 1)}{_bracketed(how)}",
        f"{found['frames']} of {found['announced']} frames{_bracketed(dropped)}",
    ]
    for key, what in (
        ("failures", "that cannot be used"),
        ("removed", "removed"),
        ("kept_out", "kept out of training"),
    ):
        if scenes := found.get(key):
            parts.append(f"{len(scenes)} {what}")
    return f"{', '.join(parts)}, in {found['folder']}"


def _bracketed(items: Sequence[str]) -> str:
    return f" ({', '.join(items)})" if items else ""


def _facts(found: Mapping[str, Any]) -> dict[str, Any]:
    """The artifact's table."""
    return {
        "shards": found["folder"],
        "scenes": found["scenes"],
        "frames": found["frames"],
        "dropped": found["dropped"],
        **{why: _names(scenes) for why, scenes in found.get("changed", {}).items()},
        "removed": _names(found.get("removed", [])),
        "failures": _reasons(found["failures"]),
        "kept out of training": _reasons(found["kept_out"]),
        "data hash": found["data_hash"],
    }


def _names(scenes: Sequence[str]) -> str:
    shown = ", ".join(scenes[:_NAMED])
    return f"{len(scenes)}{': ' if scenes else ''}{shown}{_more(len(scenes))}"


def _reasons(why_of: Mapping[str, str]) -> str:
    shown = "; ".join(f"{scene}: {why}" for scene, why in sorted(why_of.items())[:_NAMED])
    return f"{len(why_of)}{'; ' if why_of else ''}{shown}{_more(len(why_of))}"


def _more(count: int) -> str:
    return f", and {count - _NAMED} more" if count > _NAMED else ""
