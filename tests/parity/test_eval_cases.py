"""The scorers against the reference implementations: every case and aggregate of
$SPA3R_SHARED/eval_cases, bit for bit."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from spa3r.eval import cv_bench, spar_bench, view_spatial, vsi_bench
from spa3r.eval.suite_rules import Scorer, Suite
from tests.conftest import shared_folder

FOLDER = shared_folder() / "eval_cases"
BENCHES = ("vsibench", "cvbench", "viewspatial", "sparbench")
SUITES: dict[str, Suite] = {
    "vsibench": vsi_bench.SUITE,
    "cvbench": cv_bench.SUITE,
    "viewspatial": view_spatial.SUITE,
    "sparbench": spar_bench.SUITE,
}
# Names of references in the files -> ours. cambrian_formula is over lmms-eval's answers.
SCORER: dict[str, Scorer] = {
    "lmms_eval_0.7.3": "lmms-eval",
    "official_thinking_in_space": "official",
    "official_ViewSpatial": "official",
    "official_SPAR": "official",
    "vlmevalkit": "vlmevalkit",
    "vlmevalkit_matcher": "vlmevalkit",
}
PARSER: dict[str, Scorer] = {
    "lmms_eval": "lmms-eval",
    "official": "official",
    "lmms_eval_and_official": "official",
    "vlmevalkit": "vlmevalkit",
}

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is absent")


def files() -> list[Path]:
    return sorted(p for bench in BENCHES for p in FOLDER.glob(f"{bench}.*json"))


@pytest.fixture(params=files(), ids=lambda p: p.name)
def cases(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(request.param.read_text()) | {"bench": request.param.name.split(".")[0]}


def suite_of(cases: Mapping[str, Any]) -> tuple[str, Suite]:
    return cases["bench"], SUITES[cases["bench"]]


def outcome(work: Callable[[], Any]) -> Any:
    """The value, or the error as the files write it."""
    try:
        return work()
    except (KeyError, ZeroDivisionError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def written(value: Any) -> Any:
    """A parsed answer as JSON files write it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return False if value is None else value


def same_parse(found: Any, wanted: Any) -> bool:
    nothing = (None, False)
    return written(found) == wanted or (found is None and wanted in nothing)


def test_there_are_cases() -> None:
    """A folder of other cases may hold some of the benches only; each file has hundreds."""
    assert files()
    assert all(len(json.loads(path.read_text())["cases"]) > 10 for path in files())


def test_every_answer_is_read_as_the_reference_reads_it(cases: dict[str, Any]) -> None:
    _, suite = suite_of(cases)
    wrong = [
        (case["case_id"], name, found, wanted)
        for case in cases["cases"]
        for name, wanted in case.get("parsed", {}).items()
        if not same_parse(
            found := suite.parse(PARSER[name], case["doc"], case["raw_output"]), wanted
        )
    ]
    assert wrong == []


def test_every_score_is_the_references(cases: dict[str, Any]) -> None:
    _, suite = suite_of(cases)
    wrong = []
    for case in cases["cases"]:
        for name, wanted in case["expected"].items():
            found = outcome(lambda: suite.score(SCORER[name], case["doc"], case["raw_output"]))  # noqa: B023
            error = case.get("errors", {}).get(name) or (
                case.get("official_error") if name.startswith("official") else None
            )
            raises = wanted is None or bool(error)
            same = found == {"error": error} if error else raises and "error" in str(found)
            if not (same if raises else found == wanted):
                wrong.append((case["case_id"], name, found, wanted, error))
    assert wrong == []


def chosen(cases: Mapping[str, Any], ids: Sequence[str] | str) -> list[dict[str, Any]]:
    return [case for case in cases["cases"] if ids == "all" or case["case_id"] in set(ids)]


def aggregates(cases: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]], str, Any]]:
    for name, one in cases["aggregates"].items():
        some = chosen(cases, one["case_ids"])
        for reference, expected in one["expected"].items():
            yield name, some, reference, expected


def summary(bench: str, suite: Suite, some: Sequence[Mapping[str, Any]], reference: str) -> Any:
    docs = [case["doc"] for case in some]

    def scores(scorer: Scorer) -> list[float]:
        return [suite.score(scorer, case["doc"], case["raw_output"]) for case in some]

    def of(scorer: Scorer, with_scores: Scorer | None = None) -> dict[str, float]:
        return suite.aggregate(scorer, docs, scores(with_scores or scorer))

    return SUMMARIES[bench](reference, docs, scores, of)


def vsi_summary(reference: str, _docs: Any, _scores: Any, of: Any) -> Any:
    found = of(SCORER[reference])
    if reference == "lmms_eval_0.7.3":
        return {"scale": "0-1", "subscores": found, "metrics": vsi_bench.lmms_metrics(found)}
    keys, values = vsi_bench.official_table(found)
    return found | {"scale": "0-100", "tabulated_keys": keys, "tabulated_results": values}


def cv_summary(reference: str, docs: Any, scores: Any, of: Any) -> Any:
    if reference == "cambrian_formula":
        return {"cv_bench_accuracy": of("official")["overall"]}
    if reference == "breakdown_mean":
        return cv_bench.breakdown(docs, scores("lmms-eval"))
    return {"cv_bench_acc": of(SCORER[reference])["overall"]}


def view_summary(reference: str, _docs: Any, _scores: Any, of: Any) -> Any:
    found = of(SCORER[reference])
    return {"overall_accuracy": found["overall"]} | {
        name: found[name] for name in map(view_spatial.metric_name, view_spatial.TASKS)
    }


def spar_summary(reference: str, docs: Any, scores: Any, of: Any) -> Any:
    if reference == "intended_levels":
        found = spar_bench.task_means(docs, scores("official"))
        return spar_bench.level_means(found, with_view_change=True)
    if reference == "official_scores_with_lmms_aggregation":
        return of("lmms-eval", "official")
    found = of(SCORER[reference])
    if reference == "lmms_eval_0.7.3":
        return {"sparbench_score_x100": found["overall"] * 100.0, "subscores": found}
    tasks = {
        task: value
        for name, value in found.items()
        for task in spar_bench.SUITE.tasks
        if name == f"{task}_{spar_bench.metric_of(task)}"
    }
    return {"overall_x100": found["overall"] * 100.0, "by_task": tasks}


SUMMARIES = {
    "vsibench": vsi_summary,
    "cvbench": cv_summary,
    "viewspatial": view_summary,
    "sparbench": spar_summary,
}


def test_every_aggregate_is_the_references(cases: dict[str, Any]) -> None:
    bench, suite = suite_of(cases)
    wrong = []
    for name, some, reference, expected in aggregates(cases):
        found = outcome(lambda: summary(bench, suite, some, reference))  # noqa: B023
        # The files list some of what the official code of VSI-Bench returns.
        told = (
            {key: found[key] for key in expected if key in found}
            if reference == "official_thinking_in_space"
            else found
        )
        if told != expected:
            wrong.append((name, reference, told, expected))
    assert wrong == []
