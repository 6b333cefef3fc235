"""What all benchmarks share: interleaved rounds, and results as JSON with a page beside it."""

import argparse
import datetime
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Times = dict[str, list[float]]
"""Seconds of every round, by side."""


def arguments(name: str, rounds: int) -> argparse.Namespace:
    """Parses the options every benchmark takes: device, json, rounds, date."""
    return options_parser(name, rounds).parse_args()


def options_parser(name: str, rounds: int) -> argparse.ArgumentParser:
    """Knows the options every benchmark takes; a benchmark may add its own."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="file to write; a page with suffix .md beside it")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="of the page")
    return parser


def interleave(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Times the sides in turn, in alternating order, after one unmeasured round of each.

    Interleaving spreads whatever else the machine does over all sides alike. A side that works
    asynchronously (CUDA) must synchronise before it returns.

    Args:
        clock: `time.process_time` where other work shares the machine; not with a GPU.
    """
    for run in sides.values():
        run()
    times: Times = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides) if number % 2 == 0 else list(reversed(list(sides)))
        for name in names:
            gc.collect()
            begin = clock()
            sides[name]()
            times[name].append(clock() - begin)
    return times


def ratio(times: Times, of: str, to: str) -> float:
    """Median over rounds of side `of`'s time divided by side `to`'s time in the same round."""
    return statistics.median(a / b for a, b in zip(times[of], times[to], strict=True))


def machine() -> dict[str, Any]:
    """CPU model, cores this process may use, and versions; no host name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
    }


def publish(
    name: str,
    title: str,
    description: str,
    options: argparse.Namespace,
    times: Times,
    ratios: Mapping[str, float],
    facts: Mapping[str, Any],
) -> None:
    """Prints the result; with --json also writes it, and a Markdown page beside it.

    Args:
        title: one line of Markdown.
        description: what each side does, and what a ratio means; Markdown.
        ratios: the headline numbers by name.
        facts: further numbers and sizes, JSON-ready.
    """
    result = {
        "benchmark": name,
        "date": options.date,
        "machine": machine(),
        "rounds": options.rounds,
        "median_s": {side: statistics.median(values) for side, values in times.items()},
        "times_s": times,
        **ratios,
        **facts,
    }
    text = json.dumps(result, indent=1, sort_keys=True) + "\n"
    print(text, end="")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text)
        options.json.with_suffix(".md").write_text(_page(title, description, result, ratios, facts))


def _page(
    title: str,
    description: str,
    result: Mapping[str, Any],
    ratios: Mapping[str, float],
    facts: Mapping[str, Any],
) -> str:
    where = ", ".join(f"{key} {value}" for key, value in result["machine"].items() if value)
    lines = [f"# {title}", "", description.strip(), "", "| number | value |", "|---|---|"]
    lines += [f"| **`{name}`** | **{value:.3g}** |" for name, value in ratios.items()]
    lines += [f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in facts.items()]
    lines += ["", "| side | median s | all rounds, s |", "|---|---|---|"]
    for side, values in result["times_s"].items():
        rounds = " ".join(f"{value:.3g}" for value in values)
        lines.append(f"| {side} | {result['median_s'][side]:.3g} | {rounds} |")
    lines += [
        "",
        f"Measured on {result['date']}: {where}. Both sides in one run, {result['rounds']}"
        " interleaved rounds; a ratio is the median of the rounds' ratios.",
        "",
        f"Again: `python -m benchmarks.{result['benchmark']} --json"
        f" docs/benchmarks/{result['benchmark']}.json`",
    ]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
