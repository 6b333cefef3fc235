"""Evaluations as files: made once, kept among the reports, logged to the run of the encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from flows.data_stages import require_targets
from flows.evaluation import field_of, space_of
from flows.settings import Settings
from spa3r import storage
from spa3r.config import Recipe
from spa3r.errors import ShardError
from spa3r.eval.controls import CONTROLS
from spa3r.eval.field_report import COMPARED, MODEL, FieldReport
from spa3r.plain import from_dict, to_dict
from spa3r.train.provenance import encoder_hash

EVALUATION = "evaluation"
"""Folder of a run's artifacts; tag of a version that names the newest evaluation in it."""
FIELD = "field.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """field.json: the scores of one encoder on one set of held-out targets."""

    encoder_hash: str
    target_hash: str
    dataset: str
    space_hash: str
    """Scores are comparable where it is the same."""
    recipe: Recipe
    """By which the targets are found."""
    field: FieldReport

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Raises ShardError for anything but an evaluation of this version's form."""
        values = storage.read_json(path)
        try:
            names = ("encoder_hash", "target_hash", "dataset", "space_hash")
            texts = {name: str(values[name]) for name in names}
            recipe, field = values["recipe"], values["report"]
        except (KeyError, TypeError) as error:
            raise ShardError(
                f"{path}: not an evaluation of this version ({error!r}); run `spa3r evaluate` again"
            ) from error
        return cls(**texts, recipe=from_dict(Recipe, recipe), field=FieldReport.from_json(field))

    def write(self, path: Path) -> None:
        storage.write_json(path, {
            "encoder_hash": self.encoder_hash, "target_hash": self.target_hash,
            "dataset": self.dataset, "space_hash": self.space_hash,
            "recipe": to_dict(self.recipe), "report": self.field.to_json(),
        })  # fmt: skip

    @property
    def folder(self) -> str:
        """Where it lies in the encoder's run."""
        return artifact_folder(self.dataset, self.target_hash, self.encoder_hash)

    @property
    def summary(self) -> str:
        """Every R2 of the model beside the five controls, on one line."""
        mean, parts = self.field.mean, []
        for metric in (m for m in COMPARED if m in mean[MODEL]):
            against = ", ".join(f"{c} {mean[c][metric]:.3f}" for c in CONTROLS if metric in mean[c])
            parts.append(f"{metric} {mean[MODEL][metric]:.3f} ({against})")
        return f"{'; '.join(parts)} on {len(self.field.scenes)} scenes of {self.dataset}"


def artifact_folder(dataset: str, target_hash: str, digest: str) -> str:
    """An encoder keeps one evaluation for each set of held-out targets."""
    return f"{EVALUATION}/{dataset}-{target_hash[:8]}-{digest[:8]}"


def held_out_hash(settings: Settings, dataset: str, recipe: Recipe) -> str:
    """Hash of the held-out targets that lie there now. Raises ShardError where none do."""
    val = require_targets(settings, dataset, recipe, "val")
    return storage.read_json(storage.join(val, "manifest.json"))["target_hash"]


def present_hash(settings: Settings, dataset: str, recipe: Recipe) -> str | None:
    """As `held_out_hash`, None where no targets lie there. Raises ShardError: damaged."""
    url = storage.join(settings.targets(dataset, recipe, "val"), "manifest.json")
    return storage.read_json(url)["target_hash"] if storage.exists(url) else None


def report_name(settings: Settings, dataset: str, recipe: Recipe, encoder: Path) -> str:
    """Folder of an evaluation among the reports: no other encoder or held-out targets have it."""
    digest, target_hash = encoder_hash(encoder), held_out_hash(settings, dataset, recipe)
    return f"{recipe.name}-{dataset}-{digest[:8]}-{target_hash[:8]}"


def evaluate_once(
    settings: Settings, dataset: str, recipe: Recipe, encoder: Path, *, like: Path | None = None
) -> tuple[Evaluation, Path, bool]:
    """Scores an encoder, unless the same was done before.

    Args:
        like: another encoder, in whose space it is scored; None: its own.

    Returns:
        The evaluation, the folder of its files, and whether it was there already.

    Raises:
        OtherTargetsError: the recipe's targets are none that the encoder can be asked with.
    """
    space = space_of(settings, dataset, recipe, like or encoder)
    out = settings.reports / report_name(settings, dataset, recipe, encoder)
    if like is not None:
        out = out.with_name(f"{out.name}-as-{space[:8]}")
    identity: dict[str, Any] = {
        "encoder_hash": encoder_hash(encoder),
        "target_hash": held_out_hash(settings, dataset, recipe),
        "dataset": dataset,
        "space_hash": space,
    }
    kept = storage.read_json(out / FIELD) if (out / FIELD).exists() else {}
    reused = identity.items() <= kept.items() and "recipe" in kept
    if not reused:
        field = field_of(settings, dataset, recipe, encoder, like=like)
        Evaluation(**identity, recipe=recipe, field=field).write(out / FIELD)
    return Evaluation.read(out / FIELD), out, reused
