"""What the stage `targets` would do. No Prefect here."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.data_stages import packed_folder, require_shards, target_splits, teacher_device
from flows.settings import Settings
from spa3r.config import TeacherSpec
from spa3r.recipes import catalogue

if TYPE_CHECKING:
    from preprocessing.target_estimate import SplitEstimate


def dry_run(
    *, dataset: str = "rooms", recipe: str = "tiny", overrides: Mapping[str, Any] | None = None
) -> str:
    """Lines saying what `targets` would do, how many bytes it would write and how long it would
    take; nothing is written."""
    from preprocessing.target_estimate import describe_targets, estimate_targets, measure_pace
    from spa3r.data.shards import FrameTable

    settings, plan = Settings.from_environment(), catalogue.get(recipe, overrides)
    table = FrameTable(require_shards(settings, dataset, plan))
    found = [
        estimate_targets(
            table, settings.targets(dataset, plan, split), clips=clips, teacher=plan.teacher,
            split=split, stored=stored, statistics_clips=plan.data.statistics_clips,
            packed=packed_folder(settings, dataset, plan, split),
        )
        for split, clips, stored in target_splits(plan)
    ]  # fmt: skip
    device = teacher_device(settings, plan)
    pace = None
    if plan.teacher.geometric == "rgbd" or device != "cpu":
        pace = measure_pace(table, plan.clips, plan.teacher, "train", device)
    return describe_targets(found, _flops(plan.teacher, found), pace)


def _flops(spec: TeacherSpec, found: Sequence["SplitEstimate"]) -> int | None:
    """Of the published VGGT, and of a ViT-L/16 for each teacher of single frames but `labels`."""
    if spec.geometric != "vggt":
        return None
    from spa3r.teachers.dinov3 import VITL16
    from spa3r.teachers.vggt import VggtConfig
    from spa3r.train.flops import dinov3_flops, vggt_flops

    heads = "none" if spec.cameras == "dataset" else "all"
    frame_teachers = (spec.semantic in ("dinov3", "dinov2")) + (spec.linguistic != "none")
    total = 0
    for split in found:
        total += frame_teachers * dinov3_flops(VITL16, views=split.asked_frames)
        for (context, target, grid_hw), clips in split.asked.items():
            total += clips * vggt_flops(
                VggtConfig(), context_views=context, target_views=target, grid_hw=grid_hw,
                passes=spec.passes, heads=heads,
            )  # fmt: skip
    return total
