"""Clips: ordered view tuples of one scene with a context/target partition (paper 3.1).

The draw is a pure function of (spec, dataset, scene, frames): the same on every machine, whatever
the number of workers, and independent of all other scenes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spa3r.config import ClipSpec
from spa3r.errors import SceneError


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """Views of one scene in order; view 0 defines the world frame and is always context."""

    dataset: str
    scene: str
    frames: tuple[int, ...]  # frame numbers in the scan, ascending
    is_target: tuple[bool, ...]
    mirror: bool = False

    @property
    def num_views(self) -> int:
        return len(self.frames)

    @property
    def num_context(self) -> int:
        return self.is_target.count(False)

    @property
    def id(self) -> str:
        """Unique name, also the WebDataset key: scene and a hash of everything else."""
        what = [self.dataset, self.scene, self.frames, self.is_target, self.mirror]
        return f"{self.scene}-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]}"


def num_context(num_views: int, mask_ratio: float) -> int:
    """Context views among num_views, view 0 included: int(n (1 - r)), at least 1.

    The released code keeps int(n (1 - r)) - 1 views besides view 0 and wraps around at zero
    (`golden/surprises.json`, spa3r/masking); ours clamps instead.
    """
    return max(1, int(num_views * (1 - mask_ratio)))


def draw_clips(dataset: str, scene: str, frames: Sequence[int], spec: ClipSpec) -> list[Clip]:
    """Up to spec.clips_per_scene different clips of one scene.

    With a mask schedule the stages take turns: the n-th draw has the ratio of stage n % S, so that
    every scene gets clips of every stage.

    Args:
        frames: numbers of the kept frames, ascending.

    Raises:
        SceneError: the scene has fewer frames than the smallest clip needs.
    """
    counts = [n for n in spec.view_counts if n <= len(frames)]
    if not counts:
        raise SceneError(
            f"scene {scene}: {len(frames)} usable frames, but a clip needs at least"
            f" {min(spec.view_counts)}; lower the ingest stride or leave the scene out"
        )
    seed = hashlib.sha256(f"{spec.seed}/{dataset}/{scene}".encode()).digest()
    rng = np.random.Generator(np.random.PCG64(int.from_bytes(seed[:16], "little")))
    clips: dict[str, Clip] = {}
    # A short scene may hold fewer different clips than asked for; the draw stops rather than spins.
    for draw in range(4 * spec.clips_per_scene):
        ratio = spec.stages[draw % len(spec.stages)]
        n = counts[rng.integers(len(counts))]
        positions = _draw_positions(len(frames), n, spec.gap_of(dataset), rng)
        is_target = np.ones(n, dtype=bool)
        context = rng.choice(n - 1, size=num_context(n, ratio) - 1, replace=False) + 1
        is_target[[0, *context]] = False
        clip = Clip(
            dataset=dataset,
            scene=scene,
            frames=tuple(int(frames[p]) for p in positions),
            is_target=tuple(bool(t) for t in is_target),
            mirror=bool(spec.mirror and rng.random() < 0.5),
        )
        clips.setdefault(clip.id, clip)
        if len(clips) == spec.clips_per_scene:
            break
    return list(clips.values())


def _draw_positions(
    total: int, n: int, gap: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """n ascending positions out of total, with steps drawn from the gap where the scene is long
    enough, else any n positions (reference.md 2.10, frame sampler, without its side effects)."""
    low, high = gap
    if n > 1 and total > (n - 1) * low:
        high = min((total - 1) // (n - 1), high)
        steps = rng.integers(low, high + 1, size=n - 1)
        start = rng.integers(0, total - int(steps.sum()))
        return start + np.concatenate([[0], np.cumsum(steps)])
    return np.sort(rng.choice(total, size=n, replace=False))
