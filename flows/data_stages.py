"""Stages from raw scans to teacher targets, as plain functions. No Prefect here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from flows.settings import Settings
from flows.stage import StageResult, say, timed
from spa3r import storage
from spa3r.config import ClipSpec, Recipe
from spa3r.errors import ShardError
from spa3r.progress import meter
from spa3r.recipes import catalogue

Overrides = Mapping[str, Any] | None
Stored: TypeAlias = Literal["clips", "frames", "statistics"]

# As in real scans, a few frames lose their pose or their depth; ingest must drop and count them.
DEMO_ROOMS = {
    "width": 224,
    "height": 168,
    "frames": 24,
    "depth_noise": 0.002,
    "invalid_pose_share": 0.05,
    "empty_depth_share": 0.05,
}


def rooms(*, train_rooms: int = 64, val_rooms: int = 12) -> StageResult:
    """Generates the demo's rooms, written as ScanNet releases its scans."""
    settings = Settings.from_environment()
    with timed(settings, "rooms", settings.rooms.name) as outcome:
        before = _finished_rooms(settings.rooms)
        write_room_dataset(
            str(settings.rooms), train_rooms=train_rooms, val_rooms=val_rooms, **DEMO_ROOMS
        )
        outcome["reused"] = reused = _finished_rooms(settings.rooms) == before
    done = f"{train_rooms} + {val_rooms} rooms in {settings.rooms}"
    facts = {"rooms": train_rooms, "held-out rooms": val_rooms, "scans": str(settings.rooms)}
    return StageResult(stage="rooms", line=say(done, reused=reused), facts=facts, reused=reused)


def write_room_dataset(out: str, *, train_rooms: int, val_rooms: int, **options: Any) -> str:
    """Generates rooms with the given RoomSpec options; returns one line."""
    from preprocessing.rooms.spec import RoomSpec
    from preprocessing.rooms.writer import write_rooms

    total = train_rooms + val_rooms
    workers = Settings.from_environment().workers
    with meter("rooms", total, "rooms") as progress:
        write_rooms(
            Path(out), range(total), RoomSpec(**options),
            val_scenes=range(train_rooms, total), workers=min(workers, total),
            on_done=lambda _scan: progress.advance(),
        )  # fmt: skip
    return f"{total} rooms in {out}"


def targets(
    *, dataset: str = "rooms", recipe: str = "tiny", overrides: Overrides = None, ray: bool = False
) -> StageResult:
    """Teacher targets of the training clips and of the held-out clips.

    Args:
        ray: on the cluster of RAY_ADDRESS, or a Ray started here; else on this machine.
    """
    from preprocessing.targets import write_targets
    from spa3r.data.shards import FrameTable

    settings, plan = Settings.from_environment(), catalogue.get(recipe, overrides)
    table = FrameTable(require_shards(settings, dataset, plan))
    with timed(settings, "targets", settings.target_pair(dataset, plan)) as outcome:
        written = {
            split: write_targets(
                table, settings.targets(dataset, plan, split), clips=clips, split=split,
                stored=stored, statistics_clips=plan.data.statistics_clips, teacher=plan.teacher,
                packed=packed_folder(settings, dataset, plan, split), workers=settings.workers,
                device=teacher_device(settings, plan), ray=ray,
            )
            for split, clips, stored in target_splits(plan)
        }  # fmt: skip
        reused = all(found.reused == found.scenes for found in written.values())
        places = {"targets": written["train"].folder, "held-out targets": written["val"].folder}
        if packed := packed_folder(settings, dataset, plan, "train"):
            from preprocessing.pack import pack_targets

            cut = pack_targets(written["train"].folder, packed, workers=settings.workers)
            reused = reused and cut.reused == cut.shards
            places["packed"] = packed
        outcome["reused"] = reused
    train, val = written["train"], written["val"]
    done = (
        f"{train.clips} clips of {train.scenes} scenes, {val.clips} held-out clips of {val.scenes}"
        f" scenes, teacher {plan.teacher.geometric} in {train.folder}"
    )
    facts = {**places, "clips": train.clips, "held-out clips": val.clips,
             "scenes that failed": len(train.failures) + len(val.failures),
             "target hash": train.target_hash}  # fmt: skip
    return StageResult(stage="targets", line=say(done, reused=reused), facts=facts, reused=reused)


def target_splits(plan: Recipe) -> tuple[tuple[str, ClipSpec, Stored], ...]:
    """Of each split its name, how its clips are drawn, and what is stored of them."""
    return (("train", plan.clips, plan.data.stored), ("val", plan.eval_clips, "clips"))


def packed_folder(settings: Settings, dataset: str, plan: Recipe, split: str) -> str:
    """Where a split's sequential shards will lie; "" where there will be none."""
    wanted = split == "train" and plan.data.source == "packed"
    return settings.packed(dataset, plan) if wanted else ""


def teacher_device(settings: Settings, plan: Recipe) -> str:
    """Where teachers compute; the weight-free one is faster on many cores than on one GPU."""
    return "cpu" if plan.teacher.geometric == "rgbd" else settings.device


def require_shards(settings: Settings, dataset: str, recipe: Recipe) -> str:
    """The dataset's shards. Raises ShardError saying which command makes them."""
    folder = settings.shards(dataset, recipe.ingest)
    return _require(folder, f"run `spa3r ingest ROOT --dataset {dataset} --recipe {recipe.name}`")


def require_targets(settings: Settings, dataset: str, recipe: Recipe, split: str) -> str:
    """The recipe's targets of a split. Raises ShardError saying which command makes them."""
    folder = settings.targets(dataset, recipe, split)
    return _require(folder, f"run `spa3r targets --dataset {dataset} --recipe {recipe.name}`")


def _require(folder: str, cure: str) -> str:
    if not storage.exists(storage.join(folder, "manifest.json")):
        raise ShardError(f"{folder}: nothing finished there; {cure} with the same settings")
    return folder


def _finished_rooms(root: Path) -> dict[str, int]:
    """Record of every finished room and when it was written."""
    return {p.name: p.stat().st_mtime_ns for p in (root / ".rooms").glob("*.json")}
