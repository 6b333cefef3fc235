"""What an encoder is and where it comes from: its hash, its history, the code that made it."""

import hashlib
import re
import subprocess
from pathlib import Path

from spa3r import storage
from spa3r.errors import WeightsError
from spa3r.licences import licences_of, parts


def encoder_hash(folder: str | Path) -> str:
    """16 hex digits over the files of an encoder folder: the identity of a version."""
    files = [storage.join(folder, name) for name in ("config.json", "model.safetensors")]
    missing = [url for url in files if not storage.exists(url)]
    if missing:
        raise WeightsError(f"{missing[0]} is missing: {folder} is not an encoder")
    text = "".join(storage.sha256(url) for url in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def provenance_tags(folder: str | Path) -> dict[str, str]:
    """Recipe, data, teachers and terms of an encoder folder, as its card says.

    `licences` holds the names of all terms; licence_<role> and licence_data_<name> those of each
    part it was learnt from.
    """
    card = storage.read_json(storage.join(folder, "config.json"))
    provenance = card["provenance"]
    tags = {key: str(provenance[key]) for key in ("recipe", "data_hash", "target_hash", "steps")}
    for role, reference in card["references"].items():
        prefix = "teacher" if role == "geometric" else f"{role}_teacher"
        tags |= {f"{prefix}_{key}": str(value) for key, value in reference.items()}
    datasets = provenance.get("datasets")
    found = licences_of(card["references"], datasets)
    tags["licences"] = ",".join(licence.name for licence in found)
    for part in parts(card["references"], datasets):
        key = f"data_{part.name}" if part.role == "data" else part.role
        # What MLflow allows in a tag's name.
        tags[re.sub(r"[^\w.-]", "_", f"licence_{key}", flags=re.ASCII)] = part.licence.name
    return tags


def code_version() -> str:
    """`git describe` of the checkout this package runs from, "unknown" outside of one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
