"""Stages that judge an encoder, as plain functions: evaluate, promote, rollback. No Prefect."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.settings import Settings
from flows.stage import StageResult, say, timed
from spa3r.recipes import catalogue

Overrides = Mapping[str, Any] | None
REPORT = "report.html"


def evaluate(
    model: str = "models:/spa3r-encoder@candidate",
    *,
    dataset: str = "rooms",
    recipe: str = "tiny",
    overrides: Overrides = None,
) -> StageResult:
    """Held-out quality against five controls, logged to the model's run, and the HTML report."""
    from flows.evaluation import report_of
    from flows.scores import evaluate_once, report_name
    from spa3r.eval.gate import field_gate
    from spa3r.train import registry, tracking

    settings, plan = Settings.from_environment(), catalogue.get(recipe, overrides)
    client = tracking.connect(settings.mlflow_uri)
    encoder = Path(registry.resolve(model)) if model.startswith("models:/") else Path(model)
    with timed(settings, "evaluate", report_name(settings, dataset, plan, encoder)) as outcome:
        found, out, reused = evaluate_once(settings, dataset, plan, encoder)
        outcome["reused"] = reused
    verdict = field_gate(found.field)
    report_of(settings, dataset, plan, encoder, found.field, verdict, out / REPORT)
    _log(client, found, out)
    score = found.field.mean["model"].get("geo/r2")
    said = "no geometric features" if score is None else f"geometric R2 {score:.3f}"
    gate = f"gate {'passed' if verdict.passed else 'not passed'}: {verdict.reason}"
    line = f"{said} on {len(found.field.scenes)} held-out scenes; {gate}"
    facts = {"report": str(out / REPORT), "geometric R2": "none" if score is None else score,
             "gate": gate, "margins": verdict.margins, "scores": found.summary}  # fmt: skip
    return StageResult(stage="evaluate", line=say(line, reused=reused), facts=facts, reused=reused)


def _log(client: Any, found: Any, out: Path) -> None:
    """Scores, controls and report go to the run of the version that is this encoder, if any."""
    from flows.scores import EVALUATION, FIELD
    from spa3r.train import registry, tracking

    version = registry.find_by_hash(client, found.encoder_hash)
    if version is None:
        return
    tracker = tracking.Tracker(client, version.run_id)
    tracker.log_metrics(
        {
            f"field/{method}/{metric}": value
            for method, metrics in found.field.mean.items()
            for metric, value in metrics.items()
        }
    )
    for name in (FIELD, REPORT):
        tracker.log_artifact(out / name, found.folder)
    registry.tag(client, version, {EVALUATION: found.folder, "field_scores": found.summary})


def promote() -> StageResult:
    """Moves alias `champion` to the candidate if the gate holds; records the verdict either way."""
    from flows import promotion
    from spa3r.train import champion, registry, tracking

    settings = Settings.from_environment()
    client = tracking.connect(settings.mlflow_uri)
    candidate = registry.require(client, registry.CANDIDATE)
    before = registry.find(client, registry.CHAMPION)
    if before is not None and before.version == candidate.version:
        facts = {"version": candidate.version, "promoted": False, "verdict": "is champion already"}
        line = f"{candidate} is champion already"
        return StageResult(stage="promote", line=line, facts=facts, reused=True)
    verdict = promotion.judge(settings, client, candidate, before)
    line = champion.promote(client, candidate, verdict)
    facts = {"version": candidate.version, "promoted": verdict.outcome == "promoted",
             "verdict": verdict.outcome, "reason": verdict.reason,
             "against": verdict.against or "no champion", "margins": verdict.margins,
             "held-out targets": verdict.target_hash}  # fmt: skip
    return StageResult(stage="promote", line=line, facts=facts)


def rollback(to: str = "") -> StageResult:
    """Moves alias `champion` back to the version before it, or to one that was champion once."""
    from spa3r.train import champion, registry, tracking

    client = tracking.connect(Settings.from_environment().mlflow_uri)
    line = champion.rollback(client, to)
    now = registry.require(client, registry.CHAMPION)
    facts = {"champion": now.version, "encoder": now.encoder_hash}
    return StageResult(stage="rollback", line=line, facts=facts)
