"""What an encoder came from, written down when it is finished: lineage.json.

The encoder's own card names its recipe, data and teachers by hash, and is the same wherever it was
trained. This record adds the places: run, targets, frame shards, scans. `spa3r lineage` follows
them (spa3r/train/lineage.py).
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from spa3r import storage
from spa3r.errors import ShardError, WeightsError
from spa3r.licences import parts
from spa3r.plain import config_hash
from spa3r.schema import ROOT, SIDECAR_SUFFIX
from spa3r.train.lives import lives_of
from spa3r.train.provenance import encoder_hash

FORMAT: Final = "spa3r-lineage-1"
LINEAGE: Final = "lineage.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Folders and URLs of one run; "" where there is none."""

    run: str = ""
    checkpoints: str = ""
    targets: str = ""
    held_out: str = ""
    shards: str = ""
    init_from: str = ""
    """Weights that the run began with: an encoder folder, a registry or Hugging Face name."""


def lineage_of(encoder: str | Path, origin: Origin) -> dict[str, Any]:
    """The record of a finished encoder, as plain JSON.

    A run keeps it beside its encoder. Code and packages are those that its processes noted as they
    began to train (spa3r/train/lives.py), `code` and `environment` of the last one; not those of
    the process that asks.

    Args:
        encoder: folder that `save_pretrained` wrote.

    Raises:
        WeightsError: not an encoder. ShardError: a manifest on the way is damaged. TrainingError:
            the run's list of processes is.
    """
    digest = encoder_hash(encoder)
    kept = read_lineage(origin.run, digest) if origin.run else None
    if kept is not None:
        return kept
    record = card_lineage(encoder)
    record["run"] |= {"folder": origin.run, "checkpoints": origin.checkpoints}
    record["targets"] = [_targets(origin.targets) | record["targets"][0]]
    if origin.held_out:
        record["targets"].append(_targets(origin.held_out))
    record["shards"] = _shards(origin.shards) | record["shards"]
    record |= {
        "parent": _parent(origin.init_from),
        "lives": lives_of(origin.run) if origin.run else [],
        "scans": _scans(origin.shards),
    }
    if record["lives"]:
        record |= {part: record["lives"][-1][part] for part in ("code", "environment")}
    if origin.run:
        storage.write_json(storage.join(origin.run, LINEAGE), record)
    return record


def card_lineage(encoder: str | Path) -> dict[str, Any]:
    """What an encoder's own card says: hashes, no places. Raises WeightsError as `encoder_hash`."""
    digest = encoder_hash(encoder)
    card = storage.read_json(storage.join(encoder, "config.json"))
    provenance = card["provenance"]
    settings, datasets = provenance.get("settings"), provenance.get("datasets")
    return {
        "format": FORMAT,
        "encoder": {"folder": _absolute(encoder), "hash": digest},
        "run": {"folder": "", "checkpoints": "", "steps": provenance["steps"]},
        "parent": None,
        "recipe": {"name": provenance["recipe"], "settings": settings,
                   "hash": config_hash(settings) if settings else ""},
        "code": {},
        "environment": {},
        "lives": [],
        "teachers": card["references"],
        "licences": {f"{p.role} {p.name}": asdict(p.licence)
                     for p in parts(card["references"], datasets)},
        "targets": [{"split": "train", "hash": provenance["target_hash"]}],
        "shards": {"hash": provenance["data_hash"], "datasets": datasets},
        "scans": [],
    }  # fmt: skip


def read_lineage(folder: str | Path, digest: str) -> dict[str, Any] | None:
    """The record in a folder, None where there is none of the encoder with that hash."""
    url = storage.join(folder, LINEAGE)
    if not storage.exists(url):
        return None
    record = storage.read_json(url)
    fits = isinstance(record, dict) and record.get("format") == FORMAT
    return record if fits and record["encoder"]["hash"] == digest else None


def read_manifest(folder: str) -> dict[str, Any] | None:
    """manifest.json of targets or frame shards, None where there is none.

    Raises:
        ShardError: it is not one.
    """
    url = storage.join(folder, "manifest.json")
    if not folder or not storage.exists(url):
        return None
    found = storage.read_json(url)
    if not isinstance(found, dict) or "data_hash" not in found:
        raise ShardError(f"{url}: not a manifest; make it again")
    return found


def scans_hash(shards: str, scenes: Mapping[str, str]) -> str:
    """16 hex digits over the signatures of a dataset's scans, as ingest read them.

    Args:
        shards: folder of frame shards.
        scenes: by name, as the manifest lists them.

    Returns:
        "" where a scene's sidecar is gone.
    """
    urls = {name: storage.join(shards, f"{name}{SIDECAR_SUFFIX}") for name in sorted(scenes)}
    found = storage.read_many(list(urls.values()))
    if None in found or not urls:
        return ""
    signatures = {}
    for (name, url), text in zip(urls.items(), found, strict=True):
        try:
            signatures[name] = json.loads(text or b"")["counts"]["signature"]
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{url}: not a sidecar ({error!r}); ingest again") from error
    return config_hash(signatures)


# --- the parts of a record ------------------------------------------------------------------------


def _absolute(folder: str | Path) -> str:
    return str(Path(folder).absolute()) if storage.is_local(folder) else str(folder)


def _parent(init_from: str) -> dict[str, str] | None:
    """What the run began with; its hash where it is a folder."""
    if not init_from:
        return None
    try:
        digest = encoder_hash(init_from)
    except WeightsError:  # a name in a registry or a hub, or a bare file of weights
        digest = ""
    return {"name": init_from, "hash": digest}


def _targets(folder: str) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if manifest is None:
        return {"folder": folder}
    keys = ("split", "stored", "scenes", "clips", "bytes", "data_hash")
    return {
        "folder": folder,
        "hash": manifest["target_hash"],
        "dtype": manifest["teacher"].get("dtype", ""),
        "dropped": len(manifest.get("dropped", {})),
        **{key: manifest[key] for key in keys if key in manifest},
    }


def _shards(folder: str) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if manifest is None:
        return {"folder": folder}
    keys = ("dataset", "scenes", "frames", "spec", "merged")
    found = {key: manifest[key] for key in keys if key in manifest}
    return {"folder": folder, "hash": manifest["data_hash"], **found}


def _scans(folder: str) -> list[dict[str, Any]]:
    """What was read, one entry a dataset: a merged manifest has several."""
    manifest = read_manifest(folder)
    if manifest is None:
        return []
    if "merged" in manifest:
        return [entry for member in manifest["merged"] for entry in _scans(member["folder"])]
    root = storage.join(folder, ROOT)
    return [{
        "dataset": manifest["dataset"],
        "root": storage.read_json(root)["root"] if storage.exists(root) else "",
        "shards": folder,
        "hash": scans_hash(folder, manifest["shards"]),
        "scenes": manifest["scenes"],
        "splits": dict(sorted(Counter(manifest["splits"].values()).items())),
        "announced": manifest["announced"],
        "frames": manifest["frames"],
        "dropped": manifest["dropped"],
        "failures": len(manifest["failures"]),
        "kept_out": len(manifest["kept_out"]),
    }]  # fmt: skip
