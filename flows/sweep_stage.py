"""A sweep: several recipes trained and evaluated one after another, and compared. No Prefect here.

Every step of every recipe is a stage that re-uses what is finished, so a sweep that was killed goes
on where it was, and recipes with the same clips and teachers share their targets.
"""

import json
import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flows import data_stages, judge_stages, train_stage
from flows.settings import Settings
from flows.stage import StageResult, say
from flows.sweep_page import Sweep, draw
from spa3r.config import Recipe
from spa3r.errors import ConfigError, Spa3RError, StoppedError, SweepError
from spa3r.recipes import catalogue
from spa3r.recipes.ablations import TABLES
from spa3r.storage import redacted

logger = logging.getLogger(__name__)
Overrides = Mapping[str, Any] | None
# RuntimeError: torch's own, a device out of memory above all.
FAILURES = (Spa3RError, OSError, RuntimeError)


def run_recipe(recipe: str, *, dataset: str = "rooms", overrides: Overrides = None) -> StageResult:
    """Targets, pre-training and evaluation of one recipe, as far as they are not done."""
    of: dict[str, Any] = {"dataset": dataset, "recipe": recipe, "overrides": overrides}
    targets = _logged(recipe, data_stages.targets(**of))
    trained = _logged(recipe, train_stage.pretrain(**of, candidate=False))
    judged = _logged(recipe, judge_stages.evaluate(trained.facts["encoder"], **of))
    reused = targets.reused and trained.reused and judged.reused
    line = judged.line.removeprefix("re-used: ")
    facts = targets.facts | trained.facts | judged.facts
    return StageResult(stage="sweep", line=say(line, reused=reused), facts=facts, reused=reused)


def _logged(recipe: str, result: StageResult) -> StageResult:
    logger.info("sweep: %s, %s: %s", recipe, result.stage, result.line)
    return result


def sweep(
    *,
    recipes: Sequence[str] = (),
    table: int | None = None,
    base: str = "tiny",
    dataset: str = "rooms",
    overrides: Overrides = None,
    run: Callable[..., StageResult] = run_recipe,
) -> StageResult:
    """Runs the recipes, writes the page that compares them, and logs it to MLflow.

    Args:
        recipes: names of the catalogue; the first is what the others are compared with.
        table: in their place: one of the paper's ablation tables (4, 6, 7), of recipe `base`.
        overrides: applied to every recipe.
        run: `run_recipe`, or what wraps it.

    Raises:
        ConfigError: before anything is run: an unknown recipe, or two that are the same experiment.
        SweepError: recipes failed; the page of the others is written.
        StoppedError: SIGTERM; the run in progress is saved.
    """
    asked = planned(recipes, table, base, dataset, overrides)
    done: dict[str, StageResult] = {}
    failed: dict[str, str] = {}
    for number, name in enumerate(asked.plans, start=1):
        logger.info("sweep: recipe %d of %d, %s", number, len(asked.plans), name)
        try:
            done[name] = run(name, dataset=dataset, overrides=overrides)
        except StoppedError:
            raise
        except FAILURES as error:
            failed[name] = redacted(" ".join(str(error).split())) or type(error).__name__
            logger.error("sweep: %s failed: %s", name, failed[name])
    why = "; ".join(f"{name} ({reason})" for name, reason in failed.items())
    if not done:
        raise SweepError(f"all {len(failed)} recipes failed: {why}")
    made = draw(Settings.from_environment(), asked, done, failed)
    if failed:
        raise SweepError(
            f"{len(failed)} of {len(asked.plans)} recipes failed: {why}; the others are compared in"
            f" {made.page}, and the same command continues"
        )
    reused = all(result.reused for result in done.values())
    facts = {"page": str(made.page), "data": str(made.data), "table": made.table,
             "recipes": list(asked.plans)}  # fmt: skip
    line = f"{len(done)} recipes compared in {made.page}"
    return StageResult(stage="sweep", line=say(line, reused=reused), facts=facts, reused=reused)


def planned(
    recipes: Sequence[str], table: int | None, base: str, dataset: str, overrides: Overrides
) -> Sweep:
    """The sweep, all of its recipes known to build and to differ. Raises ConfigError otherwise."""
    if bool(recipes) == (table is not None):
        raise ConfigError("a sweep needs either a list of recipes or one of the tables 4, 6 and 7")
    names = tuple(recipes) if table is None else catalogue.table(table, base)
    if len(names) < 2:
        raise ConfigError(f"a sweep compares recipes, and {', '.join(names)} is one: name another")
    plans: dict[str, Recipe] = {}
    for name in names:
        plan = catalogue.get(name, overrides)
        for other, known in plans.items():
            if replace(plan, name=other) == known:
                raise ConfigError(
                    f"recipes {other} and {name} are the same experiment: leave one out, or --set"
                    " less"
                )
        plans[name] = plan
    which = ["--recipes", ",".join(names)] if table is None else ["--table", table, "--base", base]
    sets = [("--set", f"{key}={json.dumps(value)}") for key, value in (overrides or {}).items()]
    words = ["spa3r", "sweep", *which, "--dataset", dataset, *(w for pair in sets for w in pair)]
    return Sweep(
        name="recipes" if table is None else f"table{table}-{base}",
        title=f"{len(names)} recipes" if table is None else f"{TABLES[table]}; {base}",
        dataset=dataset,
        plans=plans,
        command=shlex.join(str(word) for word in words),
    )
