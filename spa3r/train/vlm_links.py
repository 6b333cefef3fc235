"""The pieces that a Spa3-VLM's lineage record names, each compared with what lies there now."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from spa3r import storage
from spa3r.data.instruction_sets import MANIFEST
from spa3r.errors import ShardError, TeacherError, WeightsError
from spa3r.teachers.checkpoints import load_state_dict, state_hash
from spa3r.train.links import Link, State, made_with, recipe_link, same
from spa3r.train.tune_work import VLM
from spa3r.vlm.folder import read_card

SUITE_SCORES: Final = "suite_scores"
"""Tag of a version: one line for each suite that it was scored on, split by "; "."""


def vlm_state(folder: str, digest: str) -> tuple[State, str]:
    """Whether a Spa3-VLM lies in a folder, its tensors are those that its card names and it has
    that hash; if not, why."""
    try:
        card = read_card(folder)
        paths = {file: storage.join(folder, file) for file in card.files}
        found = {file: state_hash(load_state_dict(path)) for file, path in paths.items()}
    except (WeightsError, TeacherError, ShardError):
        return "gone", ""
    for file, wanted in card.weights.items():
        if found[file] != wanted:
            return "changed", f"the tensors of {file} are not those that config.json names"
    return same(card.hash, digest)


def vlm_links_of(record: Mapping[str, Any]) -> Iterator[Link]:
    """From the run back to what it learnt from; without the encoder."""
    yield _run(record)
    yield recipe_link(record["recipe"])
    yield from made_with(record)
    for found in record["sets"]:
        yield _set(found, record["dropped"].get(found["name"], {}))
    if not record["sets"]:
        yield Link(part="set", what="unknown instruction sets", state="not recorded")
    base = record["base"]
    yield Link(part="base", what=f"{base['uri']} ({base['kind']})", hash=base["hash"])


def dependency(encoder: Mapping[str, str], now: str) -> Link:
    """The encoder that a model was tuned with.

    Args:
        now: hash of the files of the encoder that its name leads to.
    """
    files = encoder.get("files_hash", "")
    state, note = same(now, files) if files else ("not recorded", "")
    return Link(
        part="encoder", what="tuned with this encoder", where=encoder["uri"], hash=files,
        state=state, note=note,
    )  # fmt: skip


def _run(record: Mapping[str, Any]) -> Link:
    run, digest = record["run"], record["vlm"]["hash"]
    what = f"{run['steps']} steps of tuning"
    if not run["folder"]:
        return Link(part="run", what=what, state="not recorded")
    state, note = vlm_state(storage.join(run["folder"], VLM), digest)
    place = run["checkpoints"] or storage.join(run["folder"], "checkpoints")
    there = "there" if storage.exists(place) else "gone"
    note = "; ".join(filter(None, (note, f"checkpoints {place}: {there}")))
    return Link(part="run", what=what, where=run["folder"], hash=digest, state=state, note=note)


def _set(found: Mapping[str, Any], dropped: Mapping[str, int]) -> Link:
    rows = f": {found['rows']} conversations" if "rows" in found else ""
    left_out = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    state, note = _set_state(found)
    notes = filter(None, (note, f"left out: {left_out}" if left_out else ""))
    return Link(part="set", what=f"{found['name']}{rows}", where=found["folder"],
                hash=found["hash"], state=state, note="; ".join(notes))  # fmt: skip


def _set_state(found: Mapping[str, Any]) -> tuple[State, str]:
    """By what the set's manifest says now, or the file itself where it has none."""
    place = found["folder"]
    if not place:
        return "not recorded", ""
    if not storage.exists(place):
        return "gone", ""
    manifest = storage.join(place, MANIFEST)
    if not storage.exists(manifest):
        is_file = place.endswith(".jsonl")
        return same(storage.sha256(place), found["hash"]) if is_file else ("gone", "")
    try:
        now = storage.read_json(manifest)
    except ShardError as error:
        return "changed", str(error)
    return same(str(now.get("hash")), found["hash"])
