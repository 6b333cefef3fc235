"""The stage from targets to sequential shards, as a plain function. No Prefect here."""

from collections.abc import Mapping
from typing import Any

from flows.data_stages import require_targets
from flows.settings import Settings
from flows.stage import StageResult, say
from spa3r.recipes import catalogue

Overrides = Mapping[str, Any] | None


def pack(
    *, dataset: str = "rooms", recipe: str = "tiny", overrides: Overrides = None
) -> StageResult:
    """Sequential shards of the training targets; the stage `targets` does it too, for a recipe
    whose source is `packed`. A poisoned clip ends it, whatever `data.poisoned` says."""
    from preprocessing.pack import pack_targets

    settings, plan = Settings.from_environment(), catalogue.get(recipe, overrides)
    folder = require_targets(settings, dataset, plan, "train")
    packed = pack_targets(folder, settings.packed(dataset, plan), workers=settings.workers)
    reused = packed.reused == packed.shards
    done = (
        f"{packed.clips} clips in {packed.shards} shards, {packed.bytes / 1e9:.2f} GB in"
        f" {packed.folder}"
    )
    facts = {"packed": packed.folder, "clips": packed.clips, "shards": packed.shards,
             "bytes": packed.bytes, "pack hash": packed.pack_hash}  # fmt: skip
    return StageResult(stage="pack", line=say(done, reused=reused), facts=facts, reused=reused)
