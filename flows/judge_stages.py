"""Stages that judge an encoder, as plain functions: evaluate, promote, rollback. No Prefect."""

from collections.abc import Mapping, Sequence
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


def promote(
    model: str = "spa3r-encoder", *, suite: str = "vsi-bench", tasks: Sequence[str] = ()
) -> StageResult:
    """Moves alias `champion` to the candidate if the gate holds; records the verdict either way.

    Args:
        model: registered name, of encoders or of Spa3-VLM.
        suite, tasks: of Spa3-VLM: whose answers decide; see flows/vlm_promotion.py.
    """
    from flows import promotion
    from spa3r.train import champion, registry, tracking

    settings = Settings.from_environment()
    client = tracking.connect(settings.mlflow_uri)
    candidate = registry.require(client, registry.CANDIDATE, name=model)
    before = registry.find(client, registry.CHAMPION, name=model)
    stage = _stage("promote", model)
    if before is not None and before.version == candidate.version:
        facts = {"version": candidate.version, "promoted": False, "verdict": "is champion already"}
        line = f"{candidate} is champion already"
        return StageResult(stage=stage, line=line, facts=facts, reused=True)
    if model == registry.ENCODER_NAME:
        verdict = promotion.judge(settings, client, candidate, before)
    else:
        from flows import vlm_promotion

        verdict = vlm_promotion.judge(settings, client, candidate, before, suite=suite, tasks=tasks)
    line = champion.promote(client, candidate, verdict)
    facts = {"version": candidate.version, "promoted": verdict.outcome == "promoted",
             "verdict": verdict.outcome, "reason": verdict.reason,
             "against": verdict.against or "no champion", "margins": verdict.margins,
             "judged on": f"{verdict.dataset} {verdict.target_hash}"}  # fmt: skip
    return StageResult(stage=stage, line=line, facts=facts)


def rollback(to: str = "", model: str = "spa3r-encoder") -> StageResult:
    """Moves alias `champion` back to the version before it, or to one that was champion once."""
    from spa3r.train import champion, registry, tracking

    client = tracking.connect(Settings.from_environment().mlflow_uri)
    line = champion.rollback(client, to, name=model)
    now = registry.require(client, registry.CHAMPION, name=model)
    facts = {"model": model, "champion": now.version, **now.hashes}
    return StageResult(stage=_stage("rollback", model), line=line, facts=facts)


def _stage(stage: str, model: str) -> str:
    """The stage's name; each model's has its own artifacts and its own line of the demo."""
    return stage if model == "spa3r-encoder" else f"{stage}-vlm"
