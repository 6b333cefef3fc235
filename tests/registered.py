"""A registry of encoders that nobody trained, with scores that a test makes up."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.scores import EVALUATION, FIELD, Evaluation
from spa3r.eval.controls import CONTROLS
from spa3r.eval.field_report import MIN_SCENES, FieldReport, SceneRow, summarise
from spa3r.recipes import catalogue
from spa3r.train import registry, tracking
from tests.untrained import save_untrained


def field_report(
    margin: float, *, scenes: int = MIN_SCENES, sem: float | None = None, noise: float = 0.02
) -> FieldReport:
    """The model at geometric R2 0.5 + margin on average, all controls at 0.5, in every scene."""
    rows = []
    for s in range(scenes):
        model = {"geo/r2": 0.5 + margin + noise * (s % 3 - 1)}
        if sem is not None:
            model["sem/r2"] = sem
        scores = {"model": model} | {control: {"geo/r2": 0.5} for control in CONTROLS}
        rows.append(
            SceneRow(dataset="rooms", scene=f"scene{s:04d}_00", clips=4, tokens=100, scores=scores)
        )
    return summarise(rows, {}, "teacher", seed=0)


def register_untrained(uri: str, folder: Path, seed: int) -> str:
    """Registers an encoder of the recipe `debug`; returns the version's number."""
    encoder = save_untrained(folder / f"encoder{seed}", seed=seed)
    hashes, files = {"target_hash": str(seed)}, folder / "files"
    with tracking.track(uri, catalogue.get("debug"), hashes, artifacts=files) as tracker:
        return registry.register_encoder(tracker, encoder)[0]


@dataclass
class Registry:
    """Registered versions; a test says which one is the candidate and how good it is."""

    folder: Path
    client: Any

    def version(self, number: str) -> registry.Registered:
        found = registry.find_version(self.client, number)
        assert found is not None
        return found

    def candidate(self, number: str, report: FieldReport, **of: str) -> None:
        """Makes it the candidate, with these scores logged."""
        self.client.set_registered_model_alias(registry.ENCODER_NAME, registry.CANDIDATE, number)
        version = self.version(number)
        found = Evaluation(**{
            "encoder_hash": version.tags["encoder_hash"], "target_hash": "t" * 16,
            "dataset": "rooms", "space_hash": "s", "recipe": catalogue.get("debug"),
            "field": report, **of,
        })  # fmt: skip
        found.write(self.folder / FIELD)
        tracker = tracking.Tracker(self.client, version.run_id)
        tracker.log_artifact(self.folder / FIELD, found.folder)
        registry.tag(self.client, version, {EVALUATION: found.folder})

    def champion(self) -> str | None:
        found = registry.find(self.client, registry.CHAMPION)
        return found.version if found else None
