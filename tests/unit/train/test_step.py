"""A step's gradient is that of one mean over all of its tokens, whoever computes which batch."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from spa3r.errors import TrainingError
from spa3r.plain import override
from spa3r.train.log import RunLog
from spa3r.train.sharding import distribute
from spa3r.train.sources import open_data
from spa3r.train.step import Stepper
from spa3r.train.task import PretrainTask
from spa3r.train.world import World
from tests.box_rooms import BoxRooms, box_recipe
from tests.unit.train.run_task import ALONE, losses, run
from tests.unit.train.workers import Workers

RECIPE = box_recipe(
    clips__view_counts=[4, 6, 8], train__batches_per_step=5, train__clip_norm=1e9,
    train__steps=4, train__seed=17, loss__kind="l1",
)  # fmt: skip


class Patchy(BoxRooms):
    """Every clip has other tokens that are not valid and, apart from them, no depth."""

    def load(self, clips):
        batch = super().load(clips)
        for i, clip in enumerate(clips):
            drawn = torch.rand(batch.valid_BVN[i].shape, generator=_seeded(clip.id))
            batch.valid_BVN[i] = drawn > 0.1 * clip.num_views
            batch.depth_BVN[i][drawn > 0.9] = 0
        return batch


def _seeded(text: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(text.encode()[-6:], "big"))


@pytest.fixture(scope="module")
def rooms() -> Patchy:
    return Patchy(RECIPE, rooms=3)


def gradient(world: World, rooms: Patchy, run: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Of the first step, and its line."""
    task = PretrainTask(RECIPE, open_data(rooms, RECIPE))
    forward = distribute(task, RECIPE.train, world)
    log = RunLog(run, world, task, first_step=0)
    stepper = Stepper(task=task, forward=forward, config=RECIPE.train, world=world, log=log)
    mine = range(world.rank, RECIPE.train.batches_per_step, world.size)
    found = stepper.gradient(0, map(task.fetch, mine), lambda: False)
    gradients = {n: p.grad.clone() for n, p in task.model.named_parameters() if p.grad is not None}
    return gradients, log.close(1, lr=0.0, grad_norm=found.norm)


def reference(rooms: Patchy) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Clip by clip, every error in one list, one mean."""
    task = PretrainTask(RECIPE, open_data(rooms, RECIPE))
    model = task.model
    clips = [clip for i in range(5) for clip in task.load(i).clips]
    assert {clip.num_views for clip in clips} == {4, 6, 8}
    errors: dict[str, list[torch.Tensor]] = {}
    for clip in clips:
        batch = rooms.load([clip])
        latents = model.encode(batch.context_BCND, batch.grid_hw)
        hidden = model.decode(latents, batch.camera_from_world_BV44, batch.K_BV33, batch.grid_hw)
        found = model.predict(hidden)
        counts = batch.valid_BVN & batch.is_target_BV[..., None]
        for kind, predicted in found.features().items():
            p, t = predicted[counts], model.standardise(kind, batch.tokens()[kind])[counts]
            errors.setdefault(f"{kind}/l1", []).append((p - t).abs().mean(-1))
            errors.setdefault(f"{kind}/cos", []).append(1 - F.cosine_similarity(p, t, dim=-1))
        known = counts & (batch.depth_BVN > 0)
        errors.setdefault("depth_prob", []).append(
            F.smooth_l1_loss(found.depth_BVN[known], batch.depth_BVN[known], reduction="none")
        )
    means = {part: torch.cat(x).mean() for part, x in errors.items()}
    assert len(torch.cat(errors["depth_prob"])) < len(torch.cat(errors["geo/l1"]))
    torch.stack(list(means.values())).sum().backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return gradients, {part: mean.item() for part, mean in means.items()}


def check_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient_ in expected.items():
        assert (found[name] - gradient_).norm() <= 2e-5 * gradient_.norm() + 1e-9, name


def test_batches_of_many_sizes_make_one_mean(tmp_path: Path, rooms: Patchy) -> None:
    found, line = gradient(ALONE, rooms, tmp_path)
    expected, means = reference(rooms)
    check_close(found, expected)
    for part, mean in means.items():
        assert line[part] == pytest.approx(mean, rel=1e-5), part
    assert line["total"] == pytest.approx(sum(means.values()), rel=1e-5)


@pytest.mark.parametrize("size", [2, 3])
def test_workers_with_unequal_shares_find_the_same_gradient(
    tmp_path: Path, rooms: Patchy, workers: Workers, size: int
) -> None:
    expected, line = gradient(ALONE, rooms, tmp_path)
    answers = workers.run(size, gradient, rooms, tmp_path)
    for found, theirs in answers:
        check_close(found, expected)
        for name, gradient_ in answers[0][0].items():
            assert torch.equal(found[name], gradient_), "ranks differ"
        for part in ("geo/l1", "sem/cos", "depth_prob", "total", "grad_norm"):
            assert theirs[part] == pytest.approx(line[part], rel=1e-4), part


class Nothing(BoxRooms):
    """From some load on no token is valid."""

    loads, good = 0, 0

    def load(self, clips):
        self.loads += 1
        batch = super().load(clips)
        batch.valid_BVN[:] &= self.loads <= self.good
        return batch


def test_a_step_without_any_valid_token_has_no_gradient(tmp_path: Path) -> None:
    found, line = gradient(ALONE, Nothing(RECIPE, rooms=1), tmp_path)
    assert line["grad_norm"] == 0 and "total" not in line and "geo/l1" not in line
    assert not any(x.any() for x in found.values())


def test_a_run_that_learns_from_nothing_ends(tmp_path: Path) -> None:
    recipe = override(
        RECIPE, {"train.steps": 20, "train.log_every": 4, "train.batches_per_step": 1}
    )
    source = Nothing(recipe, rooms=1)
    source.good = 5
    with pytest.raises(TrainingError, match="no token entered the loss in the steps 7 to 16"):
        run(tmp_path, source, recipe)
    found = [(line["step"], "total" in line) for line in losses(tmp_path)]
    assert found == [(4, True), (6, True), (8, False), (12, False)]


def test_other_losses_have_other_counts(tmp_path: Path, rooms: Patchy) -> None:
    """With the loss on all views the context's tokens count too."""
    recipe = override(RECIPE, {"loss.views": "all"})
    batch = rooms.load(rooms.clips[:1])
    some, every = (PretrainTask(r, open_data(rooms, r)).tokens(batch) for r in (RECIPE, recipe))
    assert some["geo/l1"] == (batch.valid_BVN & batch.is_target_BV[..., None]).sum()
    assert every["sem/cos"] == batch.valid_BVN.sum() > some["sem/cos"]
    assert every["depth_prob"] == (batch.valid_BVN & (batch.depth_BVN > 0)).sum()
