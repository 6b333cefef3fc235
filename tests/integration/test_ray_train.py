"""The loop under Ray Train: the same numbers, more workers, and workers that die."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from spa3r.errors import ShardError, TrainingError
from spa3r.train.metrics import read_lines
from spa3r.train.pretrain import pretrain
from tests.box_rooms import BoxRooms, box_recipe

pytest.importorskip("ray")
RECIPE = box_recipe(train__steps=12, train__checkpoint_every=4)


@pytest.fixture(scope="module")
def rooms() -> BoxRooms:
    return BoxRooms(RECIPE, rooms=4)


@pytest.fixture(scope="module")
def running() -> Iterator[None]:
    """One Ray for several runs; in test_deployment.py `on_ray` starts its own."""
    import ray

    from spa3r.train import cluster

    cluster._start_ray(workers=2, gpu=False)
    yield
    ray.shutdown()


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_one_worker_equals_the_loop_without_ray(tmp_path: Path, rooms: BoxRooms, running: None):
    from spa3r.train.cluster import on_ray

    alone = pretrain(RECIPE, rooms, tmp_path / "alone")
    ray = pretrain(RECIPE, rooms, tmp_path / "ray", launch=on_ray(workers=1))
    assert weights(alone.encoder) == weights(ray.encoder)
    assert [x["total"] for x in read_lines(tmp_path / "alone" / "metrics.jsonl")] == [
        x["total"] for x in read_lines(tmp_path / "ray" / "metrics.jsonl")
    ]
    # Stopped before its last checkpoint and started again, by new workers on the same folder.
    (tmp_path / "ray" / "done.json").unlink()
    shutil.rmtree(tmp_path / "ray" / "checkpoints" / "step-00000012")
    shutil.rmtree(ray.encoder)
    ray = pretrain(RECIPE, rooms, tmp_path / "ray", launch=on_ray(workers=1))
    assert not ray.reused and weights(alone.encoder) == weights(ray.encoder)
    seen: list[int] = []
    again = pretrain(RECIPE, rooms, tmp_path / "ray", launch=on_ray(workers=1),
                     on_line=lambda line: seen.append(line["step"]))  # fmt: skip
    assert again.reused and not seen


class DyingOnce(BoxRooms):
    """Kills the worker that reads it for the sixth time, once."""

    marker = ""
    loads = 0

    def load(self, clips):
        self.loads += 1
        if self.loads == 6 and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().load(clips)


def test_two_workers_survive_a_killed_one_and_end_with_the_same_weights(
    tmp_path: Path, rooms: BoxRooms, running: None
):
    from spa3r.train.cluster import on_ray

    seen: list[int] = []
    whole = pretrain(RECIPE, rooms, tmp_path / "whole", launch=on_ray(workers=2),
                     on_line=lambda line: seen.append(line["step"]))  # fmt: skip
    assert seen == list(range(1, 13))
    dying = DyingOnce(RECIPE, rooms=4)
    dying.marker = str(tmp_path / "died")
    killed = pretrain(RECIPE, dying, tmp_path / "killed", launch=on_ray(workers=2))
    assert Path(dying.marker).exists()
    # Two addends have one sum whatever their order: even two workers repeat bit for bit.
    assert weights(whole.encoder) == weights(killed.encoder)
    lines = read_lines(tmp_path / "killed" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 13))
    alone = pretrain(RECIPE, rooms, tmp_path / "alone")
    ours, theirs = (load_file(r.encoder / "model.safetensors") for r in (whole, alone))
    assert any(bool((ours[name] != theirs[name]).any()) for name in ours), "one worker's share"


class NotANumber(BoxRooms):
    """One bad clip: only one of two workers meets it, but both get its gradient."""

    def load(self, clips):
        batch = super().load(clips)
        for i, clip in enumerate(batch.clips):
            if clip == self.clips[0]:
                batch.geo_BVND[i, 1:] = float("nan")
        return batch


class Damaged(BoxRooms):
    """One clip that cannot be read: the other worker is left waiting for the gradient."""

    def load(self, clips):
        if self.clips[0] in clips:
            raise ShardError(f"{self.clips[0].scene}.tar: damaged")
        return super().load(clips)


def test_a_bad_loss_of_one_worker_names_its_clip_alone(tmp_path: Path, running: None):
    from spa3r.train.cluster import on_ray

    source = NotANumber(RECIPE, rooms=4)
    with pytest.raises(TrainingError, match=r"non-finite loss at step \d+ in scene") as caught:
        pretrain(RECIPE, source, tmp_path / "run", launch=on_ray(workers=2))
    text = str(caught.value)
    assert f"clip {source.clips[0].id};" in text and text.count("clip box") == 1, text
    assert not (tmp_path / "run" / "done.json").exists()


@pytest.mark.timeout(120)  # without the error's own way out: half an hour, the group's time-out
def test_an_error_of_one_worker_does_not_leave_the_others_waiting(tmp_path: Path, running: None):
    from spa3r.train.cluster import on_ray

    with pytest.raises(ShardError, match=r"box0_000\.tar: damaged"):
        pretrain(RECIPE, Damaged(RECIPE, rooms=4), tmp_path / "run", launch=on_ray(workers=2))
