"""Which version is the champion, why, and which one was before it.

The gate's verdict on a version becomes tags of that version and a JSON file in its run. Every move
of the alias `champion` becomes a tag of the registered model, "champion.<number>", so that a
rollback knows the way back.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from mlflow import MlflowClient

from spa3r.errors import WeightsError
from spa3r.train.registry import (
    CHAMPION,
    ENCODER_NAME,
    Registered,
    find,
    find_version,
    require,
    tag,
)
from spa3r.train.tracking import answering

ROLLED_BACK: Final = "rolled_back"
"""Tag of a version that was champion and was taken back: when."""
_MOVE: Final = "champion."

Outcome = Literal["promoted", "not promoted", "not comparable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the gate says of a version."""

    outcome: Outcome
    reason: str
    """One line."""
    guards_passed: bool
    guards_reason: str
    dataset: str
    target_hash: str
    """Of the held-out targets, or questions, that it was decided on."""
    against: str
    """The champion's version, "" where there was none."""
    margins: dict[str, float]
    """Lower 95 % bounds: of the score against each control, and against the champion."""
    evidence: dict[str, Any]
    """All the numbers behind it, as plain JSON."""
    gate: str = "field_gate"
    """Begins the names of the tags that say what the guards found, and on which data."""


def of(name: str) -> str:
    """What a command line needs besides to mean this model: nothing where it is the default."""
    return "" if name == ENCODER_NAME else f" {name}"


@answering()
def promote(client: MlflowClient, candidate: Registered, verdict: Verdict) -> str:
    """Records the verdict; if it is "promoted", alias `champion` moves to the candidate.

    Returns:
        One line: what was done and why.

    Raises:
        WeightsError: another champion than the one that the verdict was made against.
    """
    before = find(client, CHAMPION, name=candidate.name)
    found = before.version if before else ""
    if found != verdict.against:
        raise WeightsError(
            f"{candidate.name}: champion moved to version {found or 'none'} while version"
            f" {candidate.version} was judged against {verdict.against or 'none'}; run `spa3r"
            f" promote{of(candidate.name)}` again"
        )
    _record(client, candidate, verdict)
    if verdict.outcome != "promoted":
        stays = f"champion stays at version {found}" if found else "there is no champion"
        why = "" if verdict.outcome == "not promoted" else f"{verdict.outcome}: "
        return f"{candidate} not promoted, {stays}: {why}{verdict.reason}"
    _move(client, candidate, found, how="promote", reason=verdict.reason)
    instead = f" in place of version {found}" if found else ""
    return f"{candidate} is champion{instead}: {verdict.reason}"


@answering()
def rollback(client: MlflowClient, to: str = "", *, name: str = ENCODER_NAME) -> str:
    """Moves alias `champion` back, and records it; the version it leaves is not promoted again.

    Args:
        to: a version that was champion before; "": the one that the present champion replaced.

    Returns:
        One line: what was done.

    Raises:
        WeightsError: there is no champion, none before it, or `to` never was one.
    """
    present = require(client, CHAMPION, name=name)
    moves = history(client, name=name)
    if not to:
        promoted = [m for m in moves if m["how"] == "promote" and m["version"] == present.version]
        to = promoted[-1]["before"] if promoted else ""
        if not to:
            raise WeightsError(
                f"{present} is champion and no champion before it is recorded: nothing to roll back"
                f" to; `spa3r rollback --to VERSION{of(name)}` names one that was champion"
            )
    known = {version for move in moves for version in (move["version"], move["before"]) if version}
    target = find_version(client, to, name=name)
    if target is None or to not in known or to == present.version:
        others = ", ".join(sorted(known - {present.version}, key=_number)) or "none"
        what = "is champion" if to == present.version else "never was champion, or is gone"
        raise WeightsError(f"{name} version {to} {what}: choose of {others}")
    tag(client, present, {ROLLED_BACK: _now()})  # first: if this is stopped, it can be repeated
    _move(client, target, present.version, how="rollback", reason="rolled back")
    if ROLLED_BACK in target.tags:
        client.delete_model_version_tag(name, to, ROLLED_BACK)
    return (
        f"{target} is champion again in place of version {present.version}, which is not promoted"
        " again"
    )


@answering()
def history(client: MlflowClient, *, name: str = ENCODER_NAME) -> list[dict[str, str]]:
    """Every move of alias `champion`, oldest first: version, before, how, reason, time."""
    tags = client.get_registered_model(name).tags
    return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(_MOVE)]


def _move(client: MlflowClient, version: Registered, before: str, *, how: str, reason: str) -> None:
    """The record first: a move without one could not be taken back."""
    move = {"version": version.version, "before": before, "how": how, "reason": reason,
            "time": _now()}  # fmt: skip
    number = len(history(client, name=version.name)) + 1
    client.set_registered_model_tag(version.name, f"{_MOVE}{number:05d}", json.dumps(move))
    client.set_registered_model_alias(version.name, CHAMPION, version.version)


def _record(client: MlflowClient, version: Registered, verdict: Verdict) -> None:
    now = _now()
    tag(client, version, {
        "verdict": verdict.outcome,
        "verdict_reason": verdict.reason,
        "verdict_against": verdict.against or "none",
        "verdict_margins": json.dumps(verdict.margins, sort_keys=True),
        "verdict_time": now,
        verdict.gate: "passed" if verdict.guards_passed else "failed",
        f"{verdict.gate}_reason": verdict.guards_reason,
        f"{verdict.gate}_dataset": verdict.dataset,
        f"{verdict.gate}_target_hash": verdict.target_hash,
    })  # fmt: skip
    client.log_dict(version.run_id, _evidence(version, verdict, now), _file(version, now))


def _evidence(version: Registered, verdict: Verdict, now: str) -> dict[str, Any]:
    return {
        "version": version.version,
        **version.hashes,
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "against": verdict.against,
        "guards": {"passed": verdict.guards_passed, "reason": verdict.guards_reason},
        "dataset": verdict.dataset,
        "target_hash": verdict.target_hash,
        "margins": verdict.margins,
        "time": now,
        **verdict.evidence,
    }


def _file(version: Registered, now: str) -> str:
    return f"verdicts/v{version.version}-{now.replace(':', '')}.json"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else 0
