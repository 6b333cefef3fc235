"""Spa3-VLMs in the registry: versions that depend on a version of an encoder."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from spa3r.errors import WeightsError
from spa3r.train.provenance import encoder_hash
from spa3r.train.registry import (
    ENCODER_HASH,
    ENCODER_NAME,
    VLM_HASH,
    Model,
    named,
    register,
    run_tags,
)
from spa3r.train.tracking import Tracker
from spa3r.train.vlm_origin import VlmOrigin as VlmOrigin  # by this name too, for who registers
from spa3r.train.vlm_origin import vlm_lineage_of
from spa3r.vlm.folder import beside, read_card

logger = logging.getLogger(__name__)

VLM_NAME: Final = "spa3-vlm"
_PYFUNC: Final = Path(__file__).with_name("vlm_pyfunc.py")
_VERSION: Final = re.compile(r"models:/([^/@]+)/(\d+)")


def register_vlm(
    tracker: Tracker,
    folder: str | Path,
    origin: VlmOrigin | None = None,
    *,
    name: str = VLM_NAME,
    candidate: bool = True,
) -> tuple[str, bool]:
    """Registers a Spa3-VLM's folder as a version, with alias `candidate` unless told otherwise.

    Tags name the encoder's version that it depends on, the base and the hash of each instruction
    set; lineage.json, recipe.json and the packages become artifacts of its run.

    Args:
        origin: where the run's inputs and outputs lie; None: not known.

    Returns:
        The version's number, and whether this very model was there already.

    Raises:
        WeightsError: not a Spa3-VLM.
    """
    known = _encoder_hash(tracker.client, str(folder))
    record = vlm_lineage_of(folder, origin or VlmOrigin(), encoder_hash=known)
    model = Model(
        kind="vlm", folder=folder, record=record, pyfunc=_PYFUNC, hash_tag=VLM_HASH,
        tags=lambda: vlm_tags(record),
    )  # fmt: skip
    return register(tracker, model, name=name, candidate=candidate)


def _encoder_hash(client: Any, folder: str) -> str:
    """Of the files of the encoder that a model depends on; "" without one, or where it is gone."""
    uri = read_card(folder).encoder.get("uri", "")
    if not uri:
        return ""
    try:
        if uri.startswith("models:/"):
            return named(client, uri).encoder_hash
        return encoder_hash(beside(folder, uri))
    except WeightsError as error:
        logger.warning("%s: its encoder is not recorded by its files: %s", folder, error)
        return ""


def vlm_tags(record: Mapping[str, Any]) -> dict[str, str]:
    """What versions are searched by; the record itself is an artifact."""
    encoder, recipe = record["encoder"], record["recipe"]
    name, version = encoder_version(encoder)
    licences = {
        one["name"] for found in record["sets"] for one in found.get("licences", {}).values()
    }
    tags = {
        ENCODER_HASH: encoder.get("files_hash", ""),
        "encoder_weights_hash": encoder.get("hash", ""),
        "encoder_name": name,
        "encoder_version": version,
        "encoder": encoder.get("uri", ""),
        "base": record["base"]["uri"],
        "base_hash": record["base"]["hash"],
        "recipe": recipe["name"],
        "recipe_hash": recipe["hash"],
        "steps": str(record["run"]["steps"]),
        "instruction_sets": ",".join(one["name"] for one in record["sets"]),
        "licences": ",".join(sorted(licences)),
        # What MLflow allows in a tag's name.
        **{f"set_{re.sub(r'[^A-Za-z0-9_.-]', '_', one['name'])}": one["hash"]
           for one in record["sets"]},
    }  # fmt: skip
    return run_tags(record) | {key: value for key, value in tags.items() if value}


def encoder_version(encoder: Mapping[str, str]) -> tuple[str, str]:
    """Name and version in the registry of the encoder that a card names; "" where it is not of
    one."""
    form, version = _VERSION.fullmatch(encoder.get("uri", "")), encoder.get("version", "")
    if form is not None:
        return form[1], form[2]
    return ENCODER_NAME if version else "", version
