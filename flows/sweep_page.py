"""The comparison page of a sweep, from what its recipes left behind."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from flows.scores import FIELD, Evaluation, evaluate_once
from flows.settings import Settings
from flows.stage import StageResult, read_timings
from spa3r import storage
from spa3r.config import Recipe
from spa3r.eval.comparison import Evaluated, Row, compare, same_measure
from spa3r.eval.field_report import MIN_SCENES
from spa3r.plain import config_hash
from spa3r.recipes.ablations import TABLE_4_ASSUMED, paper_row, table_of
from spa3r.recipes.difference import changed
from spa3r.viz.comparison import Comparison, Line, render_page, text_table, to_json

PAGE: Final = "comparison.html"
DATA: Final = "comparison.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """What was asked for, once it is known to build."""

    name: str
    """Of the folder and of the MLflow run: "table6-tiny", or "recipes"."""
    title: str
    dataset: str
    plans: Mapping[str, Recipe]
    """By name; the first is what the others are compared with."""
    command: str
    """Asks for it again."""

    @property
    def first(self) -> str:
        return next(iter(self.plans))


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """Where the comparison is, and its table for a terminal."""

    page: Path
    data: Path
    table: str


def draw(
    settings: Settings, sweep: Sweep, done: Mapping[str, StageResult], failed: Mapping[str, str]
) -> Made:
    """Writes page and JSON under SPA3R_HOME/reports, and logs both to an MLflow run of their own.

    Args:
        done: by recipe, the facts of its stages.
        failed: why the others are not done.
    """
    evaluated = [_evaluated(settings, sweep, name, done) for name in done]
    rows = compare(evaluated, sweep.first)
    lines = [
        Line(
            recipe=name,
            changed=changed(sweep.plans[sweep.first], plan),
            row=rows.get(name),
            error=failed.get(name, ""),
            paper=paper_row(name),
            steps=plan.train.steps,
            seconds=_training_seconds(settings, sweep.dataset, plan),
            report=done[name].facts["report"] if name in done else "",
        )
        for name, plan in sweep.plans.items()
    ]
    hashes = {one.recipe: one.target_hash for one in evaluated}
    comparison = Comparison(
        title=f"{sweep.title} on {sweep.dataset}",
        dataset=sweep.dataset,
        lines=tuple(lines),
        target_hash=hashes.get(sweep.first, ""),
        remarks=(*_remarks(sweep, rows), *_dropped(settings, sweep, done)),
        command=sweep.command,
    )
    return _write(settings, sweep, comparison)


def _write(settings: Settings, sweep: Sweep, comparison: Comparison) -> Made:
    from spa3r.train import tracking

    key = config_hash(*sweep.plans.values(), sweep.dataset)
    out = settings.reports / f"sweep-{sweep.name}-{sweep.dataset}-{key[:8]}"
    made = Made(page=out / PAGE, data=out / DATA, table=text_table(comparison))
    storage.write_bytes(made.page, render_page(comparison).encode())
    storage.write_json(made.data, to_json(comparison))
    plan = replace(sweep.plans[sweep.first], name=f"sweep-{sweep.name}")
    hashes = {"sweep": key, "target_hash": comparison.target_hash}
    files = settings.home / "mlartifacts"
    with tracking.track(settings.mlflow_uri, plan, hashes, artifacts=files) as tracker:
        for path in (made.page, made.data):
            tracker.log_artifact(path, "sweep")
    return made


def _evaluated(
    settings: Settings, sweep: Sweep, name: str, done: Mapping[str, StageResult]
) -> Evaluated:
    """A recipe's evaluation, repeated in the reference's space where its own is another."""
    own = _evaluation(done[name])
    field = own.field
    if name != sweep.first and sweep.first in done:
        first = _evaluation(done[sweep.first])
        same_questions = own.target_hash == first.target_hash
        if same_questions and not same_measure(own.field, first.field):
            encoder, like = (Path(done[one].facts["encoder"]) for one in (name, sweep.first))
            again, *_ = evaluate_once(
                settings, sweep.dataset, sweep.plans[name], encoder, like=like
            )
            field = again.field
    return Evaluated(recipe=name, target_hash=own.target_hash, field=field, own=own.field)


def _evaluation(result: StageResult) -> Evaluation:
    return Evaluation.read(Path(result.facts["report"]).with_name(FIELD))


def _remarks(sweep: Sweep, rows: Mapping[str, Row]) -> tuple[str, ...]:
    remarks = []
    scenes = min(row.scenes for row in rows.values())
    if scenes < MIN_SCENES:
        remarks.append(
            f"There are only {scenes} held-out scenes. An interval over fewer than {MIN_SCENES}"
            " says little: none of these differences should decide anything."
        )
    if any(table_of(name) == 4 for name in sweep.plans):
        remarks.append(TABLE_4_ASSUMED)
    return tuple(remarks)


def _dropped(settings: Settings, sweep: Sweep, done: Iterable[str]) -> Iterator[str]:
    """A remark for each recipe whose run left clips out (data.poisoned=drop)."""
    from spa3r.train.dropped import DROPPED
    from spa3r.train.metrics import METRICS, read_lines

    for name in done:
        run = settings.run(sweep.dataset, sweep.plans[name])
        lines = read_lines(run / METRICS)
        if lines and (dropped := lines[-1].get("dropped_clips")):
            yield (
                f"{name} was trained on less than its settings say: clips that were damaged or not"
                f" finite were left out {dropped} times ({run / DROPPED})."
            )


def _training_seconds(settings: Settings, dataset: str, recipe: Recipe) -> float | None:
    return read_timings(settings, {"pretrain": settings.run(dataset, recipe).name}).get("pretrain")
