"""The pieces that a lineage record names, each compared with what lies there now."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from spa3r import storage
from spa3r.errors import ShardError, WeightsError
from spa3r.plain import config_hash
from spa3r.schema import data_hash
from spa3r.train.lives import stretches
from spa3r.train.origin import read_manifest, scans_hash
from spa3r.train.provenance import code_facts, encoder_hash

State = Literal["same", "changed", "gone", "not recorded", "unknown", ""]
"""Of a piece now, against its record. "unknown": what it would be compared with is gone; "": there
is nothing to compare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """One piece of the chain, for a person and as plain data."""

    part: str
    what: str
    where: str = ""
    hash: str = ""
    """As it was recorded."""
    state: State = ""
    note: str = ""


LookAtScans = Callable[[Mapping[str, Any]], tuple[State, str]]
"""Compares the scans of one dataset with the record of how they were read; state and one line."""


def links_of(record: Mapping[str, Any], look_at_scans: LookAtScans | None) -> Iterator[Link]:
    """From the run back to the scans."""
    yield _run(record)
    if record["parent"]:
        yield _parent(record["parent"])
    yield recipe_link(record["recipe"])
    yield from made_with(record)
    for targets in record["targets"]:
        yield _targets(targets)
    yield from _teachers(record)
    yield _shards(record["shards"])
    if not record["scans"]:
        yield Link(part="scans", what="unknown scans", state="not recorded")
    for scans in record["scans"]:
        yield _scans(scans, look_at_scans)


def encoder_state(folder: str, digest: str) -> tuple[State, str]:
    """Whether an encoder lies in a folder and has that hash; if not, why."""
    try:
        found = encoder_hash(folder)
    except WeightsError:
        return "gone", ""
    return same(found, digest)


def same(found: str, recorded: str) -> tuple[State, str]:
    """State of a piece with that hash now, and one line where it has changed."""
    return ("same", "") if found == recorded else ("changed", f"its hash is {found} now")


# --- how it was made ------------------------------------------------------------------------------


def _run(record: Mapping[str, Any]) -> Link:
    run, encoder = record["run"], record["encoder"]
    what = f"{run['steps']} steps"
    if not run["folder"]:
        return Link(part="run", what=what, state="not recorded")
    state, note = encoder_state(storage.join(run["folder"], "encoder"), encoder["hash"])
    there = storage.exists(run["checkpoints"])
    checkpoints = f"checkpoints {run['checkpoints']}: {'there' if there else 'gone'}"
    return Link(part="run", what=what, where=run["folder"], hash=encoder["hash"], state=state,
                note="; ".join(filter(None, (note, checkpoints))))  # fmt: skip


def _parent(parent: Mapping[str, str]) -> Link:
    """What the run began with; a name in a registry or a hub says nothing of its content."""
    if not parent["hash"]:
        return Link(part="parent", what=parent["name"], state="not recorded")
    state, note = encoder_state(parent["name"], parent["hash"])
    return Link(part="parent", what=parent["name"], hash=parent["hash"], state=state, note=note)


def recipe_link(recipe: Mapping[str, Any]) -> Link:
    """Its settings, by their hash."""
    if not recipe["settings"]:
        return Link(part="recipe", what=recipe["name"], state="not recorded")
    state, note = same(config_hash(recipe["settings"]), recipe["hash"])
    return Link(part="recipe", what=recipe["name"], hash=recipe["hash"], state=state, note=note)


def made_with(record: Mapping[str, Any]) -> Iterator[Link]:
    """Code and packages, each with its steps where they changed while the run was made."""
    lives = record.get("lives")  # older records name those of the end only
    steps = record["run"]["steps"]
    for part, link_of in (("code", _code), ("environment", _environment)):
        if not lives:
            yield link_of(record[part])
            continue
        found = stretches(lives, part, steps)
        if lives[0]["after"]:
            found.insert(0, ({}, 1, lives[0]["after"]))
        for facts, first, last in found:
            link = link_of(facts)
            several = f", steps {first} to {last}" if len(found) > 1 else ""
            yield replace(link, what=link.what + several)


def _code(code: Mapping[str, str]) -> Link:
    """Other code here is no fault: the version and the hash say what to check out."""
    if not code:
        return Link(part="code", what="unknown version", state="not recorded")
    dirty = {"true": ", with uncommitted changes", "false": ""}.get(
        code["code_dirty"], ", changes unknown"
    )
    here = code_facts()["code_hash"] == code["code_hash"]
    return Link(part="code", what=f"{code['code_version'].removesuffix('-dirty')}{dirty}",
                hash=code["code_hash"], note="" if here else "this is other code")  # fmt: skip


def _environment(found: Mapping[str, str]) -> Link:
    if not found:
        return Link(part="packages", what="unknown packages", state="not recorded")
    differs = found["environment_differs"]
    return Link(part="packages", what=found["environment"], hash=found["environment_hash"],
                note=f"installed otherwise: {differs}" if differs else "")  # fmt: skip


# --- what it was made from ------------------------------------------------------------------------


def _targets(targets: Mapping[str, Any]) -> Link:
    split = {"train": "training", "val": "held-out"}.get(targets.get("split", ""), "")
    counts = (
        f": {targets['clips']} clips of {targets['scenes']} scenes" if "clips" in targets else ""
    )
    part, what = "targets", f"{split} targets{counts}".strip()
    state, note = _manifest_state(targets, "target_hash")
    return Link(part=part, what=what, where=targets.get("folder", ""),
                hash=targets.get("hash", ""), state=state, note=note)  # fmt: skip


def _manifest_state(piece: Mapping[str, Any], key: str) -> tuple[State, str]:
    """Of targets or frame shards, by the hash in their manifest."""
    if not piece.get("folder") or not piece.get("hash"):
        return "not recorded", ""
    try:
        manifest = read_manifest(piece["folder"])
    except ShardError as error:
        return "changed", str(error)
    if manifest is None:
        return "gone", ""
    return same(str(manifest.get(key)), piece["hash"])


def _teachers(record: Mapping[str, Any]) -> Iterator[Link]:
    """Each with its terms; compared with the teachers that the training targets name."""
    folder = record["targets"][0].get("folder", "")
    try:
        manifest = read_manifest(folder) or {}
    except ShardError:  # said of the targets
        manifest = {}
    now = manifest.get("references") or {}
    for role, teacher in record["teachers"].items():
        terms = record["licences"].get(f"{role} {teacher['kind']}", {})
        state: State = "unknown" if folder else "not recorded"
        note = "the targets that it made are gone" if folder else ""
        if now.get(role):
            state, note = same(now[role]["hash"], teacher["hash"])
        yield Link(
            part="teacher",
            what=f"{role}: {teacher['kind']} ({teacher['uri']}), licence {terms.get('name', '')}",
            where=terms.get("url", ""),
            hash=teacher["hash"],
            state=state,
            note=note,
        )


def _shards(shards: Mapping[str, Any]) -> Link:
    name = shards.get("dataset") or ", ".join(shards.get("datasets") or []) or "unknown data"
    counts = f": {shards['scenes']} scenes, {shards['frames']} frames" if "scenes" in shards else ""
    state, note = _manifest_state(shards, "data_hash")
    if state in ("same", "changed"):
        manifest = read_manifest(shards["folder"]) or {}
        hashes, splits = manifest.get("shards", {}), manifest.get("splits", {})
        if hashes.keys() != splits.keys() or data_hash(hashes, splits) != manifest["data_hash"]:
            state, note = "changed", "the manifest's hash is not that of its scenes"
        version = storage.join(shards["folder"], "versions", f"{shards['hash'][:12]}.json")
        if state == "changed" and storage.exists(version):
            note += f"; as it was then: {version}"
    return Link(part="shards", what=f"{name}{counts}", where=shards.get("folder", ""),
                hash=shards["hash"], state=state, note=note)  # fmt: skip


def _scans(scans: Mapping[str, Any], look: LookAtScans | None) -> Link:
    splits = ", ".join(f"{n} {split or 'without split'}" for split, n in scans["splits"].items())
    dropped = ", ".join(f"{n} {reason}" for reason, n in scans["dropped"].items() if n)
    left_out = f"{scans['failures']} unusable, {scans['kept_out']} kept out of training"
    what = (
        f"{scans['dataset']}: {scans['scenes']} scans ({splits}),"
        f" {scans['frames']} of {scans['announced']} frames; {left_out}"
    )
    state, notes = _as_noted(scans), [f"dropped: {dropped}"] if dropped else []
    if look is not None and scans["root"]:
        now, said = look(scans)
        state = now if state == "same" else state
        notes.append(said)
    elif not scans["root"]:
        notes.append("where they were read from is not recorded")
    return Link(part="scans", what=what, where=scans["root"], hash=scans["hash"], state=state,
                note="; ".join(notes))  # fmt: skip


def _as_noted(scans: Mapping[str, Any]) -> State:
    """By what ingest noted of each scan beside its shard."""
    if not scans["hash"]:
        return "not recorded"
    manifest = read_manifest(scans["shards"])
    found = scans_hash(scans["shards"], manifest["shards"]) if manifest else ""
    return same(found, scans["hash"])[0] if found else "gone"
