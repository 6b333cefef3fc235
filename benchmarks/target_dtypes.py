"""What storing teacher tokens costs in numbers: the error of each dtype. No timing.

Usage: python -m benchmarks.target_dtypes [--json FILE] [--date DATE]

VGGT's and DINOv3's weights cannot be had here, so the tokens are drawn: plain; with a few channels
fifty times as large as the rest; and with the massive activations of vision transformers, one
channel of a few tokens thousands of times as large. Others are made by `rgbd` from a generated
room. With one scale a token, or one a channel, int8 is measured for comparison.

Legend: M tokens, D width.
"""

import argparse
import datetime
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.common import machine
from preprocessing.dataset import ingest_dataset
from preprocessing.rooms.spec import RoomSpec
from preprocessing.rooms.writer import write_rooms
from spa3r.config import ClipSpec, IngestSpec, TeacherSpec
from spa3r.data.answers import TeacherAnswers
from spa3r.data.clips import draw_clips
from spa3r.data.quantise import pack_tokens, unpack_tokens
from spa3r.data.shards import FrameTable
from spa3r.teachers.rgbd import RgbdTeacher

TOKENS: Final = 8 * 999  # a clip of 8 views at 518 x 378
WIDTH: Final = 2048
LARGE: Final = 8
"""Channels that are FACTOR times as large as the rest."""
FACTOR: Final = 50.0
LONG_EACH: Final = 100
LONG_FACTOR: Final = 20.0
"""Of tokens that are longer than the rest: one in so many, by so much."""
MASSIVE: Final = 2
"""Tokens of which one channel is MASSIVE_FACTOR times the rest."""
MASSIVE_FACTOR: Final = 3000.0
NUMBERS: Final = {
    "rms": "RMS of the error by RMS of the tokens",
    "ordinary": "the same, in the ordinary channels (of ordinary tokens)",
    "large": "the same, in the large channels",
    "channel": "the same, in the massive tokens' large channel, of the other tokens",
    "massive": "the same, in the massive tokens' other channels",
    "token": "median error of a token by its norm",
    "worst_token": "largest error of a token by its norm",
    "cosine": "1 - mean cosine of token and stored token",
    "bytes": "bytes a token, scales included",
}

Parts = Mapping[str, Tensor]
"""Names of NUMBERS -> which values they are of: bool, broadcast to (M, D)."""
Stored = Callable[[Tensor], tuple[Tensor, int]]
"""Tokens (M, D) -> what is read back of them, in float32, and the bytes they took."""


def through(dtype: str) -> Stored:
    """As targets are stored."""

    def store(tokens_MD: Tensor) -> tuple[Tensor, int]:
        packed = pack_tokens("x", tokens_MD, dtype)
        size = sum(x.numel() * x.element_size() for x in packed.values())
        return unpack_tokens("x", packed, dtype).float(), size

    return store


def one_scale(dim: int) -> Stored:
    """int8 with one scale a token (dim 1) or one a channel (dim 0)."""

    def store(tokens_MD: Tensor) -> tuple[Tensor, int]:
        step = tokens_MD.abs().amax(dim, keepdim=True).clamp_min(1e-30) / 127
        return (tokens_MD / step).round() * step, tokens_MD.numel() + 4 * step.numel()

    return store


SIDES: Final[dict[str, Stored]] = {
    "float16": through("float16"),
    "bfloat16": through("bfloat16"),
    "int8": through("int8"),
    "int8, a scale per token alone": one_scale(1),
    "int8, a scale per channel alone": one_scale(0),
}


def errors(tokens_MD: Tensor, store: Stored, parts: Parts) -> dict[str, float]:
    """The NUMBERS of one way to store tokens."""
    read_MD, size = store(tokens_MD)
    error_MD = read_MD - tokens_MD
    found = {"rms": _share(error_MD, tokens_MD)}
    for name, chosen in parts.items():
        chosen_MD = chosen.expand_as(tokens_MD)
        found[name] = _share(error_MD[chosen_MD], tokens_MD[chosen_MD])
    cosine_M = torch.cosine_similarity(read_MD.double(), tokens_MD.double())
    of_token_M = error_MD.norm(dim=1) / tokens_MD.norm(dim=1)
    found["token"], found["worst_token"] = float(of_token_M.median()), float(of_token_M.max())
    found["cosine"] = float(1 - cosine_M.mean())
    found["bytes"] = size / len(tokens_MD)
    return found


def _share(error: Tensor, tokens: Tensor) -> float:
    return float((error.double().square().mean() / tokens.double().square().mean()).sqrt())


def drawn_tokens(*, large: bool, long: bool = False) -> tuple[Tensor, Parts]:
    """Normal tokens (M, D), some of them of great norm, and which channels are large."""
    generator = torch.Generator().manual_seed(0)
    tokens_MD = torch.randn(TOKENS, WIDTH, generator=generator)
    is_large_D = torch.zeros(WIDTH, dtype=torch.bool)
    if large:
        is_large_D[torch.randperm(WIDTH, generator=generator)[:LARGE]] = True
        tokens_MD[:, is_large_D] *= FACTOR
    if long:
        tokens_MD[::LONG_EACH] *= LONG_FACTOR
    return tokens_MD, {"ordinary": ~is_large_D, "large": is_large_D} if large else {}


def massive_tokens(count: int = TOKENS, width: int = WIDTH) -> tuple[Tensor, Parts]:
    """Normal tokens (M, D), in MASSIVE of which one channel is as vision transformers have it."""
    generator = torch.Generator().manual_seed(0)
    tokens_MD = torch.randn(count, width, generator=generator)
    is_massive_M1 = torch.zeros(count, 1, dtype=torch.bool)
    is_massive_M1[torch.randperm(count, generator=generator)[:MASSIVE]] = True
    is_large_D = torch.zeros(width, dtype=torch.bool)
    is_large_D[int(torch.randint(width, (), generator=generator))] = True
    tokens_MD[is_massive_M1 & is_large_D] = MASSIVE_FACTOR
    return tokens_MD, {
        "ordinary": ~is_massive_M1 & ~is_large_D,
        "channel": ~is_massive_M1 & is_large_D,
        "massive": is_massive_M1 & ~is_large_D,
    }


def room_tokens() -> tuple[Tensor, Parts]:
    """What `rgbd` says of a clip of a generated room: tokens (M, D) of its valid patches."""
    spec = TeacherSpec(geometric="rgbd", semantic="none", cameras="dataset", width=WIDTH)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        room = RoomSpec(width=224, height=168, frames=16)
        write_rooms(folder / "rooms", range(1), room, val_scenes=())
        shards = str(folder / "shards")
        ingest_dataset(str(folder / "rooms"), "rooms", IngestSpec(width=224), shards)
        table = FrameTable(shards)
        (scene,) = table.scenes()
        clips = ClipSpec(view_counts=(8,), gap=(1, 2), clips_per_scene=1)
        clip = draw_clips("rooms", scene, table.frames(scene), clips)[0]
        teacher = RgbdTeacher(spec)
        answers = TeacherAnswers(table, spec, teacher, None)
        targets = teacher(answers.look(clip).views)
    return targets.tokens_BVND[targets.valid_BVN], {}


def measure() -> dict[str, dict[str, dict[str, float]]]:
    """Numbers by tokens and by way to store them."""
    large = f"{LARGE} of {WIDTH} channels {FACTOR:g} times the rest"
    long = f"one token in {LONG_EACH} {LONG_FACTOR:g} times the rest"
    massive = f"one channel of {MASSIVE} of {TOKENS} tokens {MASSIVE_FACTOR:g} times the rest"
    kinds = {
        "normal tokens": drawn_tokens(large=False),
        f"normal tokens, {large}": drawn_tokens(large=True),
        f"normal tokens, {large}, {long}": drawn_tokens(large=True, long=True),
        f"normal tokens, {massive}": massive_tokens(),
        "tokens of `rgbd` in a generated room": room_tokens(),
    }
    return {
        kind: {side: errors(tokens_MD, store, parts) for side, store in SIDES.items()}
        for kind, (tokens_MD, parts) in kinds.items()
    }


def page(result: Mapping[str, Any]) -> str:
    """As Markdown."""
    lines = ["# Dtypes of stored tokens", "", "The error that each way to store teacher tokens"
             f" makes, against float32, on a clip of {TOKENS} tokens of width {WIDTH} (`rgbd`: of"
             " the room's valid patches). Nothing is timed. VGGT's and DINOv3's weights cannot be"
             " had here; tokens of theirs may differ. Large values of all tokens in a channel cost"
             " int8 nothing elsewhere; those of a few tokens cost that channel and those tokens"
             " their precision.", ""]  # fmt: skip
    lines += [f"- `{name}`: {what}" for name, what in NUMBERS.items()]
    for kind, sides in result["errors"].items():
        names = [name for name in NUMBERS if name in sides["int8"]]
        lines += ["", f"## {kind[0].upper()}{kind[1:]}", ""]
        lines += ["| stored as | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        lines += [
            f"| {side} | " + " | ".join(_shown(name, found[name]) for name in names) + " |"
            for side, found in sides.items()
        ]
    where = ", ".join(f"{key} {value}" for key, value in result["machine"].items() if value)
    again = "python -m benchmarks.target_dtypes --json docs/benchmarks/target_dtypes.json"
    return (
        "\n".join([*lines, "", f"Computed on {result['date']}: {where}. Again: `{again}`"]) + "\n"
    )


def _shown(name: str, value: float) -> str:
    return f"{value:.0f}" if name == "bytes" else f"{value:.2g}"


def main() -> None:
    """Measures, prints and, with --json, writes the numbers and a page beside them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.target_dtypes")
    parser.add_argument("--json", type=Path, help="file to write; a page with suffix .md beside it")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="of the page")
    options = parser.parse_args()
    result = {
        "benchmark": "target_dtypes", "date": options.date, "machine": machine(),
        "errors": measure(),
    }  # fmt: skip
    text = json.dumps(result, indent=1) + "\n"
    print(text, end="")
    if options.json:
        options.json.write_text(text)
        options.json.with_suffix(".md").write_text(page(result))


if __name__ == "__main__":
    main()
