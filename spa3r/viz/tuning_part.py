"""The part of a report that is about tuning: loss, what was left out, and what is learnt of a text.

It is gathered from the run that made a model, as far as the run and its sets are still there.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from spa3r import storage
from spa3r.data.instruction_sets import InstructionSet, read_set
from spa3r.data.media import MediaReader, training_frames
from spa3r.errors import MediaError, ShardError
from spa3r.instructions import Instruction
from spa3r.plain import from_dict
from spa3r.train.metrics import METRICS, read_lines
from spa3r.tune_config import MixtureConfig
from spa3r.viz.token_mask import supervised_tokens
from spa3r.viz.vlm_report_data import SupervisedText
from spa3r.vlm import folder as files
from spa3r.vlm.card import VlmCard
from spa3r.vlm.processor import Processor

log = logging.getLogger(__name__)

_SETS: Final = 2
"""Instruction sets of which a conversation is shown."""


def tuning_part(record: Mapping[str, Any]) -> dict[str, Any]:
    """Fields `curve`, `drops` and `supervised` of VlmReportData.

    Args:
        record: of a Spa3-VLM's lineage (spa3r/train/vlm_origin.py): folders of model, run and sets.
            What is no longer in them, or is no longer what was learnt, is left away.

    Raises:
        FormatError, WeightsError: an instruction set or the model is damaged.
    """
    run, sets = record["run"]["folder"], _sets(record)
    drops = {f"Making {name}": found.manifest.get("dropped", {}) for name, found in sets.items()}
    for name, reasons in record.get("dropped", {}).items():
        drops[f"Tuning, of {name}"] = reasons
    return {
        "curve": read_lines(Path(run) / METRICS) if run else [],
        "drops": drops,
        "supervised": _supervised(record["vlm"]["folder"], sets),
    }


def _sets(record: Mapping[str, Any]) -> dict[str, InstructionSet]:
    """The sets that were learnt, by name, as far as they are there unchanged."""
    found = {}
    for one in record["sets"]:
        if not one["folder"] or not storage.exists(one["folder"]):
            continue
        given = read_set(one["folder"])
        if given.hash == one["hash"]:
            found[one["name"]] = given
        else:
            log.warning("%s is no longer what was learnt: it is not shown", one["folder"])
    return found


def _supervised(vlm: str, sets: Mapping[str, InstructionSet]) -> list[SupervisedText]:
    """A conversation of each of the first sets, as tuning cuts it."""
    if not sets or not storage.exists(storage.join(vlm, "config.json")):
        return []
    card = files.read_card(vlm)
    processor = Processor.from_base(files.beside(vlm, card.base["uri"]), card.vlm)
    found = []
    for name, given in list(sets.items())[:_SETS]:
        one = given.instructions[0]
        try:
            found.append(
                supervised_text(f"{name}, {one.id}", one, given.media_root, card, processor)
            )
        except (MediaError, ShardError) as error:
            log.warning("no picture of what is learnt of %s: %s", name, error)
    return found


def supervised_text(
    title: str, one: Instruction, media_root: str, card: VlmCard, processor: Processor
) -> SupervisedText:
    """A conversation in tokens, with the labels that tuning gives them. Geometry that the fusion
    `append` puts into the sequence is not shown.

    Raises:
        MediaError, ShardError: its media cannot be shown.
    """
    mixture = card.provenance.get("settings", {}).get("mixture", {})
    rule = training_frames(from_dict(MixtureConfig, mixture))
    views = MediaReader(media_root).views(one, card.vlm, rule)
    sample = processor.sample(one.turns, views)
    tokenizer = processor.tokenizer
    return SupervisedText(
        title=title,
        tokens=supervised_tokens(
            sample.input_ids_T.tolist(),
            sample.labels_T.tolist(),
            lambda token: tokenizer.decode([token]),
        ),
    )
