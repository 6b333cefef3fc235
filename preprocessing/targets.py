"""Frame shards in, teacher targets out. Plain functions; Prefect only calls them.

The unit of work is a scene (target_scene.py), of resuming a teacher call (target_parts.py). The
split's tables, statistics and manifest are made from finished scenes. One process at a time
writes into a folder; with Ray that is the one which hands out the scenes.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from preprocessing import shards
from preprocessing.estimate import size
from preprocessing.lock import output_lock
from preprocessing.space import free_bytes
from preprocessing.target_answers import SceneJob, Stored
from preprocessing.target_crews import Crew, LocalCrew, Outcome, TeacherFacts, build_teachers
from preprocessing.target_parts import PARTS_FOLDER, TeacherCrashError, clear_parts
from preprocessing.target_sizes import packed_left, scene_bytes
from preprocessing.target_split import discard_tables, measured_clips, merge
from spa3r import schema, storage
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.answers import grid_of
from spa3r.data.clips import Clip
from spa3r.data.shards import FrameTable
from spa3r.data.targets import MANIFEST_FILE, draw_split
from spa3r.errors import ConfigError, SceneError, ShardError, Spa3RError, TeacherError
from spa3r.plain import config_hash, to_dict
from spa3r.progress import meter
from spa3r.teachers.base import GeometricTeacher, SemanticTeacher

log = logging.getLogger(__name__)

VIEWS_PER_CALL: Final = 24
"""Of a teacher on a GPU. On a CPU each clip is a call."""
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetManifest:
    """What became of a split; all but `folder` and `reused` is in manifest.json too."""

    folder: str
    target_hash: str
    """Hex SHA-256 over the sorted scenes' files, which hold the clips' ids."""
    data_hash: str
    """Of the frame shards that the targets were made from."""
    stored: Stored
    scenes: int
    clips: int
    bytes: int
    """Of all scenes' files."""
    dropped: dict[str, str]
    """Scene -> why it gives no clip."""
    failures: dict[str, str]
    """Scene -> why the teachers could not answer, an earlier run said so and nothing changed."""
    reused: int
    """Scenes that were already complete."""


def write_targets(
    table: FrameTable,
    out: str | Path,
    *,
    clips: ClipSpec,
    teacher: TeacherSpec,
    split: str,
    stored: Stored = "clips",
    statistics_clips: int = 256,
    packed: str = "",
    workers: int = 1,
    device: str = "cpu",
    ray: bool = False,
    geometric: GeometricTeacher | None = None,
    semantic: SemanticTeacher | None = None,
    linguistic: SemanticTeacher | None = None,
) -> TargetManifest:
    """Draws the clips of a split's scenes and writes what the teachers say of them.

    What was finished before with the same clips, teachers and shard is left alone. A scene that
    fails does not stop the others: it is named at the end, once; another run goes on without it if
    the teachers refused it, and tries it again if its files could not be read.

    Args:
        out: folder or URL of the split's targets.
        stored: "clips" keeps all; "frames" tokens of single frames; "statistics" nothing but that.
        statistics_clips: unless all clips are stored, so many drawn ones give the statistics.
        packed: folder of the sequential shards that will be made of them, which need room too.
        workers: processes of one thread, but teachers on a GPU or given as objects work in this
            process; CPUs of a Ray that is started here.
        ray: on the cluster of RAY_ADDRESS or a Ray started here: an actor per GPU, or per CPU where
            `device` is "cpu".
        geometric, semantic, linguistic: teachers in place of those that the spec names.

    Raises:
        SceneError: no scene of the split is long enough for a clip.
        TeacherError, WeightsError: a teacher cannot be had or lacks what it needs.
        ConfigError: a teacher is given for a kind of token that the spec does not have, or to Ray.
        ShardError: shards cannot be read, out cannot be written, has too little space, or is being
            written by another process; finished work is kept.
    """
    out, given = str(out), (geometric, semantic, linguistic)
    with output_lock(out):
        _remove_leftovers(out)
        drawn, dropped = _draw(table, split, clips)
        with _crew(table, teacher, given, device=device, workers=workers, ray=ray) as crew:
            same = [clips, [*_made_by(teacher, crew.facts), split, schema.SCHEMA_VERSION]]
            jobs = plan_jobs(
                table, drawn, out, split=split, stored=stored, same=same, device=device,
                measured=measured(drawn, clips, stored, statistics_clips),
            )  # fmt: skip
            reused, failures = _write_scenes(crew, jobs, table, teacher, packed)
        finished = [job.scene for job in jobs if job.scene not in failures]
        facts = merge(out, finished, teacher, stored) | {"stored": stored, "failures": failures}
        facts |= {"data_hash": table.data_hash, "dropped": dropped}
        drawn_from = None if stored == "clips" else statistics_clips
        _write_manifest(out, split, clips, drawn_from, teacher, crew.facts, facts)
        clear_parts(out)
    return TargetManifest(folder=out, reused=reused, **facts)


def _remove_leftovers(out: str) -> None:
    for folder in (out, storage.join(out, PARTS_FOLDER)):
        if removed := storage.remove_leftovers(folder):
            log.info("%s: %d unfinished files of an earlier run removed", folder, removed)


def _draw(
    table: FrameTable, split: str, spec: ClipSpec
) -> tuple[dict[str, list[Clip]], dict[str, str]]:
    drawn, dropped = draw_split(table, split, spec)
    for reason in dropped.values():
        log.warning("left out: %s", reason)
    return drawn, dropped


def _write_manifest(
    out: str,
    split: str,
    clips: ClipSpec,
    statistics_clips: int | None,
    spec: TeacherSpec,
    teachers: TeacherFacts,
    facts: dict[str, Any],
) -> None:
    made_with = {
        "schema": schema.SCHEMA_VERSION, "split": split, "clip_spec": to_dict(clips),
        "statistics_clips": statistics_clips, "teacher": to_dict(spec),
        "references": teachers.references,
    }  # fmt: skip
    shards.write_json(storage.join(out, MANIFEST_FILE), made_with | facts)


def plan_jobs(
    table: FrameTable,
    drawn: dict[str, list[Clip]],
    out: str,
    *,
    split: str,
    stored: Stored,
    measured: frozenset[str],
    same: Sequence[Any],
    device: str,
) -> list[SceneJob]:
    """The scenes' work, sorted.

    Args:
        measured: ids of the clips that give the statistics.
        same: all else that decides every scene's files.
    """
    jobs: list[SceneJob] = []
    for scene, clips in sorted(drawn.items()):
        ids = [clip.id for clip in clips]  # each holds dataset, frames, partition and mirror
        counted = [clip for clip in clips if clip.id in measured]
        known = [table.shard_hash(scene), ids, [stored, [clip.id for clip in counted]]]
        jobs.append(SceneJob(
            out=out, scene=scene, split=split, stored=stored, clips=tuple(clips),
            measured=tuple(counted), views_per_call=1 if device == "cpu" else VIEWS_PER_CALL,
            spec_hash=config_hash(*same, *known), plan_hash=config_hash(*known),
        ))  # fmt: skip
    return jobs


def measured(
    drawn: dict[str, list[Clip]], spec: ClipSpec, stored: Stored, count: int
) -> frozenset[str]:
    """Ids of the clips that give the statistics: all where all are stored, else a seeded draw."""
    clips = [clip for of_scene in drawn.values() for clip in of_scene]
    return measured_clips(clips, len(clips) if stored == "clips" else count, spec.seed)


def _made_by(spec: TeacherSpec, facts: TeacherFacts) -> list[Any]:
    """All that decides the teachers' numbers; weights that only moved give the same targets."""
    nowhere = replace(spec, geometric_uri="", semantic_uri="", linguistic_uri="")
    return [to_dict(nowhere), facts.identity]


@contextmanager
def _crew(
    table: FrameTable,
    spec: TeacherSpec,
    given: tuple[GeometricTeacher | None, SemanticTeacher | None, SemanticTeacher | None],
    *,
    device: str,
    workers: int,
    ray: bool,
) -> Iterator[Crew]:
    """The teachers, where they are asked to be."""
    if ray:
        if any(given):
            raise ConfigError("teachers given as objects work in this process: leave ray=False")
        from preprocessing.ray_targets import ray_crew

        with ray_crew(table.folder, spec, device=device, workers=workers) as crew:
            yield crew
    else:
        alone = any(given) or device != "cpu"
        teachers = build_teachers(spec, device, *given)
        yield LocalCrew(table, spec, teachers, device=device, workers=1 if alone else workers)


# --- scenes ---------------------------------------------------------------------------------------


def _write_scenes(
    crew: Crew, jobs: Sequence[SceneJob], table: FrameTable, spec: TeacherSpec, packed: str
) -> tuple[int, dict[str, str]]:
    """Does the jobs that are not done yet; returns how many were, and which were refused before.

    Raises:
        TeacherError, SceneError, ShardError: of the first scene that failed; names them all.
    """
    out, finished = jobs[0].out, shards.Snapshot(jobs[0].out)
    hashes = {job.scene: job.spec_hash for job in jobs}
    done = {s for s in hashes if (finished.sidecar(s) or {}).get("spec_hash") == hashes[s]}
    refused = {
        scene: mark["why"]
        for scene in hashes.keys() - done
        if (mark := finished.refusal(scene)) and mark["spec_hash"] == hashes[scene]
    }
    if refused and not done and len(refused) == len(jobs):
        refused = {}  # with nothing to go on with, they are asked again
    waiting = [job for job in jobs if job.scene not in done and job.scene not in refused]
    of_packed = 0
    if packed:
        of_packed = packed_left([j for j in jobs if j.scene not in refused], table, spec, packed)
    _require_space(out, waiting, table, spec, at_once=crew.at_once, of_packed=of_packed)
    if waiting:
        discard_tables(out)
    failed: list[Outcome] = []
    with meter("targets", len(jobs), "scenes", done=len(jobs) - len(waiting)) as progress:
        for outcome in crew.write(waiting):
            if outcome.failure:
                log.warning("scene %s failed: %s", outcome.scene, outcome.failure)
                _refuse(out, outcome.scene, outcome.failure, hashes, table)
                failed.append(outcome)
            elif finished.refusal(outcome.scene):  # of other settings
                shards.discard(storage.join(out, outcome.scene + shards.REFUSED_SUFFIX))
            progress.advance(note=outcome.scene)
    if failed:
        raise _all_failures(sorted(failed, key=lambda outcome: outcome.scene), len(jobs), out)
    return len(done), dict(sorted(refused.items()))


def _require_space(
    out: str,
    jobs: Sequence[SceneJob],
    table: FrameTable,
    spec: TeacherSpec,
    *,
    at_once: int,
    of_packed: int,
) -> None:
    """A disk that would be full before the end is told of before the teachers begin.

    Args:
        at_once: scenes in progress, whose parts stay until they are put together.
        of_packed: bytes of packed shards that are still to be made.

    Raises:
        ShardError: too little is free.
    """
    free = free_bytes(out)
    if free is None:
        return
    of_scenes = sorted(
        sum(scene_bytes(job, grid_of(table, job.clips[0], spec.patch_size), spec).values())
        for job in jobs
    )
    needed = sum(of_scenes) + sum(of_scenes[-at_once:]) + of_packed
    if free < needed:
        copy = " and their packed copy" if of_packed else ""
        raise ShardError(
            f"{out}: {len(jobs)} scenes{copy} need {size(needed)}, {size(free)} are free; free"
            " space, name another place, or store less (teacher.dtype='int8',"
            " clips.clips_per_scene)"
        )


def _refuse(
    out: str, scene: str, why: Spa3RError, hashes: dict[str, str], table: FrameTable
) -> None:
    """Records what another try would end with too: not what mended storage or memory cures."""
    if isinstance(why, TeacherError | SceneError) and not isinstance(why, TeacherCrashError):
        shards.write_refusal(
            out, scene, spec_hash=hashes[scene], signature=table.shard_hash(scene), why=str(why)
        )


def _all_failures(failed: Sequence[Outcome], total: int, out: str) -> Spa3RError:
    """One line about all of them, as an error of the first one's kind."""
    said = [f"{one.scene}: {one.failure}" for one in failed[:_SHOWN]]
    more = [f"and {len(failed) - _SHOWN} more"] if len(failed) > _SHOWN else []
    kind = type(failed[0].failure)
    assert issubclass(kind, Spa3RError)
    return kind(
        f"{out}: {len(failed)} of {total} scenes failed, the others are finished; mend them, or run"
        f" again to go on without those that the teachers refused: {'; '.join([*said, *more])}"
    )
