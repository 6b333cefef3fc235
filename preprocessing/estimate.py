"""What an ingest would do, without doing it: counts, bytes and hours. Writes nothing.

What has to be read is known from listings. Frames are counted in a few scenes and scaled by bytes;
the pace is measured by decoding and encoding a few frames as ingest would.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import cv2

from preprocessing.choice import plan_frames
from preprocessing.dataset import find_sources
from preprocessing.frames import Sample, prepare
from preprocessing.scene import Damage, Scene, SceneSource
from preprocessing.shards import Snapshot
from preprocessing.space import free_bytes
from preprocessing.standing import READ, Standing, classify
from spa3r.config import IngestSpec
from spa3r.errors import FormatError, ImageError, SceneError

OPENED: Final = 20
"""Scenes whose frames are counted."""
TIMED_SCENES: Final = 3
TIMED_FRAMES: Final = 8
"""Frames a timed scene."""


@dataclass(slots=True)
class Sampled:
    """What was seen of the few scenes that were opened."""

    scenes: int = 0
    bytes: int = 0
    announced: int = 0
    chosen: int = 0
    open_seconds: float = 0.0
    timed: int = 0
    """Frames decoded and encoded, dropped ones included."""
    timed_seconds: float = 0.0
    timed_bytes: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    """Scene -> why, one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Of one ingest. What is scaled up from a few scenes is None where none could be opened."""

    dataset: str
    out: str
    states: dict[str, int]
    """Scenes by preprocessing.standing.State."""
    sampled: Sampled
    bytes_in: int
    """Of the scans that are to be read."""
    announced: int | None
    chosen: int | None
    """Frames that are to be read: after stride and max_frames, before any is dropped."""
    bytes_out: int | None
    seconds: float | None
    """Of all workers together."""
    workers: int
    free: int | None
    """Bytes free at out; None: not on a disk of this machine."""

    @property
    def to_read(self) -> int:
        """Scenes."""
        return sum(self.states.get(state, 0) for state in READ)


def estimate(
    root: str,
    dataset: str,
    spec: IngestSpec,
    out: str,
    *,
    workers: int,
    scenes: Sequence[str] | None = None,
) -> Estimate:
    """Estimates what `ingest_dataset` would do with the same arguments.

    Raises:
        SceneError: nothing to ingest.
    """
    dataset, sources = find_sources(root, dataset, scenes)
    snapshot = Snapshot(out)
    standings = {s.name: found for s, found in classify(sources, snapshot, spec, dataset)}
    work = [s for s in sources if standings[s.name].state in READ]
    bytes_in = sum(_bytes(standings[s.name]) for s in work)
    sampled = _sample(work, standings, spec)
    announced = chosen = bytes_out = seconds = None
    if sampled.scenes or not work:
        # Long scans hold more frames: bytes tell more than the number of scenes.
        scale = bytes_in / sampled.bytes if sampled.bytes else len(work) / max(sampled.scenes, 1)
        announced, chosen = round(scale * sampled.announced), round(scale * sampled.chosen)
        if sampled.timed or not work:
            share = chosen / max(sampled.timed, 1)
            bytes_out = round(share * sampled.timed_bytes)
            opening = sampled.open_seconds / max(sampled.scenes, 1) * len(work)
            seconds = share * sampled.timed_seconds + opening
    return Estimate(
        dataset=dataset, out=out, states=dict(Counter(s.state for s in standings.values())),
        sampled=sampled, bytes_in=bytes_in, announced=announced, chosen=chosen,
        bytes_out=bytes_out, seconds=seconds, workers=min(workers, max(len(work), 1)),
        free=free_bytes(out),
    )  # fmt: skip


def _bytes(standing: Standing) -> int:
    return standing.signature.bytes if standing.signature else 0


def _spread(sources: Sequence[SceneSource], count: int) -> list[SceneSource]:
    """At most so many, evenly spread."""
    count = min(count, len(sources))
    return [sources[(2 * i + 1) * len(sources) // (2 * count)] for i in range(count)]


# --- looking at a few scenes ----------------------------------------------------------------------


def _sample(
    work: Sequence[SceneSource], standings: dict[str, Standing], spec: IngestSpec
) -> Sampled:
    sampled = Sampled()
    opened = _spread(work, OPENED)
    timed = {source.name for source in _spread(opened, TIMED_SCENES)}
    # Other choices look at every candidate first, which is the work to be estimated, not done.
    spec = replace(spec, choice="uniform")
    with _one_thread():
        for source in opened:
            try:
                _look(source, spec, sampled, timed=source.name in timed)
            except (FormatError, SceneError, ImageError, OSError) as error:
                sampled.unreadable[source.name] = str(error)
                continue
            sampled.scenes += 1
            sampled.bytes += _bytes(standings[source.name])
    return sampled


def _look(source: SceneSource, spec: IngestSpec, sampled: Sampled, *, timed: bool) -> None:
    """Counts the frames of one scene and, where asked, times some of them."""
    begin = time.perf_counter()
    with source.open() as scene:
        plan = plan_frames(scene, spec)
        seconds = time.perf_counter() - begin
        if timed:
            first = max((len(plan.chosen) - TIMED_FRAMES) // 2, 0)
            _time(source, scene, plan.chosen[first : first + TIMED_FRAMES], spec, sampled)
        sampled.announced += len(scene.indices)
        sampled.chosen += len(plan.chosen)
        sampled.open_seconds += seconds


def _time(
    source: SceneSource, scene: Scene, numbers: Sequence[int], spec: IngestSpec, sampled: Sampled
) -> None:
    begin = time.perf_counter()
    for entry in scene.frames(numbers):
        if not isinstance(entry, Damage):
            entry = prepare(entry, scene.label_to_nyu40, spec, name=source.url)
        if isinstance(entry, Sample):
            sampled.timed_bytes += sum(len(part) for part in entry.parts.values())
        sampled.timed += 1
    sampled.timed_seconds += time.perf_counter() - begin


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker process."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


# --- for a person ---------------------------------------------------------------------------------

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")


def describe(found: Estimate, spec: IngestSpec) -> str:
    """The estimate in short aligned lines."""
    lines = {"scenes": _scenes(found), "in": size(found.bytes_in)}
    seen = found.sampled
    if found.to_read == 0:
        lines["to do"] = "nothing; the manifest is checked against scans and split lists"
    elif found.announced is None or found.chosen is None:
        lines["frames"] = "unknown: no scene could be opened"
    else:
        basis = f"counted in {seen.scenes} of {found.to_read} scenes"
        lines["frames"] = f"{found.announced:,}, {found.chosen:,} of them to be read; {basis}"
    if found.to_read and found.bytes_out is not None and found.seconds is not None:
        lines["out"] = f"about {size(found.bytes_out)} in {found.out}{_free(found)}"
        pace = 1000 * seen.timed_seconds / max(seen.timed, 1)
        lines["time"] = (
            f"about {duration(found.seconds / found.workers)} with {found.workers} workers:"
            f" {pace:.0f} ms a frame, measured on {seen.timed} frames"
        )
        if spec.max_frames and spec.choice != "uniform":
            lines["time"] += f"; looking for frames ({spec.choice}) comes on top"
    else:
        lines["out"] = f"{found.out}{_free(found)}"
    text = [f"{name:<8}{line}" for name, line in lines.items()]
    text += [f"{'!!':<8}{scene}: {why}" for scene, why in sorted(seen.unreadable.items())]
    return "\n".join([*text, f"{'':<8}nothing was written"])


def _scenes(found: Estimate) -> str:
    named = {"refused": "refused before and unchanged"}
    states = ", ".join(f"{n} {named.get(s, s)}" for s, n in sorted(found.states.items()))
    return f"{sum(found.states.values())} of dataset {found.dataset}: {states}"


def _free(found: Estimate) -> str:
    if found.free is None:
        return ""
    short = found.bytes_out is not None and found.bytes_out > found.free
    return f" ({'only ' if short else ''}{size(found.free)} free)"


def size(count: float) -> str:
    """Bytes for a person, e.g. 1.2 TB."""
    power = 0
    while count >= 999.5 and power < len(_UNITS) - 1:
        count, power = count / 1000, power + 1
    digits = 0 if power == 0 or count >= 99.5 else 1
    return f"{count:.{digits}f} {_UNITS[power]}"


def duration(seconds: float) -> str:
    """Time for a person, e.g. 3.2 h."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "a second"
