"""The tiny base is an ordinary Qwen2.5-VL folder with a tokenizer that loses nothing."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from spa3r.errors import ConfigError
from spa3r.instructions import Turn
from spa3r.vision_input import prepare_scene
from spa3r.vlm.processor import Processor
from spa3r.vlm.tiny_base import SPECIAL, build_tiny_base
from tests.scan_arrays import scan_arrays
from tests.tiny_vlm import TEXTS, tiny_base, tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    "text",
    [
        *TEXTS,
        "",
        " ",
        "\n\n  x",
        "Größe: 3,75 m² → 漢字 🙂",
        "a\tb\r\nc",
        "12345.678 chairs",
        "\x00\x7f",
    ],
)
def test_any_text_comes_back_from_its_tokens(folder: Path, text: str):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_digits_stand_one_by_one(folder: Path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer("1234.5 chairs, 67 12").tokens()
    assert [t for t in tokens if any(c.isdigit() for c in t)] == list("12345") + list("6712")
    words = tokenizer("How many chair(s) are in this room?").tokens()
    assert "Ġroom" in words and len(words) < 12  # it was trained: common words are one token


def test_special_tokens_are_single_and_outside_of_text(folder: Path):
    processor = Processor.from_base(str(folder), tiny_config())
    for token in SPECIAL:
        assert len(processor.tokenizer(token)["input_ids"]) == 1
        assert len(processor.chat.text_ids(token)) > 1


def test_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path):
    again = build_tiny_base(tmp_path / "a", TEXTS * 3)
    other = build_tiny_base(tmp_path / "b", TEXTS * 3, seed=1)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert all((folder / n).read_bytes() == (again / n).read_bytes() for n in names)
    assert (folder / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_transformers_reads_it_without_us(folder: Path):
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    assert model.config.tie_word_embeddings
    ids = torch.arange(6)[None]
    assert model(input_ids=ids).logits.shape == (1, 6, model.config.text_config.vocab_size)


def test_an_image_token_is_one_square_of_the_image_multiple(tmp_path: Path):
    folder = str(build_tiny_base(tmp_path, TEXTS, image_multiple=56))
    with pytest.raises(ConfigError, match="image_multiple 28 is no multiple of 56"):
        Processor.from_base(folder, tiny_config())
    processor = Processor.from_base(folder, tiny_config(image_width=224, image_multiple=56))
    views = prepare_scene(**scan_arrays(views=2), width=224, multiple=56)
    sample = processor.sample((Turn(role="user", text="Where?"),), views, answer=False)
    assert sample.is_image_T.sum() == 2 * 12
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
    batch = processor.collate([sample])
    found = model.get_image_features(batch.pixel_values_PC, batch.image_grid_thw_I3)
    assert [tuple(tokens.shape) for tokens in found.pooler_output] == [(12, 128)] * 2


@pytest.mark.parametrize("sizes", [{"vocabulary": 200}, {"hidden": 100}, {"image_multiple": 27}])
def test_impossible_sizes_are_named(tmp_path: Path, sizes: dict[str, int]):
    with pytest.raises(ConfigError, match="it needs at least 270 tokens, a width that 32"):
        build_tiny_base(tmp_path, TEXTS, **sizes)  # type: ignore[arg-type]
