"""`spa3r verify`: reads all shards of a dataset again and says what is wrong with them."""

from collections.abc import Iterator
from concurrent.futures import as_completed
from functools import lru_cache

from flows.settings import Settings
from spa3r import storage
from spa3r.data.shards import FrameTable
from spa3r.data.verify import SceneCheck, verify_manifest, verify_scene
from spa3r.progress import meter


def verify(manifest: str) -> tuple[list[str], list[SceneCheck]]:
    """What is wrong with a manifest itself, and all of its scenes checked, by name.

    Args:
        manifest: its folder, or manifest.json or manifest.parquet in it; path or URL.

    Raises:
        ShardError: no manifest there, or one of another schema.
    """
    folder = manifest.rstrip("/")
    if folder.endswith(("manifest.json", "manifest.parquet")):
        folder = folder.rpartition("/")[0] or "."
    table = FrameTable(folder)
    scenes = table.scenes()
    checks: list[SceneCheck] = []
    workers = min(Settings.from_environment().workers, len(scenes))
    with meter("verify", len(scenes), "scenes") as progress:
        for check in _checks(folder, scenes, workers):
            checks.append(check)
            progress.advance(note=check.scene)
    return verify_manifest(table), sorted(checks, key=lambda check: check.scene)


def _checks(folder: str, scenes: list[str], workers: int) -> Iterator[SceneCheck]:
    # In-memory file systems exist in this process only.
    if workers <= 1 or folder.startswith("memory:"):
        yield from (_check(folder, scene) for scene in scenes)
        return
    from preprocessing.workers import process_pool

    with process_pool(workers) as pool:
        jobs = [pool.submit(_check, folder, scene) for scene in scenes]
        for job in as_completed(jobs):
            yield job.result()


@lru_cache(maxsize=1)
def _table(folder: str) -> FrameTable:
    """One table a process: reading the manifest of a thousand scenes takes seconds."""
    return FrameTable(folder)


def _check(folder: str, scene: str) -> SceneCheck:
    return verify_scene(_table(folder), scene)


def report(own: list[str], checks: list[SceneCheck], where: str) -> list[str]:
    """Lines to print: every fault, those of the manifest itself first, then a summary."""
    from preprocessing.estimate import size as human_size

    faults = [*own, *(fault for check in checks for fault in check.faults)]
    posed = [check.poses for check in checks if check.poses is not None]
    size = human_size(sum(check.bytes for check in checks))
    frames = sum(check.frames for check in checks)
    summary = f"{_scenes(len(checks))}, {frames} frames, {size} in {where}"
    if posed:
        worst = min(posed, key=lambda p: p.agreement)
        summary += (
            f"; poses explain {worst.agreement:.0%} of neighbouring depth in the worst of"
            f" {_scenes(len(posed))}"
        )
    bad = sum(bool(check.faults) for check in checks)
    wrong = [f"{_scenes(bad)} faulty"] * (bad > 0) + ["the manifest itself faulty"] * bool(own)
    verdict = ", ".join(wrong) or "all is well"
    return [storage.redacted(line) for line in (*faults, f"{verdict}: {summary}")]


def _scenes(count: int) -> str:
    return f"{count} scene" if count == 1 else f"{count} scenes"
