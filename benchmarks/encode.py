"""Encoding a scene: our teacher against one that runs all heads and keeps all layers.

python -m benchmarks.encode [--device cpu|cuda] [--size small|full] [--json FILE] [--rounds N]
python -m benchmarks.encode --size full --single surface 40    (one encoding: seconds, peak memory)

Legend: B scenes, V views, P tokens of a view, N patches of a view, C width, H W pixels.
"""

import argparse
import ctypes
import datetime
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Times, interleave, publish, ratio
from spa3r.config import ModelConfig
from spa3r.models.spa3r import Spa3RModel
from spa3r.recipes.paper import paper
from spa3r.teachers.base import ClipViews
from spa3r.teachers.camera_head import CameraHeadConfig
from spa3r.teachers.dinov2 import DinoV2Config
from spa3r.teachers.dpt_head import DptConfig
from spa3r.teachers.imagenet import normalise
from spa3r.teachers.pose_encoding import decode_cameras
from spa3r.teachers.rope import view_rope
from spa3r.teachers.vggt import Vggt, VggtConfig
from spa3r.teachers.vggt_aggregator import AggregatorConfig
from spa3r.teachers.vggt_teacher import VggtTeacher

DESCRIPTION = """\
From images to the scene's latents, for 1, 8 and 32 views of one scene; all sides share one set of
random weights and one student.

* `straightforward`: VGGT as its public description reads: the output of every aggregator layer is
  kept, camera head, depth head and point head all run. Nothing is chunked but the heads, 8 views at
  a time, as the published heads are.
* `surface`: our `VggtTeacher.context(surface=True)`: only the layers that are used are kept, no
  point head, everything but the attention itself in chunks of 8 views.
* `latents`: the same with `surface=False`: no depth head either, one layer kept.

`surface_speedup_V` and `latents_speedup_V` are how many times faster than `straightforward` a side
is with V views; `*_memory_V` its peak memory above the weights as a share of `straightforward`'s.
Peak memory is that of a process of its own for every side and number of views (`VmHWM` on the CPU,
`max_memory_allocated` on a GPU); `peak_mib_*` includes weights and, on the CPU, Python and torch.

`--size full` is VGGT-1B and the paper's student on images of 518 x 378 in bfloat16 (weights held in
float32, heads run in float32), with the share of the GPU's bfloat16 peak. `--size small` is a VGGT
of 24 layers, 192 wide, on images of 196 x 140 in float32, which shows the scheme on a laptop and is
no measurement of a GPU. Weights are random."""

VIEWS: Final = (1, 8, 32)
SIDES: Final = ("straightforward", "surface", "latents")
PEAK_TFLOPS: Final = {"H200": 989.0, "H100": 989.0}
"""Dense bfloat16 matrix products, by the maker's data sheet."""
MIB: Final = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Everything that differs between the laptop's and the GPU's measurement."""

    image_hw: tuple[int, int]
    vggt: VggtConfig
    student: ModelConfig
    precision: str


SIZES: Final = {
    "full": Size(
        image_hw=(378, 518), vggt=VggtConfig(), student=paper().model, precision="bfloat16"
    ),
    "small": Size(
        image_hw=(140, 196),
        vggt=VggtConfig(
            aggregator=AggregatorConfig(
                embed_dim=192,
                depth=24,
                num_heads=3,
                dinov2=DinoV2Config(img_size=224, embed_dim=192, depth=12, num_heads=3),
            ),
            camera_head=CameraHeadConfig(num_heads=6),
            dpt=DptConfig(features=48, out_channels=(48, 96, 192, 192), layers=(4, 11, 17, 23)),
        ),
        student=ModelConfig(
            geo_width=384, sem_width=192, width=192, num_latents=64, num_heads=3, encoder_layers=3,
            decoder_layers=3,
        ),
        precision="float32",
    ),
}  # fmt: skip


class Encoding:
    """Random images, and every side's way from the first of them to latents (1, L, D)."""

    def __init__(self, size: Size, views: int, device: str) -> None:
        torch.manual_seed(0)
        with torch.device(device):
            self.vggt = Vggt(size.vggt)
            self.student = Spa3RModel(size.student).eval().requires_grad_(False)
            self.images_BV3HW = torch.rand(1, views, 3, *size.image_hw)
        # Cameras near the identity: four iterations add up to a quaternion's scalar of 1 and fields
        # of view of 1 radian.
        update = self.vggt.camera_head.pose_branch.fc2.requires_grad_(False)
        update.weight.mul_(0.2)
        update.bias.copy_(torch.tensor([0.0] * 6 + [0.25] * 3))
        self.device, self.size = device, size
        self.autocast = size.precision == "bfloat16"
        self.teacher = VggtTeacher(self.vggt, uri="random", autocast=self.autocast)

    @torch.inference_mode()
    def run(self, side: str, views: int) -> Tensor:
        """Latents of the first views by one side."""
        images_BV3HW = self.images_BV3HW[:, :views]
        if side == "straightforward":
            tokens_BVND = straightforward(self.vggt, images_BV3HW, autocast=self.autocast)
        else:
            is_target_BV = torch.zeros(1, views, dtype=torch.bool, device=self.device)
            asked = ClipViews(images_BV3HW=images_BV3HW, is_target_BV=is_target_BV)
            tokens_BVND = self.teacher.context(asked, surface=side == "surface").context_BCND
        rows, columns = (n // self.teacher.patch_size for n in self.size.image_hw)
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.autocast):
            latents_BLD = self.student.encode(tokens_BVND, (rows, columns))
        if self.device == "cuda":
            torch.cuda.synchronize()
        return latents_BLD

    def flops(self, side: str, views: int) -> int:
        """Of one encoding on a GPU: matrix products, convolutions and attention.

        On a CPU attention would be missing: the counter does not know its kernel.
        """
        with FlopCounterMode(display=False) as counter:
            self.run(side, views)
        return counter.get_total_flops()


def straightforward(vggt: Vggt, images_BV3HW: Tensor, *, autocast: bool) -> Tensor:
    """Last layer's patch tokens (B, V, N, 2C), having kept all layers and run all heads."""
    device, special = images_BV3HW.device.type, vggt.aggregator.num_special
    image_hw = (images_BV3HW.shape[-2], images_BV3HW.shape[-1])
    with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
        layers = all_layers(vggt, images_BV3HW)
    with torch.autocast(device, enabled=False):
        maps = [layers[i][:, :, special:] for i in vggt.config.dpt.layers]
        answers = (
            decode_cameras(vggt.camera_head(layers[-1][:, :, 0])[-1], image_hw),
            vggt.depth_head(maps, image_hw),
            vggt.point_head(maps, image_hw),
        )
    assert all(x.isfinite().all() for answer in answers for x in answer)
    return layers[-1][:, :, special:]


def all_layers(vggt: Vggt, images_BV3HW: Tensor) -> list[Tensor]:
    """Every aggregator layer's tokens (B, V, P, 2C), by whole batches and whole sequences."""
    aggregator, config = vggt.aggregator, vggt.config.aggregator
    num_scenes, num_views, _, height, width = images_BV3HW.shape
    patches_FNC = aggregator.patch_embed(normalise(images_BV3HW).flatten(0, 1))
    first_or_other = [0] + [1] * (num_views - 1)
    special_12XC = torch.cat([aggregator.camera_token, aggregator.register_token], dim=2)
    special_FXC = special_12XC[0, first_or_other * num_scenes]
    x_FPC = torch.cat([special_FXC, patches_FNC], dim=1)
    grid_hw = (height // config.patch_size, width // config.patch_size)
    head_width = config.embed_dim // config.num_heads
    rope = view_rope(
        grid_hw, aggregator.num_special, head_width, config.rope_freq, images_BV3HW.device
    )
    cos, sin = (table.repeat(num_views, 1, 1) for table in rope)
    layers = []
    for frame_block, global_block in zip(
        aggregator.frame_blocks, aggregator.global_blocks, strict=True
    ):
        frame_FPC = frame_block(x_FPC, rope)
        whole_BTC = frame_FPC.unflatten(0, (num_scenes, num_views)).flatten(1, 2)
        x_FPC = global_block(whole_BTC, (cos, sin)).view(x_FPC.shape)
        both = torch.cat([frame_FPC, x_FPC], dim=-1)
        layers.append(both.unflatten(0, (num_scenes, num_views)))
    return layers


# --- measuring ------------------------------------------------------------------------------------


def single(size: Size, side: str, views: int, device: str) -> dict[str, Any]:
    """One encoding in this process: seconds, and memory before it and at its peak, in MiB."""
    encoding = Encoding(size, views, device)
    before = watch_memory(device)
    begin = time.perf_counter()
    latents = encoding.run(side, views)
    return {
        "side": side,
        "views": views,
        "precision": size.precision,
        "seconds": time.perf_counter() - begin,
        "before_mib": before,
        "peak_mib": peak_memory(device),
        "finite": bool(latents.isfinite().all()),
    }


def watch_memory(device: str) -> float:
    """Forgets the peak so far (of building the model); memory in use now, in MiB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / MIB
    ctypes.CDLL(None).malloc_trim(0)  # else what building freed would be used again and not show
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory(device)


def peak_memory(device: str) -> float:
    """Highest memory since `watch_memory`, in MiB: of the process, or allocated on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    # Not ru_maxrss: it cannot be reset, and a child starts with its parent's.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure_memory(options: argparse.Namespace) -> tuple[dict[str, float], dict[str, float]]:
    """Our peaks above the weights over the straightforward ones, and all peaks; every one measured
    in a process of its own."""
    ratios: dict[str, float] = {}
    facts: dict[str, float] = {}
    for views in VIEWS:
        above: dict[str, float] = {}
        for side in SIDES:
            command = [sys.executable, "-m", "benchmarks.encode", "--device", options.device]
            command += ["--size", options.size, "--single", side, str(views)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            answer = json.loads(done.stdout)
            facts["peak_mib_before"] = answer["before_mib"]
            facts[f"peak_mib_{side}_{views}"] = answer["peak_mib"]
            above[side] = answer["peak_mib"] - answer["before_mib"]
        for side in SIDES[1:]:
            ratios[f"{side}_memory_{views}"] = above[side] / above[SIDES[0]]
    return ratios, facts


def measure_time(options: argparse.Namespace) -> tuple[Times, dict[str, float]]:
    """Interleaved rounds of every side and number of views, and their arithmetic."""
    encoding = Encoding(SIZES[options.size], max(VIEWS), options.device)
    cases = {f"{side}_{views}": (side, views) for views in VIEWS for side in SIDES}
    sides: dict[str, Callable[[], object]] = {
        name: lambda case=case: encoding.run(*case) for name, case in cases.items()
    }
    times = interleave(sides, options.rounds)
    facts = {
        f"images_per_second_{name}": views / statistics.median(times[name])
        for name, (_, views) in cases.items()
    }
    if options.device == "cuda":
        card = torch.cuda.get_device_name()
        peak = next((tflops for name, tflops in PEAK_TFLOPS.items() if name in card), None)
        for name, case in cases.items():
            tflop = encoding.flops(*case) / 1e12
            facts[f"tflop_{name}"] = tflop
            facts[f"tflop_per_second_{name}"] = tflop / statistics.median(times[name])
            if peak is not None:
                facts[f"share_of_peak_{name}"] = facts[f"tflop_per_second_{name}"] / peak
    return times, facts


def parse_arguments() -> argparse.Namespace:
    """The options of every benchmark, the size of the model, and the single encoding."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encode")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=tuple(SIZES), help="default: small on the CPU, else full")
    parser.add_argument("--json", type=Path, help="file to write; a page with suffix .md beside it")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="of the page")
    parser.add_argument("--single", nargs=2, metavar=("SIDE", "VIEWS"), help="one encoding only")
    options = parser.parse_args()
    options.size = options.size or ("full" if options.device == "cuda" else "small")
    return options


def main() -> None:
    """Measures memory, then time; or, with --single, one encoding."""
    options = parse_arguments()
    if options.single:
        side, views = options.single
        print(json.dumps(single(SIZES[options.size], side, int(views), options.device)))
        return
    # Memory first: on a GPU this process must not hold any while the others measure theirs.
    memory_ratios, memory = measure_memory(options)
    times, speed = measure_time(options)
    ratios = {
        f"{side}_speedup_{views}": ratio(times, of=f"{SIDES[0]}_{views}", to=f"{side}_{views}")
        for views in VIEWS
        for side in SIDES[1:]
    }
    size = SIZES[options.size]
    facts: dict[str, object] = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "size": options.size,
        "precision": size.precision,
        "image_width_height": list(reversed(size.image_hw)),
        **memory,
        **speed,
    }
    title = "Encoding a scene: only what is needed, a few views at a time"
    publish("encode", title, DESCRIPTION, options, times, ratios | memory_ratios, facts)


if __name__ == "__main__":
    main()
