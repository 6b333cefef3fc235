"""The two halves of the stage `evaluate`: measure the field, and lay out the report."""

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from flows.data_stages import require_shards, require_targets
from flows.settings import Settings
from flows.stage import read_timings
from spa3r.config import Recipe
from spa3r.data.cached import CachedTargets
from spa3r.data.shards import FrameTable
from spa3r.errors import ConfigError
from spa3r.eval.examples import example_clips
from spa3r.eval.field import evaluate_field, feature_spaces, space_hash
from spa3r.eval.field_report import FieldReport
from spa3r.eval.gate import GateVerdict
from spa3r.hub import Spa3REncoder
from spa3r.progress import meter
from spa3r.storage import redacted
from spa3r.train.metrics import read_lines
from spa3r.train.provenance import code_version
from spa3r.viz.report import DataSummary, Place, ReportData, StageTime, write_report

EXAMPLES = 6
VERSIONS = ("torch", "prefect", "ray", "mlflow", "webdataset", "open3d")


class OtherTargetsError(ConfigError):
    """Targets that an encoder cannot be asked with: of another teacher, or another image size."""


def field_of(
    settings: Settings, dataset: str, recipe: Recipe, encoder: Path, *, like: Path | None = None
) -> FieldReport:
    """Scores the encoder on every held-out clip.

    Args:
        like: another encoder, in whose space it is scored; None: its own.

    Raises:
        OtherTargetsError: the recipe's targets are none that the encoder can be asked with.
    """
    student = Spa3REncoder.from_pretrained(encoder)
    train, val = _sources(settings, dataset, recipe, student)
    spaces = feature_spaces(Spa3REncoder.from_pretrained(like).model, train.stats) if like else None
    scenes = len({clip.scene for clip in val.clips})
    with meter("evaluate", scenes, "scenes") as progress:
        return evaluate_field(
            student.model,
            val,
            train_stats=train.stats,
            spaces=spaces,
            device=settings.device,
            meter=progress,
        )


def space_of(settings: Settings, dataset: str, recipe: Recipe, encoder: Path) -> str:
    """Hash of the space that the encoder is scored in. Raises as field_of does."""
    student = Spa3REncoder.from_pretrained(encoder)
    train, _ = _sources(settings, dataset, recipe, student)
    return space_hash(feature_spaces(student.model, train.stats))


def report_of(
    settings: Settings,
    dataset: str,
    recipe: Recipe,
    encoder: Path,
    field: FieldReport,
    verdict: GateVerdict,
    path: Path,
) -> None:
    """Writes the HTML report. Raises as field_of does."""
    student = Spa3REncoder.from_pretrained(encoder)
    train, val = _sources(settings, dataset, recipe, student)
    table = FrameTable(require_shards(settings, dataset, recipe))
    examples = example_clips(
        student.model, val, table, EXAMPLES, train_stats=train.stats, device=settings.device
    )
    metrics = settings.run(dataset, recipe) / "metrics.jsonl"
    references = student.card.references
    write_report(
        path,
        ReportData(
            title=f"Spa3R pre-training: {recipe.name} on {dataset}",
            recipe=recipe,
            geometric_teacher=references["geometric"],
            semantic_teacher=references.get("semantic"),
            linguistic_teacher=references.get("linguistic"),
            data=_summary(dataset, table, train, val),
            field=field,
            verdict=verdict,
            metrics=read_lines(metrics),
            examples=examples,
            timings=_timings(settings, dataset, recipe, path.parent.name),
            places=_places(settings, encoder, path),
            versions={"python": platform.python_version(), "code": code_version()}
            | {name: metadata.version(name) for name in VERSIONS},
        ),
    )


def _sources(
    settings: Settings, dataset: str, recipe: Recipe, student: Spa3REncoder
) -> tuple[CachedTargets, CachedTargets]:
    """The training and the held-out targets, known to be of the student's own teachers."""
    images, own = recipe.ingest, (student.card.image_width, student.card.image_multiple)
    if own != (images.width, images.multiple):
        raise OtherTargetsError(
            f"recipe {recipe.name} has images of width {images.width} in multiples of"
            f" {images.multiple}, the encoder {own[0]} in multiples of {own[1]}: evaluate with the"
            " recipe and the --set that it was trained with"
        )
    train, val = (
        CachedTargets(require_targets(settings, dataset, recipe, s)) for s in ("train", "val")
    )
    config = student.model.config
    predicted = {"semantic": config.semantic, "linguistic": config.linguistic}
    roles = ["geometric", *(role for role, wanted in predicted.items() if wanted)]
    for targets in (train, val):
        for role in roles:
            taught, found = student.card.references.get(role), targets.references.get(role)
            if taught is None or found is None or taught["hash"] != found["hash"]:
                raise OtherTargetsError(
                    f"{targets.folder} is of the {role} teacher {_name(found)}, the encoder was"
                    f" taught by {_name(taught)}: evaluate with the recipe and the --set that it"
                    " was trained with"
                )
    return train, val


def _name(reference: Mapping[str, str] | None) -> str:
    return f"{reference['kind']} {reference['hash']}" if reference else "none"


def _timings(settings: Settings, dataset: str, recipe: Recipe, report: str) -> list[StageTime]:
    """Of the stages that lead to this report; generating rooms only where they are its data."""
    made = {"rooms": settings.rooms.name} if dataset == settings.rooms.name else {}
    made |= {
        "ingest": Path(settings.shards(dataset, recipe.ingest)).name,
        "targets": settings.target_pair(dataset, recipe),
        "pretrain": settings.run(dataset, recipe).name,
        "evaluate": report,
    }
    return [StageTime(stage=s, seconds=t) for s, t in read_timings(settings, made).items()]


def _summary(
    dataset: str, table: FrameTable, train: CachedTargets, val: CachedTargets
) -> DataSummary:
    return DataSummary(
        dataset=dataset,
        scenes={split: len(table.scenes(split)) for split in ("train", "val")},
        frames=table.manifest["frames"],
        dropped=table.manifest["dropped"],
        clips={"train": len(train.clips), "val": len(val.clips)},
        data_hash=table.data_hash,
        target_hash=train.manifest["target_hash"],
    )


def _places(settings: Settings, encoder: Path, report: Path) -> list[Place]:
    mlflow = redacted(settings.mlflow_uri)
    return [
        Place(what="Report", where=str(report)),
        Place(what="Encoder", where=str(encoder), command="spa3r encode SCAN -o scene.safetensors"),
        Place(
            what="MLflow",
            where=mlflow,
            command=f"mlflow ui --backend-store-uri {mlflow} --host 127.0.0.1",
        ),
        Place(
            what="Prefect",
            where=str(settings.prefect_database),
            command="prefect server start --host 127.0.0.1",
        ),
    ]
