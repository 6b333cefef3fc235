"""Spa3-VLM on tiny drawn bases: no change at the start, no mixing of scenes, what is trained."""

from dataclasses import replace

import pytest
import torch

from spa3r.errors import ConfigError
from tests.unit.vlm.small_bases import (
    END,
    FUSIONS,
    PLACEHOLDER,
    Talk,
    batch,
    by_the_base,
    moved_from_zero,
    qwen2_5,
    qwen3,
    vlm,
)

TALKS = (Talk(2, 9, 1), Talk(1, 14, 2), Talk(3, 5, 3))
MAKERS = {"qwen2_5_vl": qwen2_5, "qwen3_vl": qwen3}
ON_QWEN3 = ("cross_attention", "deep_stack")
BASES_AND_KINDS = [
    *(("qwen2_5_vl", kind) for kind in FUSIONS),
    *(("qwen3_vl", k) for k in ON_QWEN3),
]
GREEDY = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 4}


def logits(model, given, **options):
    with torch.no_grad():
        return model(given, **options)


def base_logits(hf, model, given):
    with torch.no_grad():
        return hf(**by_the_base(model, given)).logits


# --- the initial state ----------------------------------------------------------------------------


@pytest.mark.parametrize(("maker", "kind"), BASES_AND_KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_the_start_logits_and_answers_are_the_base_s_bit_for_bit(maker, kind, dtype):
    """`append` too, on the same tokens: its placeholders are then ordinary tokens of the base."""
    model, hf = vlm(kind, MAKERS[maker]()).to(dtype), MAKERS[maker]().to(dtype)
    given = batch(model, TALKS, pad="left")
    assert torch.equal(logits(model, given), base_logits(hf, model, given))
    theirs = hf.generate(**by_the_base(model, given), **GREEDY)[:, given.input_ids_BT.shape[1] :]
    for ours, row in zip(model.generate(given, max_new_tokens=4), theirs, strict=True):
        assert ours.tolist() == [token for token in row.tolist() if token != END]


@pytest.mark.parametrize("kind", ["cross_attention", "append", "add", "deep_stack"])
def test_at_the_start_under_autocast(kind):
    model = vlm(kind).train()
    given = batch(model, TALKS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(given), base_logits(qwen2_5(), model, given))


def test_appended_geometry_cannot_leave_the_base_s_answer_to_the_prompt_without_it():
    """The sequence is longer: attention is shared with more tokens, zero or not."""
    model = vlm("append")
    with_them = batch(model, TALKS[:1])
    without = batch(model, [replace(TALKS[0], with_geometry=False)])
    assert with_them.input_ids_BT.shape[1] == without.input_ids_BT.shape[1] + 5
    last = (logits(model, given)[0, -1] for given in (with_them, without))
    assert not torch.allclose(*last, atol=1e-3)


def test_the_initial_state_is_left_by_one_step():
    """The zero is no dead end: gradients reach the last layer at once, all others after it."""
    model = vlm("release", language="frozen").train()
    given = batch(model, TALKS)
    optimizer = torch.optim.SGD(model.trainable().values(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        model(given).log_softmax(-1)[..., 9].mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in model.trainable().values())
    assert not torch.equal(logits(model.eval(), given), base_logits(qwen2_5(), model, given))


# --- conversations side by side -------------------------------------------------------------------


@pytest.mark.parametrize(("maker", "kind"), BASES_AND_KINDS)
def test_a_batch_equals_its_conversations_one_by_one(maker, kind):
    """Other images, other lengths, a text alone, one without geometry; padded on either side.

    Logits agree to 1e-4 (of about 7), the order of summation; answers to the token.
    """
    model = moved_from_zero(vlm(kind, MAKERS[maker]()))
    talks = (*TALKS, Talk(2, 7, 4, with_geometry=False), Talk(0, 6, 5, with_geometry=False))
    alone = [batch(model, [talk], pad="left") for talk in talks]
    for pad in ("right", "left"):
        given = batch(model, talks, pad=pad)
        together = logits(model, given)
        for i, one in enumerate(alone):
            ours = together[i, given.attention_mask_BT[i].bool()]
            expected = logits(model, one)[0]
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
            assert torch.equal(ours.argmax(-1), expected.argmax(-1))
    answers = model.generate(batch(model, talks, pad="left"), max_new_tokens=4)
    for ours, one in zip(answers, alone, strict=True):
        assert torch.equal(ours, model.generate(one, max_new_tokens=4)[0])


def test_texts_alone_side_by_side():
    """The blind control."""
    model = vlm()
    talks = [Talk(0, words, words, with_geometry=False) for words in (3, 9, 5)]
    answers = model.generate(batch(model, talks, pad="left"), max_new_tokens=4)
    for ours, talk in zip(answers, talks, strict=True):
        alone = batch(model, [talk], pad="left")
        assert alone.image_grid_thw_I3 is None
        assert torch.equal(ours, model.generate(alone, max_new_tokens=4)[0])


@pytest.mark.parametrize("kind", [kind for kind in FUSIONS if kind != "none"])
def test_no_conversation_sees_the_scene_of_another(kind):
    model = moved_from_zero(vlm(kind))
    given = batch(model, TALKS)
    scenes = list(given.geometry)
    scenes[1] = replace(scenes[1], tokens=tuple(x + 1 for x in scenes[1].tokens))
    before, after = (logits(model, x) for x in (given, replace(given, geometry=tuple(scenes))))
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])
    assert (before[1] - after[1]).abs().max() > 1e-2


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_conversation_without_geometry_is_the_base_s(kind):
    model = moved_from_zero(vlm(kind))
    given = batch(model, [replace(talk, with_geometry=False) for talk in TALKS])
    assert not (given.input_ids_BT == PLACEHOLDER).any()
    assert torch.equal(logits(model, given), base_logits(qwen2_5(), model, given))


# --- answering ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cross_attention", "append", "deep_stack"])
def test_generation_with_a_cache_equals_whole_forwards(kind):
    """What is added to hidden states is added in the prefill only: not to the answer's tokens."""
    model = moved_from_zero(vlm(kind))
    given = batch(model, TALKS[:1], pad="left")
    answer = model.generate(given, max_new_tokens=8)[0]
    grown = given
    for token in answer:
        assert logits(model, grown, logits_to_keep=1)[0, -1].argmax() == token
        more = token.reshape(1, 1)
        grown = replace(
            grown,
            input_ids_BT=torch.cat((grown.input_ids_BT, more), dim=1),
            attention_mask_BT=torch.cat((grown.attention_mask_BT, torch.ones_like(more)), dim=1),
            is_image_BT=torch.cat((grown.is_image_BT, torch.zeros_like(more)), dim=1),
        )


@pytest.mark.parametrize("setting", ["suppress_tokens", "max_time"])
def test_the_base_s_own_generation_settings_do_not_count(setting):
    """Transformers would take from there whatever a call leaves open."""
    model, hf = vlm("none"), qwen2_5()
    given = batch(model, TALKS[:1], pad="left")
    expected = model.generate(given, max_new_tokens=8)[0]
    values = {"suppress_tokens": expected[:1].tolist(), "max_time": 1e-9}
    setattr(hf.generation_config, setting, values[setting])
    assert torch.equal(vlm("none", hf).generate(given, max_new_tokens=8)[0], expected)


def test_an_answer_stops_before_its_end_token():
    model = vlm("none")
    given = batch(model, TALKS[:2], pad="left")
    whole = model.generate(given, max_new_tokens=6)
    assert [len(x) for x in whole] == [6, 6]
    end = int(whole[0][3])  # said there for the first time
    model.base.hf.generation_config.eos_token_id = model.base.end_ids[0] = end
    short = model.generate(given, max_new_tokens=6)
    for ours, all_six in zip(short, whole, strict=True):
        said = all_six.tolist()
        assert ours.tolist() == said[: said.index(end) if end in said else 6]
    assert len(short[0]) < 6


def test_tokens_stream_as_they_come():
    class Streamer:
        def __init__(self):
            self.seen = []

        def put(self, tokens):
            self.seen.append(tokens.tolist())

        def end(self):
            self.seen.append("end")

    model, streamer = vlm("none"), Streamer()
    given = batch(model, TALKS[:1], pad="left")
    answer = model.generate(given, max_new_tokens=3, streamer=streamer)[0]
    assert streamer.seen == [given.input_ids_BT.tolist(), *([x] for x in answer.tolist()), "end"]


def test_padding_behind_a_question_is_refused():
    model = vlm("none")
    with pytest.raises(ConfigError, match="padded on the left"):
        model.generate(batch(model, TALKS, pad="right"), max_new_tokens=2)


@pytest.mark.parametrize("maker", MAKERS)
def test_stored_image_tokens_serve_instead_of_pixels(maker):
    model = moved_from_zero(vlm("cross_attention", MAKERS[maker]()))
    given = batch(model, TALKS)
    model.requires_grad_(True)
    stored = model.image_tokens(given.pixel_values_PC, given.image_grid_thw_I3)
    assert len(stored) == 6
    assert not any(x.requires_grad for x in stored)
    without = replace(given, pixel_values_PC=None, image_tokens=stored)
    assert torch.equal(logits(model, given), logits(model, without))


def test_logits_of_some_positions():
    model = vlm()
    given = batch(model, TALKS)
    every = logits(model, given)
    assert torch.equal(logits(model, given, logits_to_keep=2), every[:, -2:])
    chosen = torch.tensor([3, 20])
    assert torch.equal(logits(model, given, logits_to_keep=chosen), every[:, chosen])


# --- what does not belong together ----------------------------------------------------------------


def test_placeholders_that_do_not_fit_the_geometry():
    model = vlm("append")
    given = batch(model, TALKS)
    scenes = tuple(replace(x, tokens=(x.tokens[0][:3],)) for x in given.geometry)
    with pytest.raises(ConfigError, match="conversation 0 has 5 placeholder tokens, its geometry"):
        model(replace(given, geometry=scenes))
    with pytest.raises(ConfigError, match="conversation 1 has 5 placeholder tokens, its geometry"):
        model(replace(given, geometry=(given.geometry[0], None, given.geometry[2])))


def test_images_and_scenes_of_another_number():
    model = vlm()
    given = batch(model, TALKS)
    with pytest.raises(ConfigError, match="6 images for conversations of"):
        model(replace(given, images_of=(1, 1, 1)))
    with pytest.raises(ConfigError, match="3 conversations, but images_of names 2"):
        model(replace(given, images_of=(3, 3)))


def test_a_configuration_that_the_base_cannot_have():
    with pytest.raises(ConfigError, match="merged patch, 32; set"):
        hf = qwen3()
        model = vlm("cross_attention", hf)
        type(model)(model.base, model.fusion, replace(model.config, image_width=84,
                                                      image_multiple=28))  # fmt: skip
    many = replace(FUSIONS["deep_stack"], layers=(0, 1, 2, 3))
    model = vlm("deep_stack")
    with pytest.raises(ConfigError, match="names 4 layers, the base has 3"):
        type(model)(model.base, model.fusion, replace(model.config, fusion=many))


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["full", "lora", "frozen"])
def test_what_is_trained(language):
    model = vlm(language=language)
    names = set(model.trainable())
    fusion = {name for name in names if name.startswith("fusion.")}
    rest = names - fusion
    assert fusion == {f"fusion.{name}" for name, _ in model.fusion.named_parameters()}
    assert not any(".visual." in name for name in names)
    if language == "full":
        decoder = {n for n, _ in model.named_parameters() if ".language_model." in n}
        assert rest == decoder | {"base.hf.lm_head.weight"}
    elif language == "lora":
        assert len(rest) == 3 * 7 * 2
        assert all(".lora_" in name for name in rest)
    else:
        assert not rest


@pytest.mark.parametrize("kind", ["cross_attention", "append", "deep_stack"])
@pytest.mark.parametrize("language", ["full", "lora"])
def test_activation_checkpointing_gives_the_same_gradients(kind, language):
    given, gradients = None, []
    for again in (False, True):
        model = moved_from_zero(vlm(kind, language=language)).train()
        given = batch(model, TALKS)
        if again:
            model.base.checkpoint_activations()
        model(given).log_softmax(-1)[..., 9].mean().backward()
        gradients.append({name: p.grad for name, p in model.trainable().items()})
        assert all(p.grad is None for p in model.base.tower.parameters())
        assert not model.base.tower.training
    first, second = gradients
    assert all(x is not None for x in first.values())
    assert sum(bool(x.any()) for name, x in first.items() if name.startswith("fusion.")) >= 4
    for name, gradient in first.items():
        torch.testing.assert_close(second[name], gradient, msg=name)


@pytest.mark.parametrize("kind", [kind for kind in FUSIONS if kind != "none"])
def test_every_parameter_has_a_gradient_whatever_the_batch_holds(kind):
    """Else workers with and without geometry would wait for each other for ever."""
    model = moved_from_zero(vlm(kind, language="frozen")).train()
    for talks in ([Talk(2, 7, 4, with_geometry=False)], [Talk(0, 6, 5, with_geometry=False)]):
        model.zero_grad()
        given = batch(model, talks)
        out = model(given)
        assert torch.equal(out.detach(), base_logits(qwen2_5(), model, given))
        out.sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in model.fusion.parameters())


@pytest.mark.parametrize("language", ["full", "lora", "frozen"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_language_model_s_state_goes_round(language, tied):
    given, trained = None, vlm(hf=qwen2_5(tied=tied), language=language)
    with torch.no_grad():
        for parameter in trained.trainable().values():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    given = batch(trained, TALKS)
    state = {name: x.clone() for name, x in trained.language_state().items()}
    assert ("lm_head.weight" in state) == (language == "full" and not tied)
    fresh = vlm(hf=qwen2_5(tied=tied), language=language)
    fresh.fusion.load_state_dict(trained.fusion.state_dict())
    assert not torch.equal(logits(fresh, given), logits(trained, given)) or language == "frozen"
    fresh.load_language_state(state, "x.safetensors")
    assert torch.equal(logits(fresh, given), logits(trained, given))


def test_the_blocks_are_the_decoder_layers():
    model = vlm()
    blocks = list(model.blocks())
    assert blocks == list(model.base.hf.model.language_model.layers)
