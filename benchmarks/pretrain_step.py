"""Optimizer steps with stored targets and with teachers in the loop, against the published way.

python -m benchmarks.pretrain_step [--device cpu|cuda] [--compile] [--json FILE] [--rounds N]
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Times, interleave, options_parser, publish, ratio
from benchmarks.encode import all_layers, peak_memory, watch_memory
from benchmarks.pretrain_parts import (
    FULL,
    IS_TARGET,
    SMALL,
    Side,
    Size,
    Student,
    Teachers,
    make_teachers,
)
from benchmarks.pretrain_sources import (
    PAYLOADS,
    Ahead,
    OnlineTargets,
    PublishedTargets,
    read_semantic,
    write_targets,
)
from spa3r.data.cached import CachedTargets
from spa3r.train.flops import peak_flops, student_flops, vggt_flops

DESCRIPTION = """\
One optimizer step of PSFM pre-training (targets, forward, backward, clipping, AdamW) on clips of 8
views, 4 of them context; every side trains the same student on the same images.

* `published`: the authors' configuration as it is described, teachers in the loop. VGGT's
  aggregator runs twice (context views alone, then all views) and keeps every layer, camera head,
  depth head at full resolution, DINOv3; the decoder and the loss see all views.
* `online`: teachers in the loop, but one aggregator pass with the asymmetric mask gives encoder
  input and targets alike, and depth is worked out at the patches only; same loss over all views.
* `hybrid`: the same, with DINOv3's tokens read from a file by one thread while the step runs.
* `cached`: all targets read from files (in the page cache) by one thread while the step runs, as
  the training loop does; same loss over all views.
* `online_targets`, `hybrid_targets`, `cached_targets`: the paper's loss, on target views; only
  those are decoded, and only for those are there depth and DINOv3's tokens.

A ratio is how many times faster than `published` a side is; `ceiling_*` is what it would be if
time were operations (`FlopCounterMode`: matrix products, convolutions, attention; forward and
backward). `memory_*` is a side's peak above an empty process, weights included, as a share of
`published`'s; each in a process of its own. `wait_share_*` is the part of a step spent waiting for
the reading thread. All sides use our own VGGT, so the ratios show the scheme and not an
implementation. Images are in memory: their decoding, which would count against teachers in the
loop, is left out. `share_*` are shares of the time of one published step's forward,
`flops_share_*` of its operations; the design's, measured at full size, are aggregator 0.82, heads
0.09, DINOv3 0.03, decoder 0.03, encoder 0.02.

`--device cuda` measures the full size (VGGT-1B, DINOv3 ViT-L/16, the paper's student, three clips
of 518 x 392 pixels, bfloat16), and how much of the GPU's bfloat16 matrix peak the student's step
and the teacher's pass reach; `--compile` compiles student and teachers on all sides. `--device cpu`
has all depths, and every width and every number of tokens divided by 8 (exceptions: special tokens,
the views, the camera head's 8 tokens), which keeps the shares but is no measurement of a GPU.
Weights are random."""

SIDES: Final = {
    "published": "all",
    "online": "all",
    "hybrid": "all",
    "cached": "all",
    "online_targets": "targets",
    "hybrid_targets": "targets",
    "cached_targets": "targets",
}
"""Side -> the views that are decoded and enter the loss."""


def main() -> None:
    """Measures memory, then time, then the parts of a published step; or one side's memory."""
    options = parse_arguments()
    torch.set_float32_matmul_precision("high")  # the heads are float32: TF32 where there is any
    torch.manual_seed(0)
    device = options.device
    size = FULL if device == "cuda" else SMALL
    if options.memory_of:
        name, folder = options.memory_of
        print(json.dumps(memory_of(name, size, options, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_all(size, device, folder)
        memory = {side: measure_memory(side, options, folder) for side in SIDES}
        with ThreadPoolExecutor(1) as pool:
            work, shares = measure_work(size, options, folder, pool)
            sides = Sides(size, options, folder, pool)
            times = interleave(sides.steps, options.rounds)
            waits = {side: wait_share(one, times[side]) for side, one in sides.readers.items()}
            speed = measure_peak_shares(sides) if device == "cuda" else {}
        stored = (folder / PAYLOADS).stat().st_size
    ours = [side for side in SIDES if side != "published"]
    ratios = {f"{side}_ratio": ratio(times, of="published", to=side) for side in ours}
    views = size.clips * len(IS_TARGET)
    facts: dict[str, object] = {
        **{f"ceiling_{side}": work["published"] / work[side] for side in ours},
        **{f"memory_{side}": memory[side] / memory["published"] for side in ours},
        **{f"wait_share_{side}": share for side, share in waits.items()},
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "compiled": options.compile,
        "threads": torch.get_num_threads(),
        "clips_per_step": size.clips,
        "views_per_step": views,
        "image_width_height": list(reversed(size.image_hw)),
        "stored_bytes_per_view": stored // views,
        "gflop_published": work["published"] / 1e9,
        "memory_mib_published": memory["published"],
        **{f"steps_per_second_{side}": 1 / statistics.median(times[side]) for side in SIDES},
        **shares,
        **speed,
    }
    title = (
        "A pre-training step: stored targets and one pass of the teacher against the published way"
    )
    publish("pretrain_step", title, DESCRIPTION, options, times, ratios, facts)


def parse_arguments() -> argparse.Namespace:
    """The options of every benchmark, and this one's."""
    parser = options_parser("pretrain_step", rounds=15)
    parser.add_argument("--compile", action="store_true", help="torch.compile on all sides")
    parser.add_argument("--memory-of", nargs=2, metavar=("SIDE", "FOLDER"), help="one side only")
    return parser.parse_args()


# --- the sides ------------------------------------------------------------------------------------


class Sides:
    """The named sides around one student and one set of teachers.

    Attributes:
        steps: what each side does.
        readers: of the sides that read while they compute.
        teachers: None where no side needs any.
    """

    def __init__(
        self,
        size: Size,
        options: argparse.Namespace,
        folder: Path,
        pool: ThreadPoolExecutor,
        names: Mapping[str, str] = SIDES,
    ) -> None:
        device = options.device
        self.size, self.device, self._folder, self._pool = size, device, folder, pool
        self.student = Student(size, device, compiled=options.compile)
        self.teachers: Teachers | None = None
        if any(not name.startswith("cached") for name in names):
            self.teachers = make_teachers(size, device, compiled=options.compile)
        self.readers: dict[str, Ahead[Any]] = {}
        self.steps = {name: self._make(name, views) for name, views in names.items()}

    def _make(self, name: str, views: Any) -> Side:
        kind, student = name.partition("_")[0], self.student
        if kind == "cached":
            cached = CachedTargets(self._folder, views=views)
            reader = Ahead(self._pool, lambda: cached.load(cached.clips))
            self.readers[name] = reader
            return lambda: reader.during(lambda batch: student.step(batch, views))
        assert self.teachers is not None
        if kind == "published":
            published = PublishedTargets(self.size, self.teachers, self.device)
            return lambda: student.step(published.load(), views)
        online = OnlineTargets(self.size, self.teachers, self.device, heads=views)
        if kind == "online":
            return lambda: student.step(online.load(), views)
        tokens = Ahead(self._pool, lambda: read_semantic(self._folder))
        self.readers[name] = tokens
        return lambda: tokens.during(
            lambda sem_BVND: student.step(online.load(sem_BVND.to(self.device)), views)
        )


def write_all(size: Size, device: str, folder: Path) -> None:
    """The targets that `cached` and `hybrid` read."""
    online = OnlineTargets(size, make_teachers(size, device), device, heads="all")
    write_targets(folder, online.load(), Student(size, device).recipe.teacher)
    if device == "cuda":
        torch.cuda.empty_cache()


# --- what is measured -----------------------------------------------------------------------------


def measure_work(
    size: Size, options: argparse.Namespace, folder: Path, pool: ThreadPoolExecutor
) -> tuple[dict[str, int], dict[str, float]]:
    """Operations of a step of each side, and the shares of a published step's parts.

    On sides of their own: compiled code would hide its operations from the counter.
    """
    plain = argparse.Namespace(device=options.device, compile=False)
    sides = Sides(size, plain, folder, pool)
    work = {side: count_flops(sides.steps[side], options.device) for side in SIDES}
    return work, measure_shares(sides, options.device)


def count_flops(step: Callable[[], object], device: str) -> int:
    """Operations of one step. The counter does not know the CPU's attention kernel, but its plain
    matrix products."""
    with ExitStack() as stack:
        counter = stack.enter_context(FlopCounterMode(display=False))
        if device == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        step()
    return counter.get_total_flops()


def wait_share(reader: Ahead[Any], times: list[float]) -> float:
    """Median share of a step spent waiting; the reader's last rounds are those that were timed."""
    waited = reader.waited[-len(times) :]
    return statistics.median(w / t for w, t in zip(waited, times, strict=True))


def measure_memory(side: str, options: argparse.Namespace, folder: Path) -> float:
    """Peak of one side above an empty process in MiB, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.pretrain_step", "--device", options.device]
    command += ["--memory-of", side, str(folder)] + ["--compile"] * options.compile
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def memory_of(side: str, size: Size, options: argparse.Namespace, folder: Path) -> float:
    """What `measure_memory` answers, of this process.

    All is done twice: the first time brings the libraries' code and tables into memory, which is no
    side's own.
    """
    _peak_of(side, size, options, folder)
    return _peak_of(side, size, options, folder)


def _peak_of(side: str, size: Size, options: argparse.Namespace, folder: Path) -> float:
    gc.collect()
    empty = watch_memory(options.device)
    with ThreadPoolExecutor(1) as pool:
        step = Sides(size, options, folder, pool, {side: SIDES[side]}).steps[side]
        watch_memory(options.device)
        for _ in range(2):
            step()
        return peak_memory(options.device) - empty


def measure_shares(sides: Sides, device: str) -> dict[str, float]:
    """What each part takes of a published step's forward, in time and in operations."""
    assert sides.teachers is not None
    published = PublishedTargets(sides.size, sides.teachers, device)
    vggt, batch, student = sides.teachers.vggt.model, published.load(), sides.student
    on = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
    images_BV3HW, context_V = published.views.images_BV3HW, [not hidden for hidden in IS_TARGET]

    def aggregator() -> None:
        all_layers(vggt, images_BV3HW[:, context_V])
        all_layers(vggt, images_BV3HW)

    dinov3 = sides.teachers.dinov3
    parts: dict[str, Callable[[], object]] = {
        "aggregator": aggregator,
        "teachers": published.load,
        "dinov3": lambda: dinov3(published.views, batch.grid_hw),
        "encoder": lambda: student.model.encode(batch.context_BCND, batch.grid_hw),
        "student": lambda: student.loss(batch, "all"),
    }

    def forward(name: str) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad(), on:
                parts[name]()
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    runs = {name: forward(name) for name in parts}
    times: Times = interleave(runs, rounds=5)
    # Shares need the parts' own cost, and whatever else the machine does can only add to it.
    seconds = shares_of({name: min(values) for name, values in times.items()})
    work = shares_of({name: count_flops(run, device) for name, run in runs.items()})
    return {f"share_{k}": v for k, v in seconds.items()} | {
        f"flops_share_{k}": v for k, v in work.items()
    }


def shares_of(cost: Mapping[str, float]) -> dict[str, float]:
    """Shares of teachers and student, from costs of which some contain others."""
    forward = cost["teachers"] + cost["student"]
    parts = {
        "aggregator": cost["aggregator"],
        "heads": cost["teachers"] - cost["aggregator"] - cost["dinov3"],
        "dinov3": cost["dinov3"],
        "decoder": cost["student"] - cost["encoder"],
        "encoder": cost["encoder"],
    }
    return {name: value / forward for name, value in parts.items()}


def measure_peak_shares(sides: Sides) -> dict[str, float]:
    """Shares of the GPU's bfloat16 matrix peak: the student's step with its batch on the GPU, and
    VGGT's asymmetric pass with its heads; nothing of a GPU whose peak is not known."""
    peak, size = peak_flops("cuda"), sides.size
    if peak is None:
        return {}
    assert sides.teachers is not None
    online = OnlineTargets(size, sides.teachers, "cuda", heads="targets")
    batch, student, vggt = online.load(), sides.student, sides.teachers.vggt

    def teacher() -> None:
        vggt(online.views, heads="targets")
        torch.cuda.synchronize()

    times = interleave(
        {"student": lambda: student.step(batch, "targets"), "teacher": teacher}, rounds=9
    )
    views, shown = len(IS_TARGET) // 2, size.grid_hw
    work = {
        "student": 3
        * student_flops(size.student, context_views=views, decoded_views=views, grid_hw=shown),
        "teacher": vggt_flops(
            size.vggt, context_views=views, target_views=views, grid_hw=shown, heads="targets"
        ),
    }
    return {
        f"peak_share_{name}": size.clips * work[name] / statistics.median(times[name]) / peak
        for name in work
    }


if __name__ == "__main__":
    main()
