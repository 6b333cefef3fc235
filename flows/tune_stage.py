"""The stage from instruction sets and an encoder to a registered Spa3-VLM. No Prefect here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.settings import Settings
from flows.stage import StageResult, say, timed
from flows.train_stage import GPU_LOADERS, LOADERS, launcher
from spa3r import storage
from spa3r.errors import ConfigError, WeightsError
from spa3r.recipes import vlm_catalogue
from spa3r.tune_config import TuneRecipe

if TYPE_CHECKING:
    from spa3r.train.job import Job
    from spa3r.train.loop import TrainResult
    from spa3r.train.tune import TunePlaces

CHAMPION = "models:/spa3r-encoder@champion"
Overrides = Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A tuning, settled: what it learns from, and where it goes."""

    recipe: TuneRecipe
    places: "TunePlaces"
    hashes: dict[str, str]
    """Of the encoder and of each instruction set: with the recipe, the identity of the run."""
    run: Path


def tune(
    *,
    recipe: str = "vlm-tiny",
    overrides: Overrides = None,
    encoder: str = CHAMPION,
    sets: Mapping[str, str] | None = None,
) -> StageResult:
    """Tunes (or continues, or re-uses) a Spa3-VLM and registers it with alias `candidate`.

    Args:
        encoder: registry URI or folder; its version becomes a dependency of the new one.
        sets: folders of the recipe's instruction sets, by name; the others lie under
            Settings.instructions.

    Raises:
        ConfigError: an instruction set is nowhere. WeightsError: no such encoder.
    """
    from spa3r.train import tracking
    from spa3r.train.tune import tune as train
    from spa3r.train.vlm_registry import VLM_NAME, VlmOrigin, register_vlm

    settings = Settings.from_environment()
    client = tracking.connect(settings.mlflow_uri)
    plan = settle(settings, client, vlm_catalogue.get(recipe, overrides), encoder, sets or {})
    checkpoints, launch = settings.tuning_checkpoints(plan.run), launcher(settings)
    with (
        timed(settings, "tune", plan.run.name) as outcome,
        tracking.track(
            settings.mlflow_uri, plan.recipe, plan.hashes, artifacts=settings.home / "mlartifacts"
        ) as tracker,
    ):

        def begin(job: "Job") -> "TrainResult":
            tracker.begin()  # here the run is ours: its record is not touched before
            return launch(job)

        done = train(
            plan.recipe, plan.places, plan.run, checkpoints=checkpoints, launch=begin,
            on_line=tracker.log_line, loaders=GPU_LOADERS if settings.gpu else LOADERS,
            device=settings.device,
        )  # fmt: skip
        origin = VlmOrigin(run=str(plan.run), checkpoints=checkpoints, sets=plan.places.sets)
        version, _ = register_vlm(tracker, done.vlm, origin)
        outcome["reused"] = done.reused
    loss = done.metrics.get("total", float("nan"))
    model = f"models:/{VLM_NAME}@candidate"
    line = (
        f"{done.data['conversations']} conversations, loss {loss:.3f}; {model} is version {version}"
    )
    facts = {"model": model, "version": version, "folder": str(done.vlm), "run": str(plan.run),
             "loss": loss, "encoder": plan.places.encoder, **plan.hashes, **done.data}  # fmt: skip
    return StageResult(
        stage="tune", line=say(line, reused=done.reused), facts=facts, reused=done.reused
    )


def settle(
    settings: Settings, client: Any, recipe: TuneRecipe, encoder: str, sets: Mapping[str, str]
) -> Plan:
    """Finds what a recipe needs. Nothing is written.

    Args:
        client: of the registry.

    Raises:
        ConfigError: an instruction set is nowhere. FormatError: it is damaged. WeightsError: no
            such encoder.
    """
    from spa3r.data.instruction_sets import read_set
    from spa3r.train.tune import TunePlaces

    names = [name for name, _ in recipe.mixture.weights]
    if unknown := sorted(set(sets) - set(names)):
        raise ConfigError(
            f"recipe {recipe.name} has no instruction set {', '.join(unknown)}: it learns from"
            f" {', '.join(names)} (--set mixture.weights=...)"
        )
    folders = {name: sets.get(name) or find_set(settings, name) for name in names}
    hashes = {f"set_{name}": read_set(folder).hash for name, folder in folders.items()}
    where, version = "", ""
    if recipe.vlm.fusion.kind != "none":
        where, version, hashes["encoder_hash"] = find_encoder(client, encoder)
    places = TunePlaces(
        sets=folders, encoder=where, encoder_version=version, features=settings.features
    )
    run = settings.tuning_run(recipe, hashes)
    return Plan(recipe=recipe, places=places, hashes=hashes, run=run)


def find_encoder(client: Any, encoder: str) -> tuple[str, str, str]:
    """Where an encoder is, its version in the registry and its hash. An alias may move while we
    train, so of a registry name it is the version's that is given on.

    Args:
        client: of the registry.
        encoder: "models:/..." or a folder. Of a folder that was never registered the version is "".

    Raises:
        WeightsError: there is none.
    """
    from spa3r.train import registry
    from spa3r.train.provenance import encoder_hash

    if not encoder.startswith("models:/"):
        digest = encoder_hash(encoder)
        known = registry.find_by_hash(client, digest)
        return encoder, known.version if known else "", digest
    try:
        found = registry.named(client, encoder)
    except WeightsError as error:
        cure = "; run `spa3r promote` or name another (--encoder models:/spa3r-encoder@candidate)"
        raise WeightsError(f"{error}{cure if encoder == CHAMPION else ''}") from error
    return f"models:/{found.name}/{found.version}", found.version, found.encoder_hash


def find_set(settings: Settings, name: str) -> str:
    """Folder of an instruction set: the imported one of that name, else the one generated set of
    the dataset of that name.

    Raises:
        ConfigError: there is none, or more than one generated set.
    """
    there = storage.list_names(settings.instructions)
    if name in there:
        return settings.instruction_set(name)
    made = [other for other in there if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{8}}", other)]
    if len(made) == 1:
        return settings.instruction_set(made[0])
    if made:
        raise ConfigError(
            f"instruction set {name!r}: {', '.join(sorted(made))} lie in {settings.instructions};"
            f" choose one with --sets {name}={settings.instruction_set(sorted(made)[0])}"
        )
    raise ConfigError(
        f"instruction set {name!r} is not in {settings.instructions}: run `spa3r instruct ..."
        f" --name {name}` (published data), or `spa3r questions --dataset {name}` (annotated scans)"
    )
