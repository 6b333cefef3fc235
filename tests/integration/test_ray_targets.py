"""Targets on Ray: the same bytes as here, lost actors, teachers that cannot be had."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from preprocessing.target_answers import SceneJob
from preprocessing.target_crews import TeacherFacts
from preprocessing.targets import draw_split, plan_jobs, write_targets
from spa3r.config import ClipSpec, TeacherSpec
from spa3r.data.shards import FrameTable
from spa3r.errors import ServiceError, ShardError, Spa3RError, TeacherError
from tests.frames_maker import make_frames
from tests.killing import files_of

ray = pytest.importorskip("ray")

CLIPS = ClipSpec(view_counts=(4, 5), gap=(1, 2), clips_per_scene=4, mirror=True)
TEACHER = TeacherSpec(
    geometric="rgbd", semantic="labels", cameras="dataset", width=80, semantic_width=48
)


@pytest.fixture(scope="module", autouse=True)
def running() -> Iterator[None]:
    """One Ray for all tests here."""
    from preprocessing import ray_runner

    os.environ.pop("RAY_ADDRESS", None)
    ray_runner._start(workers=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> FrameTable:
    scenes = dict.fromkeys("abcd", 9)
    return FrameTable(make_frames(tmp_path_factory.mktemp("ray") / "frames", scenes))


@dataclass(frozen=True, kw_only=True)
class Deadly(SceneJob):
    """Kills the process that works on it, as often as said."""

    marks: str
    times: int

    @property
    def keeps_frames(self) -> bool:
        deaths = len(list(Path(self.marks).iterdir()))
        if deaths < self.times:
            Path(self.marks, str(deaths)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return True


class Crashing(SceneJob):
    """Stops the teachers with an error that is not ours."""

    @property
    def keeps_frames(self) -> bool:
        raise RuntimeError("CUDA out of memory")


def jobs_of(table: FrameTable, out: Path, deadly: dict[str, int]) -> list[SceneJob]:
    """Some of the scenes kill their actors, so often."""
    drawn, _ = draw_split(table, "train", CLIPS)
    ids = frozenset(clip.id for clips in drawn.values() for clip in clips)
    jobs = plan_jobs(
        table, drawn, str(out), split="train", stored="clips", measured=ids, same=[], device="cpu"
    )
    return [
        _deadly(job, out.with_name(job.scene), deadly[job.scene]) if job.scene in deadly else job
        for job in jobs
    ]


def _deadly(job: SceneJob, marks: Path, times: int) -> Deadly:
    marks.mkdir()
    known = {name: getattr(job, name) for name in SceneJob.__slots__}
    return Deadly(**known, marks=str(marks), times=times)


def test_ray_gives_the_same_bytes_and_re_uses_them(table: FrameTable, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    common = {"clips": CLIPS, "teacher": TEACHER, "split": "train"}
    write_targets(table, here, **common)
    first = write_targets(table, there, **common, ray=True)
    assert files_of(here) == files_of(there) and (first.reused, first.scenes) == (0, 4)
    assert write_targets(table, there, **common).reused == 4


def test_a_lost_actor_s_scene_is_given_to_another(
    table: FrameTable,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from preprocessing import ray_targets

    monkeypatch.setattr(ray_targets, "TRIES", 2)
    out = tmp_path / "out"
    jobs = jobs_of(table, out, {"b": 1, "c": 99})
    jobs[3] = Crashing(**{name: getattr(jobs[3], name) for name in SceneJob.__slots__})
    with ray_targets.ray_crew(table.folder, TEACHER, device="cpu", workers=2) as crew:
        found = {outcome.scene: outcome.failure for outcome in crew.write(jobs)}
    assert "scene b: its worker was lost" in caplog.text
    why = found.pop("c")  # which kills every actor, and fails alone
    assert isinstance(why, ShardError) and "died 2 times" in str(why)
    why = found.pop("d")
    assert isinstance(why, TeacherError) and "RuntimeError: CUDA out of memory; run" in str(why)
    assert found == dict.fromkeys("ab")
    assert {f"{scene}.clips.tar" for scene in "ab"} <= set(files_of(out))


def test_waiting_for_a_worker_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from preprocessing import ray_targets

    plain, asked = ray.wait, []

    def late(answers: list, **options: float) -> tuple[list, list]:
        asked.append(options["timeout"])
        return plain(answers, num_returns=1) if len(asked) == 3 else ([], answers)

    monkeypatch.setattr(ray, "wait", late)
    crew = ray_targets.RayCrew("", TEACHER, "cuda")
    facts = TeacherFacts(references={}, identity=[])
    crew._running[ray.put(facts)] = (None, None)  # a worker that is being started
    crew.start()
    said = "waiting for a GPU with its teachers loaded: the Ray cluster has 0, 0 are free"
    assert caplog.text.count(said) == 2 and asked == [30.0] * 3
    assert crew.facts == facts and crew.at_once == 1


def test_a_ray_started_here_without_a_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from preprocessing import ray_runner

    ended: list[bool] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_options: None)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    why = r"no GPU on this machine.*SPA3R_GPU=0.*RAY_ADDRESS"
    with pytest.raises(ServiceError, match=why), ray_runner.running_ray(2, gpus=True):
        raise AssertionError("waits for a GPU that will not come")
    assert ended
    with ray_runner.running_ray(2):
        pass


def test_teachers_that_cannot_be_had_are_one_line(table: FrameTable, tmp_path: Path) -> None:
    absent = replace(
        TEACHER, geometric="vggt", geometric_uri=str(tmp_path / "absent"), patch_size=14
    )
    with pytest.raises(Spa3RError, match="absent") as why:
        write_targets(table, tmp_path / "out", clips=CLIPS, teacher=absent, split="train", ray=True)
    assert "\n" not in str(why.value) and not list((tmp_path / "out").glob("*"))
