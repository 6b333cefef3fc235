"""What the stage `promote` decides, and on which scores."""

from dataclasses import asdict, dataclass
from typing import Any

from flows.evaluation import OtherTargetsError
from flows.scores import (
    EVALUATION,
    FIELD,
    Evaluation,
    artifact_folder,
    evaluate_once,
    present_hash,
)
from flows.settings import Settings
from spa3r.errors import ShardError
from spa3r.eval.field_report import FieldReport
from spa3r.eval.gate import METRIC, Comparison, GateVerdict, champion_gate, field_gate
from spa3r.train import registry
from spa3r.train.champion import ROLLED_BACK, Outcome, Verdict
from spa3r.train.registry import Registered


@dataclass(frozen=True, kw_only=True, slots=True)
class _Decision:
    """The answer, and what the candidate was compared with."""

    outcome: Outcome
    reason: str
    comparison: Comparison | None = None
    champion_field: FieldReport | None = None


def judge(
    settings: Settings, client: Any, candidate: Registered, champion: Registered | None
) -> Verdict:
    """The gate's verdict on a candidate: the guards, then scene by scene against the champion.

    Args:
        client: of the registry.

    Raises:
        ShardError: the candidate was not evaluated, or its held-out targets have changed since.
    """
    own = logged_evaluation(client, candidate)
    _require_present(settings, candidate, own)
    guards = field_gate(own.field)
    found = _decide(settings, client, candidate, champion, own, guards)
    differences = found.comparison.differences if found.comparison else {}
    against = {"champion": differences[METRIC].low} if METRIC in differences else {}
    return Verdict(
        outcome=found.outcome,
        reason=found.reason,
        guards_passed=guards.passed,
        guards_reason=guards.reason,
        dataset=own.dataset,
        target_hash=own.target_hash,
        against=champion.version if champion else "",
        margins=guards.margins | against,
        evidence={
            "differences": {metric: asdict(x) for metric, x in differences.items()},
            "field": own.field.to_json(),
            "champion_field": found.champion_field.to_json() if found.champion_field else None,
            "space_hash": own.space_hash,
            "champion_judged_on": _judged_on(champion) if champion else None,
        },
    )


def logged_evaluation(client: Any, version: Registered) -> Evaluation:
    """The newest evaluation of a version. Raises ShardError where it has none of its own."""
    folder = version.tags.get(EVALUATION)
    path = registry.run_artifact(client, version.run_id, f"{folder}/{FIELD}") if folder else None
    if path is None:
        raise ShardError(f"{version} was not evaluated: run `spa3r evaluate`")
    found = Evaluation.read(path)
    if found.encoder_hash != version.encoder_hash:
        raise ShardError(
            f"{version}: the logged evaluation is of another encoder; run `spa3r evaluate` again"
        )
    return found


def _require_present(settings: Settings, candidate: Registered, own: Evaluation) -> None:
    """Raises ShardError where other held-out targets lie there now than those of the evaluation.

    Where they are gone, the logged scores are all there is.
    """
    now = present_hash(settings, own.dataset, own.recipe)
    if now is not None and now != own.target_hash:
        raise ShardError(
            f"the held-out targets of {own.dataset} have changed since {candidate} was evaluated:"
            " run `spa3r evaluate` again"
        )


def _judged_on(champion: Registered) -> dict[str, str]:
    """Dataset and held-out targets of the champion's own verdict; "" where it has none."""
    names = {"dataset": "field_gate_dataset", "target_hash": "field_gate_target_hash"}
    return {name: champion.tags.get(key, "") for name, key in names.items()}


def _decide(
    settings: Settings,
    client: Any,
    candidate: Registered,
    champion: Registered | None,
    own: Evaluation,
    guards: GateVerdict,
) -> _Decision:
    if ROLLED_BACK in candidate.tags:
        return _Decision(
            outcome="not promoted",
            reason=f"it was champion and was rolled back at {candidate.tags[ROLLED_BACK]};"
            f" `spa3r rollback --to {candidate.version}` brings it back",
        )
    if not guards.passed:
        return _Decision(outcome="not promoted", reason=guards.reason)
    if champion is None:
        return _Decision(outcome="promoted", reason=guards.reason)
    before = _judged_on(champion)
    if before["dataset"] not in ("", own.dataset):
        return _Decision(
            outcome="not comparable",
            reason=f"version {candidate.version} was evaluated on {own.dataset}, champion version"
            f" {champion.version} was judged on {before['dataset']}; run `spa3r evaluate --dataset"
            f" {before['dataset']}` first",
        )
    try:
        theirs = _champion_field(settings, client, candidate, champion, own)
    except OtherTargetsError as error:
        return _Decision(
            outcome="not comparable",
            reason=f"champion version {champion.version} cannot be asked on these held-out scenes"
            f" ({error})",
        )
    compared = champion_gate(own.field, theirs)
    reason = f"{compared.reason}; {guards.reason}" if compared.passed else compared.reason
    if before["target_hash"] not in ("", own.target_hash):
        reason += (
            f"; on held-out targets {own.target_hash[:8]} of {own.dataset}, the champion was judged"
            f" on {before['target_hash'][:8]}"
        )
    return _Decision(
        outcome="promoted" if compared.passed else "not promoted",
        reason=reason,
        comparison=compared,
        champion_field=theirs,
    )


def _champion_field(
    settings: Settings,
    client: Any,
    candidate: Registered,
    champion: Registered,
    own: Evaluation,
) -> FieldReport:
    """The champion's scores on the candidate's held-out targets and in its space.

    Those that were logged where they fit, else it is evaluated now.
    """
    digest = champion.encoder_hash
    folder = artifact_folder(own.dataset, own.target_hash, digest)
    path = registry.run_artifact(client, champion.run_id, f"{folder}/{FIELD}")
    if path is not None:
        there = Evaluation.read(path)
        wanted = (digest, own.target_hash, own.space_hash)
        if (there.encoder_hash, there.target_hash, there.space_hash) == wanted:
            return there.field
    ours, theirs = (
        registry.resolve(f"models:/{v.name}/{v.version}") for v in (candidate, champion)
    )
    made, _, _ = evaluate_once(settings, own.dataset, own.recipe, theirs, like=ours)
    return made.field
