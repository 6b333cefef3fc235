"""Optimizer steps with cached targets against teachers in the loop, the published way.

python -m benchmarks.pretrain_step [--device cpu|cuda] [--json FILE] [--rounds N]
"""

import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from benchmarks.common import Times, arguments, interleave, publish, ratio
from benchmarks.pretrain_parts import (
    FULL,
    IS_TARGET,
    PAYLOADS,
    SMALL,
    OnlineBatches,
    Size,
    Teachers,
    make_recipe,
    make_task,
    make_teachers,
    write_targets,
)
from spa3r.data.batch import ClipBatch
from spa3r.data.targets import CachedTargets
from spa3r.teachers.vggt_teacher import context_indices
from spa3r.train.optim import build_optimizer

DESCRIPTION = """\
One optimizer step of PSFM pre-training (targets, forward, backward, clipping, AdamW) on a batch of
clips of 8 views, 4 of them context; every side trains the same student.

* `published`: the authors' configuration, teachers in the loop. VGGT's aggregator runs twice
  (context views alone, then all views), camera head, depth head, DINOv3; the decoder and the loss
  see all views.
* `online`: teachers in the loop, but one aggregator pass with the asymmetric mask gives encoder
  input and targets alike; same loss over all views.
* `cached`: the same targets read by `CachedTargets` from files (in the page cache) by one thread
  while the step runs, as the training loop does; same loss over all views.
* `online_targets`, `cached_targets`: the paper's loss, on target views; only those are decoded.

A ratio is how many times faster than `published` a side is. All sides use our own VGGT, so the
ratios show the scheme and not an implementation. Images are in memory: their decoding, which would
count against teachers in the loop, is left out. `share_*` are shares of the forward of one
published step; at full size the design gives aggregator 0.82, heads 0.09, DINOv3 0.03, student
0.05. `--device cuda` measures the full size (VGGT-1B, DINOv3 ViT-L/16, the paper's student, images
of 518x392, bfloat16); `--device cpu` all networks shrunk in proportion, which keeps the shares but
is no measurement of a GPU. Weights are random."""

T = TypeVar("T")
Side = Callable[[], float]
"""Does one optimizer step and returns the loss."""


def main() -> None:
    """Measures all sides, then the parts of a published step."""
    options = arguments("pretrain_step", rounds=9)
    size = FULL if options.device == "cuda" else SMALL
    torch.set_float32_matmul_precision("high")  # the heads are float32: TF32 where there is any
    torch.manual_seed(0)
    teachers = make_teachers(size, options.device)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        sides = make_sides(size, teachers, options.device, Path(folder), pool)
        times = interleave(sides, options.rounds)
        stored = (Path(folder) / PAYLOADS).stat().st_size
    ratios = {
        name: ratio(times, of="published", to=side)
        for name, side in (
            ("cached_ratio", "cached"),
            ("online_ratio", "online"),
            ("cached_ratio_targets", "cached_targets"),
            ("online_ratio_targets", "online_targets"),
        )
    }
    views = size.clips * len(IS_TARGET)
    facts: dict[str, object] = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "clips_per_step": size.clips,
        "views_per_step": views,
        "image_width_height": list(reversed(size.image_hw)),
        "stored_bytes_per_view": stored // views,
        **{
            f"steps_per_second_{side}": 1 / statistics.median(values)
            for side, values in times.items()
        },
        **measure_shares(size, teachers, options.device),
    }
    if options.device == "cuda":
        facts["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    title = "A pre-training step: cached targets against teachers in the loop"
    publish("pretrain_step", title, DESCRIPTION, options, times, ratios, facts)


def make_sides(
    size: Size, teachers: Teachers, device: str, folder: Path, pool: ThreadPoolExecutor
) -> dict[str, Side]:
    """All five sides around one student; writes the cached targets into the folder."""
    recipe = make_recipe(size, device)
    spec = recipe.teacher
    published = OnlineBatches(size, spec, teachers.two_pass, teachers.dinov3, device)
    online = OnlineBatches(size, spec, teachers.asymmetric, teachers.dinov3, device)
    on_all = make_task(recipe, online).to(device)
    on_targets = make_task(replace(recipe, loss=replace(recipe.loss, views="targets")), online)
    on_targets.model = on_all.model
    optimizer = build_optimizer(on_all.model, recipe.train)
    write_targets(folder, online.load(online.clips), spec)
    cached = CachedTargets(folder)

    def optimise(task: nn.Module, batch: ClipBatch) -> float:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            total = task(batch.to(device))["total"]
        total.backward()
        nn.utils.clip_grad_norm_(on_all.model.parameters(), recipe.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return total.item()  # queued last, so this waits for all of the step

    def with_teachers(source: OnlineBatches, task: nn.Module) -> Side:
        return lambda: optimise(task, source.load(source.clips))

    def with_cache(task: nn.Module) -> Side:
        ahead: Future[ClipBatch] = pool.submit(cached.load, cached.clips)

        def step() -> float:
            nonlocal ahead
            batch, ahead = ahead.result(), pool.submit(cached.load, cached.clips)
            loss = optimise(task, batch)
            ahead.result()  # a loader slower than the step must show
            return loss

        return step

    return {
        "published": with_teachers(published, on_all),
        "online": with_teachers(online, on_all),
        "cached": with_cache(on_all),
        "online_targets": with_teachers(online, on_targets),
        "cached_targets": with_cache(on_targets),
    }


def measure_shares(size: Size, teachers: Teachers, device: str) -> dict[str, float]:
    """What each part takes of a published step's forward."""
    recipe = make_recipe(size, device)
    source = OnlineBatches(size, recipe.teacher, teachers.two_pass, teachers.dinov3, device)
    task = make_task(recipe, source).to(device)
    views, vggt = source.views, teachers.two_pass.model
    batch = source.load(source.clips)
    context_BC = context_indices(views.is_target_BV)
    scene_B1 = torch.arange(len(context_BC), device=device)[:, None]
    layers = set(vggt.config.dpt.layers)

    @torch.no_grad()
    def aggregator() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            vggt.aggregator(views.images_BV3HW, layers=layers)
            vggt.aggregator(views.images_BV3HW[scene_B1, context_BC], layers={max(layers)})

    @torch.no_grad()
    def student() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            task(batch)

    parts: dict[str, Callable[[], object]] = {
        "aggregator": aggregator,
        "vggt": lambda: teachers.two_pass(views),
        "dinov3": lambda: teachers.dinov3(views, batch.grid_hw),
        "student": student,
    }
    waited = {name: lambda part=part: _synchronised(part(), device) for name, part in parts.items()}
    times: Times = interleave(waited, rounds=5)
    # Shares need the parts' own cost, and whatever else the machine does can only add to it.
    least = {name: min(values) for name, values in times.items()}
    forward = least["vggt"] + least["dinov3"] + least["student"]
    return {
        "share_aggregator": least["aggregator"] / forward,
        "share_heads": (least["vggt"] - least["aggregator"]) / forward,
        "share_dinov3": least["dinov3"] / forward,
        "share_student": least["student"] / forward,
    }


def _synchronised(answer: T, device: str) -> T:
    if device == "cuda":
        torch.cuda.synchronize()
    return answer


if __name__ == "__main__":
    main()
