"""What an encoder is and where it comes from: its hash, its history, the code that made it."""

import hashlib
import subprocess
from pathlib import Path

from spa3r import storage
from spa3r.errors import WeightsError


def encoder_hash(folder: str | Path) -> str:
    """16 hex digits over the files of an encoder folder: the identity of a version."""
    files = [storage.join(folder, name) for name in ("config.json", "model.safetensors")]
    missing = [url for url in files if not storage.exists(url)]
    if missing:
        raise WeightsError(f"{missing[0]} is missing: {folder} is not an encoder")
    text = "".join(storage.sha256(url) for url in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def provenance_tags(folder: str | Path) -> dict[str, str]:
    """Recipe, data and teachers of an encoder folder, as its card says."""
    card = storage.read_json(storage.join(folder, "config.json"))
    provenance = card["provenance"]
    tags = {key: str(provenance[key]) for key in ("recipe", "data_hash", "target_hash", "steps")}
    for role, reference in card["references"].items():
        prefix = "teacher" if role == "geometric" else f"{role}_teacher"
        tags |= {f"{prefix}_{key}": str(value) for key, value in reference.items()}
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
