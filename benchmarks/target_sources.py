"""When each source of targets wins: bytes against FLOPs of one micro-batch, by formula. No timing.

A worker computes while its loader reads, so a micro-batch takes the longer of the two. The machines
below are assumptions, not measurements; the FLOPs are those of spa3r/train/flops.py, the bytes
those of the stored layout.

Usage: python -m benchmarks.target_sources [--json FILE]
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from spa3r.data.quantise import stored_layout
from spa3r.recipes import catalogue
from spa3r.teachers.dinov3 import VITL16
from spa3r.teachers.vggt import VggtConfig
from spa3r.train.flops import dinov3_flops, student_flops, vggt_flops

GRID_HW: Final = (27, 37)  # ScanNet's 640 x 480 at width 518
VIEWS, CONTEXT, CLIPS = 8, 4, 3  # of a micro-batch of 24 views
IMAGE_BYTES: Final = 60_000  # mean of 52 real 640 x 480 frames at 518 x 378, JPEG quality 95: 59 kB
PEAK_FLOPS: Final = 989e12  # one H100, bf16, dense
REACHED: Final = 0.5  # share of that peak, of student and teachers alike
GPUS: Final = 8  # a node's
MACHINES: Final = {  # bytes a second that one node reads
    "1 node, local NVMe": 25e9,
    "64 GPUs, object storage at 1 GB/s a node": 1e9,
    "64 GPUs, object storage at 3 GB/s a node": 3e9,
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one micro-batch on one GPU."""

    read_bytes: float
    flops: float

    @property
    def compute_s(self) -> float:
        return self.flops / (PEAK_FLOPS * REACHED)

    def seconds(self, node_bytes_per_s: float) -> float:
        """Reading and computing overlap: the longer one counts."""
        return max(self.compute_s, self.read_bytes / (node_bytes_per_s / GPUS))


def costs() -> dict[str, Cost]:
    """Of `paper`, by source and dtype as stored."""
    recipe = catalogue.get("paper")
    targets = VIEWS - CONTEXT
    student = 3 * CLIPS * student_flops(  # forward and a backward of twice its size
        recipe.model, context_views=CONTEXT, decoded_views=targets, grid_hw=GRID_HW
    )  # fmt: skip
    vggt = CLIPS * vggt_flops(
        VggtConfig(), context_views=CONTEXT, target_views=targets, grid_hw=GRID_HW, heads="targets"
    )
    dinov3 = dinov3_flops(VITL16, views=CLIPS * targets)
    images = CLIPS * VIEWS * IMAGE_BYTES
    stored, computed = {}, {}
    for dtype in ("float16", "int8"):
        view = CLIPS * VIEWS * _token_bytes(dtype, recipe.teacher.width)
        frame = CLIPS * _token_bytes(dtype, recipe.teacher.semantic_width)
        stored |= {
            f"cached {dtype}": Cost(read_bytes=view + targets * frame, flops=student),
            f"packed {dtype}": Cost(read_bytes=view + VIEWS * frame, flops=student),
        }
        computed[f"hybrid {dtype}"] = Cost(
            read_bytes=images + targets * frame, flops=student + vggt
        )
    online = {"online": Cost(read_bytes=images, flops=student + vggt + dinov3)}
    return stored | computed | online


def _token_bytes(dtype: str, width: int) -> int:
    """Of one view's tokens; an int8 tensor's scales per channel are counted with every view."""
    layout = stored_layout("x", (GRID_HW[0] * GRID_HW[1], width), dtype)
    return sum(torch.Size(shape).numel() * kind.itemsize for shape, kind in layout.values())


def break_even() -> float:
    """Bytes a second and GPU above which `cached float16` is faster than `online`."""
    found = costs()
    return found["cached float16"].read_bytes / found["online"].compute_s


def making_hours(scenes: int) -> float:
    """GPU-hours of the targets of so many scenes, once."""
    recipe = catalogue.get("paper")
    found = costs()
    teachers = found["online"].flops - found["cached float16"].flops
    batches = scenes * recipe.clips.clips_per_scene / CLIPS
    return batches * teachers / (PEAK_FLOPS * REACHED) / 3600


def run_hours(side: str) -> float:
    """GPU-hours that the matrix products of a whole `paper` run take, reading left out."""
    train = catalogue.get("paper").train
    return train.steps * train.batches_per_step * costs()[side].compute_s / 3600


def page() -> str:
    """The table as Markdown."""
    found = costs()
    lines = [
        "# When each source of targets wins: bytes against FLOPs",
        "",
        f"Arithmetic, not a measurement. One micro-batch of `paper` on one GPU: {CLIPS} clips of"
        f" {VIEWS} views, {CONTEXT} of them",
        f"context, {GRID_HW[0]} x {GRID_HW[1]} tokens a view, loss on target views. Assumed: a peak"
        f" of {PEAK_FLOPS / 1e12:.0f} TFLOP/s in bfloat16, of which",
        f"student and teachers reach {100 * REACHED:.0f} % (VGGT's heads, which run in float32,"
        " included); reading and computing",
        f"overlap; {GPUS} GPUs a node; images of {IMAGE_BYTES // 1000} kB. `packed` reads a clip"
        " whole, in one request a batch;",
        "`cached` and `hybrid` leave the context views' semantic tokens out, in a request for each"
        " clip and",
        "frame.",
        "",
        "| source | MB read | TFLOP | compute, ms | "
        + " | ".join(f"{name}, ms" for name in MACHINES) + " |",
        "|---|---|---|---|" + "---|" * len(MACHINES),
    ]  # fmt: skip
    best = {name: min(cost.seconds(speed) for cost in found.values())
            for name, speed in MACHINES.items()}  # fmt: skip
    for side, cost in found.items():
        cells = []
        for name, speed in MACHINES.items():
            seconds = cost.seconds(speed)
            text = f"{1e3 * seconds:.0f}" + (" (reads)" if seconds > cost.compute_s else "")
            cells.append(f"**{text}**" if seconds == best[name] else text)
        lines.append(
            f"| {side} | {cost.read_bytes / 1e6:.1f} | {cost.flops / 1e12:.1f}"
            f" | {1e3 * cost.compute_s:.0f} | {' | '.join(cells)} |"
        )
    lines += [
        "",
        "(reads): the GPU waits for the storage. Bold: the fastest of the column.",
        "",
        f"- `cached float16` is faster than `online` where a GPU gets more than"
        f" {break_even() / 1e9:.2f} GB/s, {GPUS * break_even() / 1e9:.1f} GB/s a node.",
        f"- Targets of a thousand scenes of 64 clips take {making_hours(1000):.1f} GPU-hours once;"
        f" the matrix products of an 80k-step run take",
        f"  {run_hours('cached float16'):.0f} GPU-hours with `cached`, {run_hours('online'):.0f}"
        " with `online`.",
        "",
        "Again: `python -m benchmarks.target_sources --json docs/benchmarks/target_sources.json`",
    ]
    return "\n".join(lines) + "\n"


def result() -> dict[str, Any]:
    """The same as plain numbers."""
    sides = {
        side: asdict(cost) | {"ms": {n: 1e3 * cost.seconds(speed) for n, speed in MACHINES.items()}}
        for side, cost in costs().items()
    }
    return {"benchmark": "target_sources", "break_even_bytes_per_s": break_even(), "sides": sides}


def main() -> None:
    """Prints the page; with --json also writes the numbers, and the page beside them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.target_sources")
    parser.add_argument("--json", type=Path, help="file to write; a page with suffix .md beside it")
    path = parser.parse_args().json
    print(page(), end="")
    if path:
        path.write_text(json.dumps(result(), indent=1, sort_keys=True) + "\n")
        path.with_suffix(".md").write_text(page())


if __name__ == "__main__":
    main()
