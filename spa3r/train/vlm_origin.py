"""What a Spa3-VLM came from, written down when it is finished: lineage.json of its run.

Its encoder is named as a version of the registry; the chain goes on from there to the scans
(spa3r/train/lineage.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from spa3r import storage
from spa3r.data.instruction_sets import InstructionSet, read_set
from spa3r.plain import config_hash
from spa3r.train.lives import lives_of
from spa3r.train.origin import LINEAGE
from spa3r.vlm.folder import read_card

FORMAT: Final = "spa3-vlm-lineage-1"


@dataclass(frozen=True, kw_only=True, slots=True)
class VlmOrigin:
    """Folders and URLs of one run; "" where there is none."""

    run: str = ""
    checkpoints: str = ""
    sets: Mapping[str, str] = field(default_factory=dict)
    """Folder of each instruction set."""


def vlm_lineage_of(vlm: str | Path, origin: VlmOrigin, *, encoder_hash: str = "") -> dict[str, Any]:
    """The record of a finished Spa3-VLM, as plain JSON; its run keeps it beside the model.

    Args:
        encoder_hash: of its encoder's files, by which the registry knows it; "": not known.

    Raises:
        WeightsError: not a Spa3-VLM. FormatError: an instruction set is gone or damaged.
        TrainingError: the run's list of processes is.
    """
    record = card_record(vlm)
    kept = read_vlm_lineage(origin.run, record["vlm"]["hash"]) if origin.run else None
    if kept is not None:
        return kept
    record["run"] |= {"folder": origin.run, "checkpoints": origin.checkpoints}
    record["sets"] = [
        {"name": name, "folder": folder, **_set_facts(read_set(folder))}
        for name, folder in sorted(origin.sets.items())
    ] or record["sets"]
    if record["encoder"]:
        record["encoder"]["files_hash"] = encoder_hash
    record["lives"] = lives_of(origin.run) if origin.run else []
    if record["lives"]:
        record |= {part: record["lives"][-1][part] for part in ("code", "environment")}
    if origin.run:
        storage.write_json(storage.join(origin.run, LINEAGE), record)
    return record


def card_record(vlm: str | Path) -> dict[str, Any]:
    """What a model's own card says: hashes, no places. Raises WeightsError: not a Spa3-VLM."""
    card = read_card(str(vlm))
    made = card.provenance
    settings = made.get("settings")
    folder = str(Path(vlm).absolute()) if storage.is_local(vlm) else str(vlm)
    return {
        "format": FORMAT,
        "vlm": {"folder": folder, "hash": card.hash},
        "run": {"folder": "", "checkpoints": "", "steps": made.get("steps", 0)},
        "recipe": {"name": made.get("recipe", ""), "settings": settings,
                   "hash": config_hash(settings) if settings else ""},
        "code": {},
        "environment": {},
        "lives": [],
        "sets": [{"name": name, "folder": "", "hash": digest}
                 for name, digest in sorted(made.get("sets", {}).items())],
        "dropped": made.get("dropped", {}),
        "base": dict(card.base),
        "encoder": dict(card.encoder),
    }  # fmt: skip


def read_vlm_lineage(folder: str | Path, digest: str) -> dict[str, Any] | None:
    """The record in a folder, None where there is none of the model with that hash."""
    url = storage.join(folder, LINEAGE)
    if not storage.exists(url):
        return None
    record = storage.read_json(url)
    fits = isinstance(record, dict) and record.get("format") == FORMAT
    return record if fits and record["vlm"]["hash"] == digest else None


def _set_facts(found: InstructionSet) -> dict[str, Any]:
    keys = ("source", "rows", "made_from", "licences")
    return {"hash": found.hash, **{k: found.manifest[k] for k in keys if k in found.manifest}}
