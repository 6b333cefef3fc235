"""The stage from targets to a registered encoder, as a plain function. No Prefect here."""

from collections.abc import Mapping
from typing import Any

from flows.data_stages import require_targets
from flows.settings import Settings
from flows.stage import StageResult, say, timed
from spa3r import storage
from spa3r.recipes import catalogue

Overrides = Mapping[str, Any] | None
LOADERS = 1  # threads a worker that read the next batches while one is computed


def pretrain(
    *, dataset: str = "rooms", recipe: str = "tiny", overrides: Overrides = None
) -> StageResult:
    """Trains (or continues, or re-uses) an encoder and registers it with alias `candidate`."""
    from spa3r.train import tracking
    from spa3r.train.pretrain import in_this_process
    from spa3r.train.pretrain import pretrain as train

    settings, plan = Settings.from_environment(), catalogue.get(recipe, overrides)
    folder = require_targets(settings, dataset, plan, "train")
    manifest = storage.read_json(storage.join(folder, "manifest.json"))
    hashes = {key: manifest[key] for key in ("data_hash", "target_hash")}
    if settings.train_workers:
        from spa3r.train.cluster import on_ray

        launch = on_ray(workers=settings.train_workers, gpu=settings.gpu)
    else:
        launch = in_this_process(settings.device)
    run, files = settings.run(dataset, plan), settings.home / "mlartifacts"
    with (
        timed(settings, "pretrain", run.name) as outcome,
        tracking.track(settings.mlflow_uri, plan, hashes, artifacts=files) as tracker,
    ):
        done = train(plan, folder, run, launch=launch, on_line=tracker.log_line, loaders=LOADERS)
        version, _ = tracking.register_encoder(tracker, done.encoder)
        outcome["reused"] = done.reused
    loss = done.metrics.get("total", float("nan"))
    model = f"models:/{tracking.ENCODER_NAME}@{tracking.CANDIDATE}"
    line = f"{plan.train.steps} steps, loss {loss:.3f}; {model} is version {version}"
    facts = {"model": model, "version": version, "encoder": str(done.encoder), "run": str(run),
             "loss": loss, **hashes}  # fmt: skip
    return StageResult(
        stage="pretrain", line=say(line, reused=done.reused), facts=facts, reused=done.reused
    )
