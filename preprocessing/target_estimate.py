"""What writing targets would do, without doing it: clips, bytes and GPU-hours. Writes nothing.

Clips are drawn as they would be, bytes follow from shapes. What is done already is judged by
sidecars, which know the frame shard and the clips: whether the teachers' weights are still the same
is only known where they are loaded.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from preprocessing.estimate import duration, size
from preprocessing.shards import Snapshot
from preprocessing.space import free_bytes
from preprocessing.target_answers import SceneJob, Stored, frames_of
from preprocessing.target_crews import build_teachers
from preprocessing.target_sizes import packed_bytes, packed_left, scene_bytes
from preprocessing.targets import measured, plan_jobs
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.answers import TeacherAnswers, frame_keys, frame_widths, grid_of
from spa3r.data.clips import Clip
from spa3r.data.shards import FrameTable
from spa3r.data.targets import draw_split
from spa3r.errors import ShardError, TeacherError, WeightsError

PEAK_FLOPS: Final = 989e12
"""bf16 of an H100 or H200, dense, after its data sheet."""
PEAK_SHARE: Final = 0.5
"""Assumed of the teachers; benchmarks/pretrain_step.py measures it where a GPU is at hand."""

Size = tuple[int, int, tuple[int, int]]
"""Context views, target views and patch grid of a clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitEstimate:
    """Of one split; `asked` is what the teachers have yet to be asked."""

    split: str
    out: str
    stored: Stored
    scenes: int
    clips: int
    views: int
    dropped: int
    """Scenes too short for a clip."""
    done_scenes: int
    done_clips: int
    bytes: dict[str, int]
    """Of all scenes, by kind of file."""
    bytes_left: int
    """Of packed shards too."""
    asked: dict[Size, int]
    """Clips by size."""
    asked_frames: int
    """For the teachers of single frames; 0 without any."""
    free: int | None
    """Bytes free at out; None: not on a disk of this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds of the teachers, measured on one clip after another of its kind."""

    device: str
    per_view: float
    per_frame: float
    """Of the teachers of single frames, together."""


def estimate_targets(
    table: FrameTable,
    out: str,
    *,
    clips: ClipSpec,
    teacher: TeacherSpec,
    split: str,
    stored: Stored,
    statistics_clips: int,
    packed: str = "",
) -> SplitEstimate:
    """What `write_targets` would have to do with the same arguments.

    Args:
        packed: folder of sequential shards that its targets are copied into; "": they are not.

    Raises:
        SceneError: no scene of the split is long enough for a clip. ShardError: out does not
            answer.
    """
    drawn, dropped = draw_split(table, split, clips)
    jobs = plan_jobs(
        table, drawn, out, split=split, stored=stored, same=[], device="cpu",
        measured=measured(drawn, clips, stored, statistics_clips),
    )  # fmt: skip
    done = _done(out, jobs)
    left = [job for job in jobs if job.scene not in done]
    grids = {job.scene: grid_of(table, job.clips[0], teacher.patch_size) for job in jobs}
    sizes = {job.scene: scene_bytes(job, grids[job.scene], teacher) for job in jobs}
    bytes_left = sum(sum(sizes[job.scene].values()) for job in left)
    if packed:
        for job in jobs:
            sizes[job.scene]["packed"] = packed_bytes(job, grids[job.scene], teacher)
        # Where each clip lies depends on all scenes: with one that is new, all are packed again.
        every_one = sum(found["packed"] for found in sizes.values())
        bytes_left += every_one if left else packed_left(jobs, table, teacher, packed)
    asked = Counter(_size(clip, grids[job.scene]) for job in left for clip in job.measured)
    of_frames = [job.clips if job.keeps_frames else job.measured for job in left]
    every = [clip for job in jobs for clip in job.clips]
    by_kind: Counter[str] = Counter()
    for found in sizes.values():
        by_kind.update(found)
    return SplitEstimate(
        split=split, out=out, stored=stored, scenes=len(jobs), clips=len(every),
        views=sum(clip.num_views for clip in every), dropped=len(dropped), done_scenes=len(done),
        done_clips=sum(len(job.clips) for job in jobs if job.scene in done),
        bytes={kind: count for kind, count in by_kind.items() if count},
        bytes_left=bytes_left, asked=dict(asked),
        asked_frames=bool(frame_widths(teacher)) * sum(len(frames_of(one)) for one in of_frames),
        free=free_bytes(out),
    )  # fmt: skip


def measure_pace(
    table: FrameTable, clips: ClipSpec, teacher: TeacherSpec, split: str, device: str
) -> Pace | str:
    """Asks the teachers about one clip of the split; or why they cannot be asked."""
    try:
        answers = TeacherAnswers(table, teacher, *build_teachers(teacher, device), device=device)
        drawn, _ = draw_split(table, split, clips)
        of_scene = sorted(next(iter(drawn.values())), key=lambda clip: clip.num_views)
        clip = of_scene[len(of_scene) // 2]
        seconds: list[tuple[float, float]] = []
        for _ in range(2):  # the first one also loads kernels
            begin = time.perf_counter()
            answers.geometric([clip])
            _wait(device)
            middle = time.perf_counter()
            answers.of_frames(frame_keys(clip), answers.grid_hw(clip))
            _wait(device)
            seconds.append((middle - begin, time.perf_counter() - middle))
    except (TeacherError, WeightsError, ShardError) as error:
        return str(error)
    of_clip, of_frames = seconds[-1]
    views = clip.num_views
    return Pace(device=device, per_view=of_clip / views, per_frame=of_frames / views)


def describe_targets(
    found: Sequence[SplitEstimate], flops: int | None, pace: Pace | str | None
) -> str:
    """The estimate in short aligned lines.

    Args:
        flops: of the teachers for all that is left; None: they have no matrix products to speak of.
        pace: measured, or why it could not be; None: there is nothing to measure on.
    """
    lines = [line for split in found for line in _split_lines(split)]
    views = sum(n * (size[0] + size[1]) for split in found for size, n in split.asked.items())
    frames = sum(split.asked_frames for split in found)
    if not views and not frames:
        packing = any(one.bytes_left and one.done_scenes == one.scenes for one in found)
        said = "none of the teachers; packing is left" if packing else "none: all is done"
        lines.append(("time", said))
    elif flops is not None:
        hours = flops / (PEAK_SHARE * PEAK_FLOPS) / 3600
        at = f"{PEAK_SHARE:.0%} of {PEAK_FLOPS / 1e12:.0f} TFLOP/s (H100, bf16), float32 heads too"
        shown = f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
        lines.append(("time", f"about {shown} GPU-hours: {flops:.2g} FLOPs, assumed at {at}"))
    if isinstance(pace, Pace) and (views or frames):
        seconds = views * pace.per_view + frames * pace.per_frame
        unit = "one CPU core" if pace.device == "cpu" else "one GPU of this machine"
        label = "time" if flops is None else ""
        lines.append((label, f"about {duration(seconds)} on {unit}, measured on one clip:"
                      f" {1000 * pace.per_view:.0f} ms a view"))  # fmt: skip
    elif isinstance(pace, str):
        lines.append(("!!", f"not measured: {pace}"))
    return "\n".join(f"{name:<8}{line}" for name, line in [*lines, ("", "nothing was written")])


def _split_lines(found: SplitEstimate) -> list[tuple[str, str]]:
    dropped = f", {found.dropped} too short for a clip" if found.dropped else ""
    kinds = ", ".join(f"{kind} {size(count)}" for kind, count in found.bytes.items())
    what = {"clips": "all targets", "frames": "tokens of single frames, and statistics",
            "statistics": "statistics alone"}[found.stored]  # fmt: skip
    free = ""
    if found.free is not None:
        short = "only " if found.free < found.bytes_left else ""
        free = f" ({short}{size(found.free)} free)"
    return [
        (found.split, f"{found.scenes:,} scenes{dropped}, {found.clips:,} clips, {found.views:,}"
         f" views; {found.done_scenes:,} scenes with {found.done_clips:,} clips are done"),
        ("", f"{what}: {size(sum(found.bytes.values()))} ({kinds})"),
        ("", f"{size(found.bytes_left)} to be written in {found.out}{free}"),
    ]  # fmt: skip


def _done(out: str, jobs: Sequence[SceneJob]) -> frozenset[str]:
    """Scenes with a whole sidecar of the same shard and clips."""
    try:
        snapshot = Snapshot(out)
    except OSError as error:
        raise ShardError(f"{out}: does not answer ({error.strerror or error})") from error
    marks = {job.scene: snapshot.sidecar(job.scene) for job in jobs}
    return frozenset(
        job.scene
        for job in jobs
        if (mark := marks[job.scene]) and mark["counts"].get("plan_hash") == job.plan_hash
    )


def _size(clip: Clip, grid_hw: tuple[int, int]) -> Size:
    return clip.num_context, clip.num_views - clip.num_context, grid_hw


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
