"""Stages that judge an encoder, as plain functions: evaluate and promote. No Prefect here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.data_stages import require_targets
from flows.settings import Settings
from flows.stage import StageResult, say, timed
from spa3r import storage
from spa3r.errors import ShardError
from spa3r.recipes import catalogue

Overrides = Mapping[str, Any] | None
EVALUATION = "evaluation"  # folder of a run's artifacts
FIELD = "field.json"
REPORT = "report.html"


def evaluate(
    model: str = "models:/spa3r-encoder@candidate",
    *,
    dataset: str = "rooms",
    recipe: str = "tiny",
    overrides: Overrides = None,
) -> StageResult:
    """Held-out quality against five controls, logged to the model's run, and the HTML report."""
    from flows.evaluation import field_of, report_of
    from spa3r.train import tracking
    from spa3r.train.provenance import encoder_hash

    settings, plan = Settings.from_environment(), catalogue.get(recipe, overrides)
    client = tracking.connect(settings.mlflow_uri)
    encoder = Path(tracking.resolve(model)) if model.startswith("models:/") else Path(model)
    digest = encoder_hash(encoder)
    val = require_targets(settings, dataset, plan, "val")
    target_hash = storage.read_json(storage.join(val, "manifest.json"))["target_hash"]
    out = settings.reports / f"{plan.name}-{dataset}-{digest[:8]}-{target_hash[:8]}"
    identity = {"encoder_hash": digest, "target_hash": target_hash, "dataset": dataset}
    with timed(settings, "evaluate", out.name) as outcome:
        kept = storage.read_json(out / FIELD) if (out / FIELD).exists() else {}
        reused = outcome["reused"] = identity.items() <= kept.items()
        if not reused:
            field = field_of(settings, dataset, plan, encoder)
            storage.write_json(out / FIELD, identity | {"report": field.to_json()})
    field, verdict = read_field(out / FIELD)
    report_of(settings, dataset, plan, encoder, field, verdict, out / REPORT)
    version = tracking.find_by_hash(client, digest)
    if version is not None:
        tracker = tracking.Tracker(client, version.run_id)
        tracker.log_metrics(
            {
                f"field/{method}/{metric}": value
                for method, metrics in field.mean.items()
                for metric, value in metrics.items()
            }
        )
        for name in (FIELD, REPORT):
            tracker.log_artifact(out / name, EVALUATION)
    score = field.mean["model"].get("geo/r2", float("nan"))
    gate = f"gate {'passed' if verdict.passed else 'not passed'}: {verdict.reason}"
    line = f"geometric R2 {score:.3f} on {len(field.scenes)} held-out scenes; {gate}"
    facts = {"report": str(out / REPORT), "geometric R2": score, "gate": gate,
             "margins": verdict.margins}  # fmt: skip
    return StageResult(stage="evaluate", line=say(line, reused=reused), facts=facts, reused=reused)


def promote() -> StageResult:
    """Moves alias `champion` to the candidate if the field gate holds; tags the verdict."""
    from spa3r.train import tracking

    client = tracking.connect(Settings.from_environment().mlflow_uri)
    candidate = tracking.require(client, tracking.CANDIDATE)
    path = tracking.run_artifact(client, candidate.run_id, f"{EVALUATION}/{FIELD}")
    if path is None:
        raise ShardError(
            f"{candidate.name} version {candidate.version} was not evaluated: run `spa3r evaluate`"
        )
    evaluation = storage.read_json(path)
    if evaluation["encoder_hash"] != candidate.tags["encoder_hash"]:
        raise ShardError(
            f"{candidate.name} version {candidate.version}: the logged evaluation is of another"
            " encoder; run `spa3r evaluate` again"
        )
    _, verdict = read_field(path)
    line = tracking.promote(
        client, passed=verdict.passed, reason=verdict.reason,
        dataset=evaluation["dataset"], target_hash=evaluation["target_hash"],
    )  # fmt: skip
    facts = {"version": candidate.version, "promoted": verdict.passed, "reason": verdict.reason}
    return StageResult(stage="promote", line=line, facts=facts)


def read_field(path: Path) -> tuple[Any, Any]:
    """The FieldReport of an evaluation and the gate's verdict on it, decided now, not trusted."""
    from spa3r.eval.field_report import FieldReport
    from spa3r.eval.gate import field_gate

    field = FieldReport.from_json(storage.read_json(path)["report"])
    return field, field_gate(field)
