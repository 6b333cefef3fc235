"""The stage from targets to a registered encoder, as a plain function. No Prefect here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flows.data_stages import require_shards, require_targets
from flows.settings import Settings
from flows.stage import StageResult, say, timed
from spa3r import storage
from spa3r.config import Recipe
from spa3r.recipes import catalogue

if TYPE_CHECKING:
    from spa3r.train.job import Job
    from spa3r.train.loop import TrainResult
    from spa3r.train.pretrain import Launch
    from spa3r.train.sources import DataPlaces

Overrides = Mapping[str, Any] | None
LOADERS, GPU_LOADERS = 1, 4  # threads a worker that read the next batches while one is computed


def pretrain(
    *,
    dataset: str = "rooms",
    recipe: str = "tiny",
    overrides: Overrides = None,
    candidate: bool = True,
) -> StageResult:
    """Trains (or continues, or re-uses) an encoder and registers it.

    Args:
        candidate: give it the alias `candidate`; a sweep's recipes do not take it.
    """
    from spa3r.train import registry, tracking
    from spa3r.train.origin import Origin
    from spa3r.train.pretrain import pretrain as train

    settings, plan = Settings.from_environment(), catalogue.get(recipe, overrides)
    places = places_of(settings, dataset, plan)
    manifest = storage.read_json(storage.join(places.targets, "manifest.json"))
    hashes = {key: manifest[key] for key in ("data_hash", "target_hash")}
    checkpoints = settings.checkpoints(dataset, plan)
    run, files = settings.run(dataset, plan), settings.home / "mlartifacts"
    launch = launcher(settings)
    with (
        timed(settings, "pretrain", run.name) as outcome,
        tracking.track(settings.mlflow_uri, plan, hashes, artifacts=files) as tracker,
    ):

        def begin(job: "Job") -> "TrainResult":
            tracker.begin()  # here the run is ours: its record is not touched before
            return launch(job)

        done = train(
            plan, places, run, checkpoints=checkpoints, launch=begin,
            on_line=tracker.log_line, loaders=GPU_LOADERS if settings.gpu else LOADERS,
        )  # fmt: skip
        origin = Origin(
            run=str(run), checkpoints=checkpoints, targets=places.targets,
            held_out=settings.targets(dataset, plan, "val"),
            shards=settings.shards(dataset, plan.ingest),
        )  # fmt: skip
        version, _ = registry.register_encoder(tracker, done.encoder, origin, candidate=candidate)
        outcome["reused"] = done.reused
    loss = done.metrics.get("total", float("nan"))
    alias = f"@{registry.CANDIDATE}" if candidate else f"/{version}"
    model = f"models:/{registry.ENCODER_NAME}{alias}"
    line = f"{plan.train.steps} steps, loss {loss:.3f}; {model}"
    line += f" is version {version}" if candidate else ""
    facts = {"model": model, "version": version, "encoder": str(done.encoder), "run": str(run),
             "loss": loss, **hashes}  # fmt: skip
    return StageResult(
        stage="pretrain", line=say(line, reused=done.reused), facts=facts, reused=done.reused
    )


def places_of(settings: Settings, dataset: str, plan: Recipe) -> "DataPlaces":
    """Where training finds its data; without held-out targets it is not validated.

    Raises:
        ShardError: something is not finished; says which command makes it.
    """
    from spa3r.train.sources import DataPlaces

    source = plan.data.source
    held_out = settings.targets(dataset, plan, "val")
    in_the_loop = source in ("online", "hybrid")
    return DataPlaces(
        targets=require_targets(settings, dataset, plan, "train"),
        held_out=held_out if storage.exists(storage.join(held_out, "manifest.json")) else "",
        frames=require_shards(settings, dataset, plan) if in_the_loop else "",
        packed=settings.packed(dataset, plan) if source == "packed" else "",
    )


def launcher(settings: Settings) -> "Launch":
    """Where training runs: Ray workers, or this process."""
    if settings.train_workers:
        from spa3r.train.cluster import on_ray

        least = settings.least_workers or None
        return on_ray(workers=settings.train_workers, least=least, gpu=settings.gpu)
    from spa3r.train.pretrain import in_this_process

    return in_this_process(settings.device)
