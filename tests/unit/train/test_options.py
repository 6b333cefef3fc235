"""Every option of the paper and of its peers trains, by configuration alone, and changes something.

Two optimizer steps of `debug`, smaller still, with a small VGGT and frame teachers that cost
nothing, in the loop.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Any

import pytest
import torch

from spa3r.config import Recipe
from spa3r.data.answers import TeacherAnswers
from spa3r.data.batch import ClipBatch
from spa3r.data.clips import draw_clips
from spa3r.data.online import OnlineTargets
from spa3r.data.shards import FrameTable
from spa3r.plain import override
from spa3r.recipes import catalogue
from spa3r.teachers.vggt_teacher import VggtTeacher
from spa3r.train.optim import build_optimizer
from spa3r.train.sources import TrainingData
from spa3r.train.task import PretrainTask
from tests.frame_teachers import ColourWaves
from tests.frames_maker import make_frames
from tests.small_vggt import small_vggt

STEPS = 2
KINDS = {"geo": "geometric", "sem": "semantic", "lang": "linguistic"}


def base() -> Recipe:
    """`debug` with VGGT, which has all the teacher's options, on 3 x 4 patches."""
    debug = catalogue.get("debug")
    return replace(
        debug,
        name="options",
        ingest=replace(debug.ingest, multiple=14, width=56),
        clips=replace(debug.clips, view_counts=(4,), gap=(1, 2), clips_per_scene=6, mirror=False),
        teacher=replace(
            debug.teacher, geometric="vggt", semantic="dinov3", cameras="teacher", patch_size=14,
            width=64, semantic_width=24, linguistic_width=20,
        ),
        model=replace(
            debug.model, geo_width=64, sem_width=24, lang_width=20, patch_size=14,
            standardise=False,
        ),
        train=replace(
            debug.train, steps=STEPS, batches_per_step=1, warmup_steps=0, views_per_batch=8
        ),
    )  # fmt: skip


def switches(kinds: tuple[str, ...]) -> dict[str, Any]:
    """Settings that predict these kinds of targets and no other."""
    wanted = {f"model.{name}": kind in kinds for kind, name in KINDS.items()}
    clip = "clip" if "lang" in kinds else "none"
    dino = "dinov3" if "sem" in kinds else "none"
    return wanted | {"teacher.linguistic": clip, "teacher.semantic": dino}


ALL = switches(("geo", "sem", "lang"))
OPTIONS: dict[str, dict[str, Any]] = {
    "two_pass": {"teacher.passes": "two_pass"},
    "mask_75": {"clips.mask_ratio": 0.75},
    "mask_25": {"clips.mask_ratio": 0.25},
    "schedule": {"clips.mask_schedule": [0.25, 0.75]},
    "plucker": {"model.camera": "plucker"},
    "l1": {"loss.kind": "l1"},
    "all_views": {"loss.views": "all"},
    "probe_on_features": {"model.depth_probe": "features"},
    "latents": {"model.num_latents": 5},
    "width": {"model.width": 48, "model.num_heads": 3},
    "encoder_layers": {"model.encoder_layers": 2},
    "decoder_layers": {"model.decoder_layers": 2},
    "layer": {"teacher.layer": 1},
    "layer_from_the_end": {"teacher.layer": -2, "teacher.passes": "two_pass"},
    "metric_scale": {"teacher.metric_scale": True},
    **{
        "+".join(kinds): switches(kinds)
        for n in (1, 2, 3)
        for kinds in combinations(KINDS, n)
        if kinds != ("geo", "sem")  # the default
    },
    "all_kinds_probe_on_features": {**ALL, "model.depth_probe": "features"},
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> FrameTable:
    return FrameTable(make_frames(tmp_path_factory.mktemp("frames"), {"a": 12, "b": 12}))


@cache
def vggt():
    """With cameras far enough apart to have a scale."""
    model = small_vggt(seed=3)
    with torch.no_grad():
        model.camera_head.pose_branch.fc2.weight.mul_(5)
    return model


@dataclass
class Outcome:
    """What two steps left behind."""

    task: PretrainTask
    batches: list[ClipBatch]
    losses: list[dict[str, float]]
    metres_per_unit: list[float]


def run(table: FrameTable, settings: dict[str, Any]) -> Outcome:
    recipe = override(base(), settings)
    spec = recipe.teacher
    geometric = VggtTeacher(
        vggt(), uri="small", passes=spec.passes, cameras=spec.cameras, layer=spec.layer,
        metric_scale=spec.metric_scale,
    )  # fmt: skip
    semantic = None if spec.semantic == "none" else ColourWaves(spec.semantic_width)
    spoken = None if spec.linguistic == "none" else ColourWaves(spec.linguistic_width, seed=1)
    clips = [
        clip
        for scene in "ab"
        for clip in draw_clips("box", scene, table.frames(scene), recipe.clips)
    ]
    source = OnlineTargets(table, clips, spec, geometric, semantic, spoken)
    data = TrainingData(source=source, stats=None, target_hash="", data_hash="", references={})
    task = PretrainTask(recipe, data)
    optimizer = build_optimizer(task.model, recipe.train)
    batches, losses = [], []
    for index in range(STEPS):
        batch = task.load(index)
        found = task(batch)
        check_gradients(task, found)
        optimizer.step()
        batches.append(batch)
        losses.append({name: x.item() for name, x in found.items()})
    answers = TeacherAnswers(table, spec, geometric, semantic, spoken)
    unit_B = answers.geometric(clips[:1]).metres_per_unit_B
    return Outcome(task, batches, losses, unit_B.tolist())


def check_gradients(task: PretrainTask, losses: dict[str, torch.Tensor]) -> None:
    """The probe's loss reaches the probe alone; the total every parameter. Leaves its gradients."""
    model = task.model
    model.zero_grad()
    losses["depth_prob"].backward(retain_graph=True)
    taught = {name for name, p in model.named_parameters() if p.grad is not None}
    assert taught and all(name.startswith("depth_prob.") for name in taught)
    model.zero_grad()
    assert losses["total"].isfinite()
    losses["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.fixture(scope="module")
def default(table: FrameTable) -> Outcome:
    return run(table, {})


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_trains_and_changes_something(
    table: FrameTable, default: Outcome, name: str
) -> None:
    found = run(table, OPTIONS[name])
    kinds = found.task.model.heads.keys()
    assert set(found.losses[0]) == {
        *(f"{kind}/{part}" for kind in kinds for part in ("l1", "cos")), "depth_prob", "total",
    }  # fmt: skip
    if name == "metric_scale":  # the scale is carried beside the targets, not learnt
        assert found.losses == default.losses
        assert all(unit > 0 for unit in found.metres_per_unit)
        assert all(unit != unit for unit in default.metres_per_unit)
    else:
        assert found.losses != default.losses


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in model.named_parameters()}


def test_options_do_what_they_say(table: FrameTable, default: Outcome) -> None:
    """Of each option the one fact that tells it from a mere change of numbers."""
    asymmetric, two_pass = default.batches[0], run(table, OPTIONS["two_pass"]).batches[0]
    for batch, same in ((asymmetric, True), (two_pass, False)):
        context = batch.geo_BVND[~batch.is_target_BV].view_as(batch.context_BCND)
        assert torch.equal(context, batch.context_BCND) == same
    for name, counts in (("mask_75", [1, 1]), ("mask_25", [3, 3]), ("schedule", [3, 1])):
        batches = run(table, OPTIONS[name]).batches
        assert [batch.context_BCND.shape[1] for batch in batches] == counts
    mine = shapes(default.task.model)
    plucker = shapes(run(table, OPTIONS["plucker"]).task.model)
    assert {n for n in mine if mine[n] != plucker[n]} == {"pose_tokenizer.weight"}
    probe = shapes(run(table, OPTIONS["probe_on_features"]).task.model)
    assert {n for n in mine if mine[n] != probe[n]} == {"depth_prob.fc1.weight"}
    assert probe["depth_prob.fc1.weight"][1] == 64 + 24
    last, layer = default.batches[0], run(table, OPTIONS["layer"]).batches[0]
    assert not torch.equal(last.geo_BVND, layer.geo_BVND)
    assert torch.equal(last.depth_BVN, layer.depth_BVN)  # depth and cameras come from the heads


def test_losses_are_those_of_their_formulas(table: FrameTable) -> None:
    """One forward, four objectives, each against a loop over views."""
    for settings in ({}, OPTIONS["l1"], OPTIONS["all_views"]):
        # A step too small to move a weight.
        found = run(table, {**settings, "train.lr": 1e-30, "train.min_lr": 0.0})
        recipe = override(base(), settings)
        batch, model = found.batches[0], found.task.model
        latents = model.encode(batch.context_BCND, batch.grid_hw)
        hidden = model.decode(latents, batch.camera_from_world_BV44, batch.K_BV33, batch.grid_hw)
        predicted = model.predict(hidden).geo_BVND
        assert predicted is not None
        errors = []
        for scene, clip in enumerate(batch.clips):
            for view in range(clip.num_views):
                if recipe.loss.views == "all" or clip.is_target[view]:
                    valid = batch.valid_BVN[scene, view]
                    e = (predicted[scene, view] - batch.geo_BVND[scene, view].float())[valid].abs()
                    smooth = torch.where(e < 1, e.square() / 2, e - 0.5)
                    errors.append(e if recipe.loss.kind == "l1" else smooth)
        assert found.losses[0]["geo/l1"] == pytest.approx(torch.cat(errors).mean().item(), rel=1e-4)


def test_a_student_of_fewer_kinds_ignores_tokens_that_are_there(table: FrameTable) -> None:
    """Targets of many kinds serve students of fewer: one set of targets for a whole table."""
    found = run(table, {"model.semantic": False})
    assert "sem" in found.batches[0].tokens() and "sem/l1" not in found.losses[0]
