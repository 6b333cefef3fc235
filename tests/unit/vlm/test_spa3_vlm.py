"""Spa3-VLM as something that answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spa3r.errors import ConfigError, ImageError, PromptError, TeacherError
from spa3r.hub import Spa3REncoder
from spa3r.instructions import Turn
from spa3r.vlm.spa3_vlm import Answer, Request, Spa3VLM
from tests.scan_arrays import scan_arrays
from tests.tiny_vlm import (
    FUSIONS,
    QUESTION,
    logits_of,
    request,
    save_tiny_vlm,
    tiny_config,
    tiny_vlm,
)
from tests.untrained import untrained_photographer

SCAN = scan_arrays(views=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("stirred"))


@pytest.fixture(scope="module")
def vlm(folder: Path) -> Spa3VLM:
    return Spa3VLM.from_pretrained(folder)


def test_an_answer(vlm: Spa3VLM):
    answer = vlm.ask(**SCAN, question=QUESTION, max_new_tokens=5)
    assert isinstance(answer, Answer) and answer.text and answer.seconds > 0
    assert answer.frames == ("0", "1", "2") and answer.view_shares is None
    again = vlm.ask(**SCAN, question=QUESTION, max_new_tokens=5)
    assert again == replace(answer, seconds=again.seconds)


def test_photos_are_enough_for_a_vggt_taught_encoder(tmp_path: Path):
    config = tiny_config(image_width=84)
    vlm = tiny_vlm(encoder=untrained_photographer(tmp_path), config=config, stir=True)
    images = list(SCAN["images"])
    assert vlm.ask(images, QUESTION, max_new_tokens=3).text
    assert vlm.ask(images[0], QUESTION, max_new_tokens=3).frames == ("0",)
    with pytest.raises(TeacherError, match="photos without depth need a VGGT-taught encoder"):
        tiny_vlm().ask(images, QUESTION)


def test_a_batch_answers_as_its_questions_one_by_one(vlm: Spa3VLM):
    """Different numbers of images, lengths of text, geometry and none."""
    requests = []
    for i, views in enumerate((1, 3, 2)):
        scan = vlm.views(**scan_arrays(views=views))
        requests.append(request(f"{QUESTION} " * (i + 1), views=scan))
        requests.append(request(views=scan, use_geometry=False))
    requests.append(request("Which is larger?"))
    first = (Turn(role="user", text="Hi"), Turn(role="assistant", text="Yes"), *requests[0].turns)
    requests.append(Request(turns=first, views=requests[2].views))
    alone = [vlm.answer_many([one], max_new_tokens=8)[0] for one in requests]
    for size in (3, len(requests)):
        together = vlm.answer_many(requests, max_new_tokens=8, batch_size=size)
        assert [a.text for a in together] == [a.text for a in alone]
        assert [a.frames for a in together] == [a.frames for a in alone]
    assert vlm.answer_many([]) == []


def test_logits_of_a_batch_are_those_of_its_parts(vlm: Spa3VLM):
    scans = [vlm.views(**scan_arrays(views=n)) for n in (1, 3)]
    samples = [vlm.sample(request(views=scan)) for scan in scans]
    whole = vlm.model(vlm.processor.collate(samples, pad="left"))
    for i, sample in enumerate(samples):
        alone = vlm.model(vlm.processor.collate([sample]))[0]
        assert torch.allclose(whole[i, -len(sample) :], alone, atol=1e-4)


def test_controls_change_what_is_seen(vlm: Spa3VLM):
    views = vlm.views(**SCAN)
    moved = scan_arrays(views=3)
    moved["depth"] = moved["depth"] // 2
    other = vlm.geometry_of(request(views=vlm.views(**moved)))
    plain = logits_of(vlm, request(views=views))[0, -1]
    own = vlm.geometry_of(request(views=views))
    assert torch.equal(logits_of(vlm, request(views=views, geometry=own))[0, -1], plain)
    shuffled = logits_of(vlm, request(views=views, geometry=other))[0, -1]
    without = logits_of(vlm, request(views=views, use_geometry=False))[0, -1]
    blind = logits_of(vlm, request())[0, -1]
    different = [plain, shuffled, without, blind]
    for i, a in enumerate(different):
        assert not any(torch.allclose(a, b, atol=1e-3) for b in different[i + 1 :])
    assert vlm.geometry_of(request(views=views, geometry=other, use_geometry=False)) is None
    assert vlm.sample(request("<video>\nHow many?", geometry=own)).num_images == 0


def test_a_stream_joins_to_the_answer(vlm: Spa3VLM):
    for question in (QUESTION, "x", "Größe?"):
        whole = vlm.ask(**SCAN, question=question, max_new_tokens=12)
        pieces = list(vlm.ask(**SCAN, question=question, max_new_tokens=12, stream=True))
        assert "".join(pieces) == whole.text and all(pieces)


def test_a_stream_gives_its_pieces_one_after_another(vlm: Spa3VLM, monkeypatch):
    """Text of whole words; and the work ends with whoever leaves."""
    words = vlm.processor.chat.text_ids("the table and the sofa are left of the table")
    fed: list[int] = []

    def generate(batch, *, max_new_tokens, streamer):
        streamer.put(batch.input_ids_BT)
        for token in words * 3:
            fed.append(token)
            streamer.put(torch.tensor([token]))
        streamer.end()

    monkeypatch.setattr(vlm.model, "generate", generate)
    asked = request()
    assert "".join(vlm.stream(asked)) == "the table and the sofa are left of the table" * 3
    count = len(fed)
    stream = vlm.stream(asked)
    assert next(iter(stream))
    stream.close()  # type: ignore[attr-defined]
    assert len(fed) <= 2 * count  # the thread has ended by now, whatever it was at


def test_one_thread_at_a_time_works_with_the_model(vlm: Spa3VLM, monkeypatch: pytest.MonkeyPatch):
    """Transformers keeps the positions of the answer it is at on the model."""
    real, held = vlm.model.inputs, []
    monkeypatch.setattr(
        vlm.model, "inputs", lambda x: (held.append(vlm._alone.locked()), real(x))[1]
    )
    asked = request(views=vlm.views(**SCAN))
    vlm.answer_many([asked], max_new_tokens=1)
    assert "".join(vlm.stream(asked, max_new_tokens=1))
    vlm.view_shares(asked, "4")
    assert held == [True] * 3 and not vlm._alone.locked()


def test_what_fails_in_the_models_thread_is_raised_in_the_readers(vlm: Spa3VLM, monkeypatch):
    def generate(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(vlm.model, "generate", generate)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(vlm.stream(request()))


def test_a_prompt_of_100_000_characters_names_the_limit(vlm: Spa3VLM):
    long = "chair " * 16_667
    for ask in (
        lambda: vlm.ask(**SCAN, question=long),
        lambda: vlm.ask(**SCAN, question=long, stream=True),
        lambda: vlm.answer_many([request(), request(long)]),
    ):
        with pytest.raises(PromptError, match=r"has \d+ tokens .* this model takes 8192") as caught:
            ask()
        assert "100002 characters" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "question", ["", "  \n", "<image>\n", "<image><image>a", "<image>" * 4, "half \ud800"]
)
def test_a_question_that_is_none(vlm: Spa3VLM, question: str):
    with pytest.raises(PromptError):
        vlm.ask(**SCAN, question=question)


def test_no_new_tokens(vlm: Spa3VLM):
    with pytest.raises(ConfigError, match="max_new_tokens must be at least 1, got 0"):
        vlm.ask(**SCAN, question=QUESTION, max_new_tokens=0)


def test_images_that_are_none(vlm: Spa3VLM, tmp_path: Path):
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"a\.jpg"):
        vlm.ask([tmp_path / "a.jpg"], QUESTION)
    with pytest.raises(ImageError):
        vlm.ask([], QUESTION)


def test_an_answer_cut_short_says_so(vlm: Spa3VLM, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vlm.model, "generate", lambda *_, **__: [torch.tensor([70, 71])])
    assert vlm.answer_many([request()], max_new_tokens=2)[0].truncated
    assert not vlm.answer_many([request()], max_new_tokens=3)[0].truncated


@pytest.mark.parametrize("kind", ["append", "add", "deep_stack", "none"])
def test_every_fusion_answers_in_batches(kind: str):
    vlm = tiny_vlm(config=tiny_config(fusion=FUSIONS[kind]), stir=True)
    requests = [request(views=vlm.views(**scan_arrays(views=n))) for n in (1, 2)]
    alone = [vlm.answer_many([one], max_new_tokens=4)[0].text for one in requests]
    both = vlm.answer_many(requests, max_new_tokens=4, batch_size=2)
    assert [a.text for a in both] == alone
    assert (vlm.encoder is None) == (kind == "none")


def test_bfloat16_on_a_cpu(folder: Path, tmp_path: Path):
    vlm = Spa3VLM.from_pretrained(folder, dtype="bfloat16")
    assert next(vlm.model.base.language_model.parameters()).dtype == torch.bfloat16
    assert vlm.encoder is not None and vlm.encoder.precision == "bfloat16"
    assert vlm.ask(**SCAN, question=QUESTION, max_new_tokens=3).text
    assert vlm.hash == Spa3VLM.from_pretrained(folder).hash  # what it is does not change
    vlm.save_pretrained(tmp_path / "half")
    again = Spa3VLM.from_pretrained(tmp_path / "half", encoder=vlm.encoder, dtype="bfloat16")
    asked = request(views=vlm.views(**SCAN))
    assert torch.equal(logits_of(vlm, asked), logits_of(again, asked))


def test_the_encoder_may_be_given_in_any_form(folder: Path):
    place = folder.parent / "encoder"
    for given in (None, place, str(place), Spa3REncoder.from_pretrained(place)):
        loaded = Spa3VLM.from_pretrained(folder, encoder=given)
        assert loaded.encoder is not None and loaded.encoder.where == str(
            folder / "../encoder" if given is None else place
        )


def test_numbers_of_images_are_kept_apart(vlm: Spa3VLM):
    images = np.concatenate([SCAN["images"]] * 2)
    with pytest.raises(ImageError):
        vlm.ask(images, QUESTION, depth=SCAN["depth"], K=SCAN["K"],
                world_from_camera=SCAN["world_from_camera"])  # fmt: skip
