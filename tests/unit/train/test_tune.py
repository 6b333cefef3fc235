"""Tuning on the one loop: exact restart, what is saved, what a step's gradient is, who is named."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spa3r.data.mixture import Mixture
from spa3r.errors import ConfigError, FormatError, TeacherError, TrainingError
from spa3r.eval.suite import Question
from spa3r.eval.vlm_controls import request_of
from spa3r.plain import override
from spa3r.teachers.vggt_teacher import VggtTeacher
from spa3r.train.identity import binding
from spa3r.train.loop import TrainResult
from spa3r.train.tune import tune
from spa3r.train.tune_plan import Plan
from spa3r.train.tune_task import TuneTask, order_of
from spa3r.train.units import unit_of
from spa3r.vlm.model import Spa3VlmModel
from spa3r.vlm.processor import Processor
from spa3r.vlm.spa3_vlm import Spa3VLM
from tests.unit.train.run_task import after, newest
from tests.unit.train.tune_rooms import RECIPE, Colours, make_colours, recipe
from tests.unit.train.tune_task_runs import losses, opened, train_on, work_of
from tests.untrained import save_untrained

KINDS = {
    "full": recipe(mixture__blind_share=0.3),
    "lora": recipe(vlm__language="lora", vlm__lora__dropout=0.1),
}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Colours:
    return make_colours(tmp_path_factory.mktemp("colours"))


def forbid_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the teacher from here on fails."""

    def asked(*_: Any, **__: Any) -> None:
        raise AssertionError("the teacher was asked in the loop")

    for name in ("context", "layer_tokens"):
        monkeypatch.setattr(VggtTeacher, name, asked)


# --- exact restart --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_2n_steps_equal_n_restart_n_bit_for_bit(tmp_path: Path, rooms: Colours, kind: str) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for run, stops in ((whole, [None]), (parts, [2, None])):
        work = work_of(rooms, run, KINDS[kind])
        for stop in stops:
            torch.rand(7)  # whatever else the process did
            result = train_on(run, work, stop=after(stop or 99))
            assert result == TrainResult(step=stop or 4, finished=stop is None)
    assert newest(whole) == newest(parts)
    assert losses(whole) == losses(parts)
    for name in ("config.json", "fusion.safetensors"):
        assert (whole / "vlm" / name).read_bytes() == (parts / "vlm" / name).read_bytes()


def test_a_finished_run_is_reused_and_answers(
    tmp_path: Path,
    rooms: Colours,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The features of another run serve it too: then the teacher is never asked."""
    work_of(rooms, tmp_path / "other", RECIPE)
    forbid_teacher(monkeypatch)
    done = tune(RECIPE, rooms.places(), tmp_path, loaders=2)
    assert not done.reused and done.metrics["step"] == 4
    assert done.data["conversations"] == 25 and done.data["dropped"] == {"colours": {}}
    caplog.set_level(logging.INFO)
    assert tune(RECIPE, rooms.places(), tmp_path).reused and "re-used" in caplog.text
    vlm = Spa3VLM.from_pretrained(done.vlm)
    trained = load_file(tmp_path / "checkpoints" / "step-00000004" / "model.safetensors")
    loaded = vlm.model.state_dict()
    assert all(torch.equal(loaded[name], x) for name, x in trained.items())
    assert vlm.card.provenance["recipe"] == "colours" and vlm.card.provenance["steps"] == 4
    assert vlm.encoder is not None and vlm.card.encoder["hash"] == vlm.encoder.hash
    assert vlm.card.base["kind"] == "included"
    with pytest.raises(TrainingError, match=r"recipe\.train\.lr is 0\.001 there, 0\.002 here"):
        tune(recipe(train__lr=2e-3), rooms.places(), tmp_path)


def test_every_number_of_a_line_has_a_unit(tmp_path: Path, rooms: Colours) -> None:
    """Held-out conversations are never learnt, and looking at them changes nothing."""
    asked = recipe(
        train__validate_every=2, train__validate_conversations=3, train__steps=4, train__lr=3e-3,
        train__checkpoint_every=4,
    )  # fmt: skip
    work = work_of(rooms, tmp_path, asked)
    plan = Plan.load(work.plan)
    held_out = set(plan.held_out.tolist())
    assert len(held_out) == 4, "a whole video, of which three conversations are looked at"
    task = work.open().task
    assert not held_out & {one.row for i in range(40) for one in task.fetch(i).samples}
    train_on(tmp_path, work)
    lines = losses(tmp_path)
    for name in lines[1].keys() - {"step"}:
        assert unit_of(name if name.startswith("validation/") else f"train/{name}")
    looks = [line["validation/text"] for line in lines if "validation/text" in line]
    assert len(looks) == 2 and looks[1] < looks[0]
    assert (tmp_path / "checkpoints" / "step-00000002").exists(), "the best is kept"


# --- what is saved --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "trained"), [("full", "language_model"), ("lora", "lora_"), ("frozen", "fusion")]
)
def test_checkpoints_hold_nothing_that_is_frozen(
    tmp_path: Path, rooms: Colours, kind: str, trained: str
) -> None:
    work = work_of(rooms, tmp_path, recipe(vlm__language=kind, train__steps=1))
    model = work.open().task.model
    train_on(tmp_path, work)
    step = tmp_path / "checkpoints" / "step-00000001"
    saved = load_file(step / "model.safetensors")
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert saved.keys() == learnt.keys() and any(trained in name for name in saved)
    assert not any("visual" in name or "encoder" in name for name in saved)
    names = {"lora": ("fusion.", ".lora_"), "frozen": ("fusion.",)}
    assert kind == "full" or all(any(part in n for part in names[kind]) for n in saved)
    numbers = sum(p.numel() for p in learnt.values())
    for name, factor in (("model", 4), ("optimizer", 8)):
        size = (step / f"{name}.safetensors").stat().st_size
        assert factor * numbers < size < 1.05 * factor * numbers + 40_000
    total = sum(p.numel() for p in model.parameters())
    assert numbers < total and (kind == "full" or numbers < 0.35 * total)


def test_steps_follow_from_epochs(tmp_path: Path, rooms: Colours) -> None:
    """One epoch, each conversation once, and the rest of the last step from the next."""
    work = work_of(rooms, tmp_path, recipe(train__steps=0, train__warmup_share=0.3))
    steps, task = work.config.steps, work.open().task
    seen = [one.row for i in range(2 * steps) for one in task.fetch(i).samples]
    assert set(seen) == set(range(25)) and len(seen) < 25 + 4 * 2
    assert work.config.warmup_steps == round(0.3 * steps) > 0


def test_bfloat16_autocast_trains(tmp_path: Path, rooms: Colours) -> None:
    for precision in ("float32", "bfloat16"):
        asked = recipe(train__precision=precision, train__steps=2)
        train_on(tmp_path / precision, work_of(rooms, tmp_path / precision, asked))
    full, half = (losses(tmp_path / name) for name in ("float32", "bfloat16"))
    assert half[0]["text"] != full[0]["text"]
    assert half[1]["text"] == pytest.approx(full[1]["text"], rel=0.05)


# --- a step ---------------------------------------------------------------------------------------


def gradients(task: TuneTask) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in task.model.named_parameters() if p.grad is not None}
    task.zero_grad()
    return found


def test_unequal_micro_batches_are_one_mean_over_their_tokens(
    tmp_path: Path, rooms: Colours
) -> None:
    from spa3r.train.log import RunLog
    from spa3r.train.step import Stepper
    from tests.unit.train.run_task import ALONE

    asked = recipe(train__batches_per_step=3, train__clip_norm=1e9)
    task = opened(rooms, tmp_path, asked).task.train()
    batches = [task.fetch(i) for i in range(3)]
    counts = [int(task.tokens(batch)["text"]) for batch in batches]
    assert len(set(counts)) > 1
    log = RunLog(tmp_path, ALONE, task, first_step=0)
    stepper = Stepper(task=task, forward=task, config=asked.train, world=ALONE, log=log)
    stepper.gradient(0, map(task.fetch, range(3)), lambda: False)
    found = gradients(task)
    line = log.close(1, lr=0.0, grad_norm=torch.zeros(()))
    rows = [one.row for batch in batches for one in batch.samples]
    loss = task(task.load(rows))["total"]
    loss.backward()
    assert line["text"] == pytest.approx(loss.item(), rel=1e-5)
    expected = gradients(task)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name
    # Not the mean of means, which would weigh the tokens of short answers more.
    means = torch.stack([task(batch)["total"].detach() for batch in batches])
    assert abs(means.mean() - loss.detach()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_changes_no_gradient(
    tmp_path: Path, rooms: Colours, kind: str
) -> None:
    found = []
    for wanted in (False, True):
        asked = override(KINDS[kind], {"train.activation_checkpointing": wanted})
        task = opened(rooms, tmp_path, asked).task.train()
        torch.manual_seed(0)
        task(task.fetch(0))["total"].backward()
        found.append(gradients(task))
    plain, again = found
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


# --- features -------------------------------------------------------------------------------------


def test_what_is_cached_is_not_computed_in_the_loop_and_gives_the_same_training(
    tmp_path: Path, rooms: Colours, monkeypatch: pytest.MonkeyPatch
) -> None:
    for features in ("latents", "latents_and_images"):
        run = tmp_path / features
        work = work_of(rooms, run, recipe(train__features=features, train__steps=2))
        with monkeypatch.context() as patch:
            forbid_teacher(patch)
            if features == "latents_and_images":
                patch.setattr(Spa3VlmModel, "image_tokens", None)
                patch.setattr("spa3r.data.media.MediaReader.views", None)
            train_on(run, work)
    ours, theirs = (losses(tmp_path / name) for name in ("latents", "latents_and_images"))
    assert [line["step"] for line in ours] == [1, 2]
    for a, b in zip(ours, theirs, strict=True):
        assert a["text"] == pytest.approx(b["text"], rel=1e-4)


def test_missing_features_are_made_again_before_training(tmp_path: Path, rooms: Colours) -> None:
    work = work_of(rooms, tmp_path, RECIPE, features="others")
    entries = sorted((rooms.folder / "others").rglob("*.safetensors"))
    kept = [path.read_bytes() for path in entries]
    assert len(entries) == 6 and all(len(data) < 400_000 for data in kept)
    entries[0].unlink()
    with pytest.raises(FormatError, match=r"missing; start again, it is made before training"):
        train_on(tmp_path, work)
    entries[1].write_bytes(kept[1][:50])
    with pytest.raises(FormatError, match=r"damaged .*; delete it and start again"):
        train_on(tmp_path, work)
    entries[1].unlink()
    tune(RECIPE, rooms.places(features="others"), tmp_path)
    assert [path.read_bytes() for path in entries] == kept


# --- without images -------------------------------------------------------------------------------


def test_a_blind_share_of_each_epoch_is_learnt_as_the_blind_control_asks(
    tmp_path: Path, rooms: Colours
) -> None:
    work = work_of(rooms, tmp_path, recipe(mixture__blind_share=0.5, train__steps=2))
    plan, task = Plan.load(work.plan), work.open().task
    order = order_of(work.recipe, Mixture(work.recipe.mixture, work.read_sets()), plan)
    blind: list[set[int]] = []
    for epoch in range(8):
        numbers = range(order.batches_in(epoch) if epoch else 0, order.batches_in(epoch + 1))
        drawn = [place for i in numbers for place in order.batch(i)]
        assert sorted(place % len(plan) for place in drawn) == list(range(len(plan)))
        blind.append({place - len(plan) for place in drawn if place >= len(plan)})
    assert len(set(map(frozenset, blind))) == 8, "in every epoch others"
    assert 0.4 < sum(map(len, blind)) / (8 * 24) < 0.6
    text_alone = int(np.flatnonzero(plan.numbers("images") == 0)[0])
    assert set.union(*blind) == set(range(len(plan))) - {text_alone}
    batch = task.load([0, len(plan)])
    assert batch.images_of == (2, 0) and batch.geometry[0] and batch.geometry[1] is None
    assert [one.tokens for one in batch.samples] == batch.attention_mask_BT.sum(1).tolist()
    one = work.read_sets()["colours"].instructions[0]
    question = Question(
        id="q", task="t", prompt=one.turns[0].text, media_kind="video", media=("m",), scene="s"
    )  # fmt: skip
    asked = request_of("blind", question, None, None, None)  # type: ignore[arg-type]
    processor = Processor.from_base(work.base.place, work.recipe.vlm)
    prompt_T = processor.sample(asked.turns, asked.views, asked.geometry, answer=False).input_ids_T
    assert torch.equal(batch.input_ids_BT[1, : len(prompt_T)], prompt_T)
    assert binding(work.recipe) != binding(recipe(train__steps=2)), "it binds a run"


# --- what cannot be learnt ------------------------------------------------------------------------


def test_a_non_finite_loss_names_the_conversations(
    tmp_path: Path, rooms: Colours, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TuneTask.forward

    def poisoned(self: TuneTask, batch: Any) -> dict[str, torch.Tensor]:
        found = real(self, batch)
        bad = any(one.name == "colours/v3q1" for one in batch.samples)
        return {name: x * float("nan") for name, x in found.items()} if bad else found

    monkeypatch.setattr(TuneTask, "forward", poisoned)
    with pytest.raises(TrainingError, match="non-finite loss at step") as caught:
        train_on(tmp_path, work_of(rooms, tmp_path, RECIPE))
    text = str(caught.value)
    assert "conversation colours/v3q1;" in text and text.count("colours/v") == 1, text
    assert "look at these conversations" in text and "\n" not in text


def test_a_video_that_has_changed_is_noticed(tmp_path: Path) -> None:
    rooms = make_colours(tmp_path / "own", videos=2, questions=2)
    work = work_of(rooms, tmp_path / "run", RECIPE)
    for path in (tmp_path / "own" / "media" / "video0").iterdir():
        path.write_bytes((tmp_path / "own" / "media" / "video1" / path.name).read_bytes())
    with pytest.raises(TrainingError, match=r"colours/v0q\d: its images are no longer those"):
        train_on(tmp_path / "run", work)


def test_photos_for_an_encoder_that_needs_depth_are_one_line(
    tmp_path: Path, rooms: Colours
) -> None:
    encoder = save_untrained(tmp_path / "rgbd")
    asked = recipe(vlm__image_width=112)
    with pytest.raises(TeacherError, match=r"colours/v0q0: photos without depth") as caught:
        work_of(rooms, tmp_path / "run", asked, encoder=str(encoder))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="fusion cross_attention needs an encoder: name one"):
        work_of(rooms, tmp_path / "run", RECIPE, encoder="")


def test_what_is_left_out_is_counted(tmp_path: Path, rooms: Colours) -> None:
    """Over the budget of tokens or images, and a video that is gone."""
    video = rooms.folder / "media" / "video5"
    hidden = video.rename(rooms.folder / "media" / "hidden")
    try:
        work = work_of(rooms, tmp_path, recipe(mixture__max_tokens=81), features="fewer")
    finally:
        hidden.rename(video)
    plan = Plan.load(work.plan)
    lengths = plan.numbers("tokens")
    assert lengths.max() <= 81
    assert plan.dropped == {"colours": {"missing_media": 4, "too_many_tokens": 21 - len(plan)}}
    assert 0 < len(plan) < 21
    # A start that settled nothing is no verdict: what could not be shown is looked for again.
    work.plan.unlink()
    again = Plan.load(work_of(rooms, tmp_path, recipe(mixture__max_tokens=81)).plan)
    assert again.dropped == {"colours": {"too_many_tokens": 25 - len(again)}}
    assert len(again) > len(plan)
    few = recipe(mixture__max_images=1)
    plan = Plan.load(work_of(rooms, tmp_path, few).plan)
    assert plan.dropped == {"colours": {"too_many_images": 24}} and len(plan) == 1
