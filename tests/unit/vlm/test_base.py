"""Bases from disk: whole, in the layout of the published files, from a URL; and refusals."""

import json
import shutil
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration

from spa3r.errors import ConfigError, Spa3RError, TeacherError, WeightsError
from spa3r.vlm.base import QwenBase, load_base
from tests.unit.vlm.small_bases import Talk, batch, by_the_base, qwen2_5, qwen3, vlm

TALKS = (Talk(2, 9, 1), Talk(1, 14, 2))
MODEL_FILE = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    qwen2_5().save_pretrained(folder)
    return folder


@pytest.fixture
def changed(saved, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "changed"))


def assert_same_as_built(base: QwenBase, hf) -> None:
    model = vlm(hf=base.hf)
    given = batch(model, TALKS)
    with torch.no_grad():
        assert torch.equal(model(given), hf(**by_the_base(model, given)).logits)


def one_line(error: pytest.ExceptionInfo[Spa3RError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 1000
    return text


def test_loading_changes_nothing_and_the_fusion_is_still_zero(saved):
    """Transformers draws what a file lacks anew, which in the release undid the zero."""
    assert_same_as_built(load_base(saved), qwen2_5())
    theirs = Qwen2_5_VLForConditionalGeneration.from_pretrained(saved, dtype=torch.bfloat16)
    assert_same_as_built(load_base(saved, dtype=torch.bfloat16), theirs)


def test_qwen3_vl(tmp_path):
    qwen3().save_pretrained(tmp_path)
    base = load_base(str(tmp_path))
    assert (base.merged_patch, base.merge, base.hidden_size) == (32, 2, 32)
    assert_same_as_built(base, qwen3())


def test_the_layout_of_the_published_files(changed):
    """Those of before Transformers 4.52: visual.*, model.layers.*, lm_head.weight."""
    state = load_file(changed / MODEL_FILE)
    old = {
        name.replace("model.visual.", "visual.").replace("model.language_model.", "model."): x
        for name, x in state.items()
    }
    assert "visual.patch_embed.proj.weight" in old
    assert "model.layers.0.self_attn.q_proj.weight" in old
    save_file(old, changed / MODEL_FILE, {"format": "pt"})
    assert_same_as_built(load_base(changed), qwen2_5())


def test_from_a_url(saved):
    memory = fsspec.filesystem("memory")
    memory.put(str(saved), "/bases/tiny", recursive=True)
    try:
        assert_same_as_built(load_base("memory://bases/tiny"), qwen2_5())
    finally:
        memory.rm("/bases", recursive=True)


def test_places_without_a_base(tmp_path, changed):
    with pytest.raises(TeacherError, match="no such file or folder") as error:
        load_base(tmp_path / "nowhere")
    one_line(error)
    with pytest.raises(WeightsError, match=r"config\.json is missing or names model_type None"):
        load_base(tmp_path)
    (changed / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(WeightsError, match=r"model_type 'llama', not one of qwen2_5_vl, qwen3_vl"):
        load_base(changed)
    with pytest.raises(TeacherError, match=r"Qwen/Qwen2\.5-VL-3B-Instruct: .*local cache") as error:
        load_base("Qwen/Qwen2.5-VL-3B-Instruct")  # tests run without a network
    one_line(error)


def test_missing_unexpected_and_misshapen_tensors(changed, capsys):
    state = load_file(changed / MODEL_FILE)
    gone = next(name for name in state if name.endswith("layers.1.mlp.up_proj.weight"))
    less = {name: x for name, x in state.items() if name != gone}
    save_file({**less, "adapter.weight": torch.zeros(2)}, changed / MODEL_FILE, {"format": "pt"})
    with pytest.raises(WeightsError) as error:
        load_base(changed)
    text = one_line(error)
    assert "2 tensors do not fit its config.json" in text
    assert "mlp.up_proj.weight" in text
    assert "unexpected adapter.weight" in text
    assert capsys.readouterr() == ("", "")  # no table, no bar
    save_file({**state, gone: torch.zeros(2, 2)}, changed / MODEL_FILE, {"format": "pt"})
    with pytest.raises(
        WeightsError, match=r"up_proj.weight has shape \(2, 2\), expected \(48, 32\)"
    ) as error:
        load_base(changed)
    one_line(error)


def test_damaged_and_absent_weights(changed, capsys):
    whole = (changed / MODEL_FILE).read_bytes()
    (changed / MODEL_FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="not a readable base") as error:
        load_base(changed)
    one_line(error)
    assert capsys.readouterr() == ("", "")
    (changed / MODEL_FILE).unlink()
    with pytest.raises(WeightsError, match="not a readable base") as error:
        load_base(changed)
    one_line(error)


def with_config(**text: object):
    def change(folder: Path) -> None:
        file = folder / "config.json"
        values = json.loads(file.read_text())
        values["text_config"] |= text
        file.write_text(json.dumps(values))

    return change


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / MODEL_FILE), folder / "pytorch_model.bin")
    (folder / MODEL_FILE).unlink()


def without_settings(folder: Path) -> None:
    (folder / "generation_config.json").write_text("[1]")


@pytest.mark.parametrize(
    "damage",
    [
        with_config(hidden_size="a"), with_config(num_attention_heads=0),
        with_config(num_hidden_layers=-1), without_settings, as_pickle,
    ],
)  # fmt: skip
def test_files_without_sense_and_pickles(changed, damage):
    damage(changed)
    with pytest.raises(WeightsError, match="not a readable base") as error:
        load_base(changed)
    one_line(error)


def test_end_tokens_that_are_none():
    hf = qwen2_5()
    hf.generation_config.eos_token_id = ["<end>"]
    with pytest.raises(ConfigError, match=r"ends its answers with \['<end>'\], no token ids"):
        QwenBase(hf)


def test_another_kind_of_model():
    hf = qwen2_5()
    hf.config.model_type = "llava"
    with pytest.raises(ConfigError, match="base is a llava, not one of"):
        QwenBase(hf)
