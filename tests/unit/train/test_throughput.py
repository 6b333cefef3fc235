"""Meters: what a window did, by a clock that the test sets."""

import threading
from pathlib import Path

import pytest

from spa3r.plain import override
from spa3r.train.flops import student_flops
from spa3r.train.metrics import read_lines
from spa3r.train.sources import open_data
from spa3r.train.task import PretrainTask
from spa3r.train.throughput import Throughput
from tests.box_rooms import GRID, BoxRooms, box_recipe
from tests.unit.train.run_task import ALONE, losses, newest, run
from tests.unit.train.workers import Workers

RECIPE = box_recipe(train__steps=3, train__batches_per_step=2)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_window_is_measured_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("spa3r.train.throughput.time.perf_counter", clock)
    rooms = BoxRooms(RECIPE, rooms=1)
    views = rooms.clips[0].num_views
    counts = {"views": views, "tokens": views * GRID[0] * GRID[1]}
    speed = Throughput(ALONE, teachers=True, peak=1000.0)
    for _ in range(2):  # the second window begins anew
        with speed.waiting():
            clock.now += 1
        with speed.teaching():
            clock.now += 2
        clock.now += 5
        with speed.paused():
            clock.now += 50
        speed.add(counts, flops=400)
        speed.add(counts, flops=1200)
        line = speed.read()
        assert line.pop("memory_gib") > 0
        assert line == pytest.approx(
            {
                "views_per_second": 2 * views / 8,
                "tokens_per_second": 2 * views * GRID[0] * GRID[1] / 8,
                "data_wait_share": 1 / 8,
                "teacher_share": 2 / 8,
                "peak_share": 1600 / 8 / 1000,
            }
        )


def two_ranks(world, flops: list[int]) -> dict[str, float]:
    """Both wait for a second of two; the second rank does more."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spa3r.train.throughput.time.perf_counter", clock)
        speed = Throughput(world, teachers=False, peak=100.0)
        with speed.waiting():
            clock.now += 1
        clock.now += 1
        rooms = BoxRooms(RECIPE, rooms=1)
        speed.add({"views": rooms.clips[0].num_views}, flops[world.rank])
        return speed.read()


def test_a_line_is_of_all_workers(workers: Workers) -> None:
    line, other = workers.run(2, two_ranks, [30, 90])
    assert line == other
    assert line["peak_share"] == pytest.approx(120 / (2 * 2 * 100.0))
    assert line["data_wait_share"] == pytest.approx(0.5)
    rooms = BoxRooms(RECIPE, rooms=1)
    assert line["views_per_second"] == pytest.approx(2 * rooms.clips[0].num_views / 2)


class WithTeachers(BoxRooms):
    """Reads in any thread; its teachers work in one."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.fetched: set[str] = set()
        self.finished: set[str] = set()

    def fetch(self, clips):
        self.fetched.add(threading.current_thread().name)
        return tuple(clips)

    def finish(self, fetched):
        self.finished.add(threading.current_thread().name)
        return BoxRooms.load(self, fetched)


def test_teachers_work_in_the_training_thread_and_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spa3r.train.log.peak_flops", lambda device: 1e12)
    source = WithTeachers(RECIPE, rooms=2)
    run(tmp_path / "staged", source, RECIPE, loaders=2)
    assert source.finished == {threading.current_thread().name}
    assert source.fetched and not source.fetched & source.finished
    run(tmp_path / "plain", BoxRooms(RECIPE, rooms=2), RECIPE)
    assert newest(tmp_path / "staged") == newest(tmp_path / "plain")
    for line in read_lines(tmp_path / "staged" / "metrics.jsonl"):
        assert 0 < line["teacher_share"] < 1 and 0 < line["peak_share"] < 1
    assert "teacher_share" not in losses(tmp_path / "plain")[0]


def test_the_students_work_is_counted_for_the_views_that_are_decoded() -> None:
    rooms = BoxRooms(RECIPE, rooms=1)
    batch = rooms.load([rooms.clips[0]] * 2)
    context = rooms.clips[0].num_context
    for views, decoded in (("targets", rooms.clips[0].num_views - context),
                           ("all", rooms.clips[0].num_views)):  # fmt: skip
        recipe = override(RECIPE, {"loss.views": views})
        forward = student_flops(
            recipe.model, context_views=context, decoded_views=decoded, grid_hw=GRID
        )
        assert PretrainTask(recipe, open_data(rooms, recipe)).flops(batch) == 3 * 2 * forward
