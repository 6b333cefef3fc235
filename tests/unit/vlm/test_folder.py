"""A Spa3-VLM as files: what is written is what is read, and nothing else is taken for it."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from spa3r import storage
from spa3r.errors import ConfigError, TeacherError, WeightsError
from spa3r.vlm.base import load_base
from spa3r.vlm.spa3_vlm import Spa3VLM
from spa3r.vlm.tiny_base import build_tiny_base
from tests.scan_arrays import scan_arrays
from tests.tiny_vlm import (
    FUSIONS,
    QUESTION,
    TEXTS,
    logits_of,
    request,
    save_tiny_vlm,
    stir_fusion,
    tiny_base,
    tiny_config,
    tiny_vlm,
)
from tests.untrained import save_untrained, untrained_rgbd

SCAN = scan_arrays(views=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("stirred"))


@pytest.fixture(scope="module")
def vlm(folder: Path) -> Spa3VLM:
    return Spa3VLM.from_pretrained(folder)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """The whole tree again, to be damaged."""
    return Path(shutil.copytree(folder.parent, tmp_path / "copy")) / "vlm"


def damage(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, "float32") for kind in sorted(FUSIONS)), ("release", "bfloat16")]
)
def test_untuned_it_is_its_base_bit_for_bit_also_after_loading(
    kind: str, dtype: Any, tmp_path: Path
):
    """Reference 2.2, no. 10: the release's zero was drawn anew by from_pretrained."""
    folder = save_tiny_vlm(tmp_path, stir=False, fusion=FUSIONS[kind])
    loaded = Spa3VLM.from_pretrained(folder, dtype=dtype)
    asked = request(views=loaded.views(**SCAN))
    base = load_base(folder / "base", dtype=getattr(torch, dtype))
    batch = loaded.processor.collate([loaded.sample(asked)])
    alone = base.hf(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        mm_token_type_ids=batch.is_image_BT,
        pixel_values=batch.pixel_values_PC,
        image_grid_thw=batch.image_grid_thw_I3,
    ).logits
    assert torch.equal(logits_of(loaded, asked), alone)
    if kind != "none":
        stir_fusion(loaded)
        assert not torch.equal(logits_of(loaded, asked), alone)  # the test can fail


@pytest.mark.parametrize("language", ["full", "lora", "frozen"])
def test_saved_and_loaded_again_it_is_the_same_to_the_byte(language: str, tmp_path: Path):
    if language == "lora":
        pytest.importorskip("peft")
    first = save_tiny_vlm(tmp_path, language=language)
    vlm = Spa3VLM.from_pretrained(first)
    with torch.no_grad():
        for parameter in vlm.model.trainable().values():
            parameter.add_(0.01)
    vlm.save_pretrained(tmp_path / "second")
    again = Spa3VLM.from_pretrained(tmp_path / "second")
    again.save_pretrained(tmp_path / "third")
    names = sorted(p.relative_to(first).as_posix() for p in first.rglob("*") if p.is_file())
    for name in names:
        second, third = tmp_path / "second" / name, tmp_path / "third" / name
        assert second.read_bytes() == third.read_bytes(), name
        changed = {"fusion.safetensors", "language.safetensors", "lora.safetensors",
                   "config.json"}  # fmt: skip
        assert (second.read_bytes() == (first / name).read_bytes()) == (name not in changed), name
    assert ("language.safetensors" in names) == (language == "full")
    assert ("lora.safetensors" in names) == (language == "lora")
    asked = request(views=vlm.views(**SCAN))
    assert torch.equal(logits_of(vlm, asked), logits_of(again, asked))
    assert (
        again.hash == vlm.hash == json.loads((tmp_path / "third/config.json").read_text())["hash"]
    )
    assert again.hash != Spa3VLM.from_pretrained(first).hash


def test_a_folder_never_touches_the_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(folder.parent)
    assert Spa3VLM.from_pretrained("vlm").ask(**SCAN, question=QUESTION, max_new_tokens=1).text
    assert Spa3VLM.from_pretrained(folder).where == str(folder)


def test_a_hub_id_is_read_from_the_cache_while_offline(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--lab--spa3"
    shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    loaded = Spa3VLM.from_pretrained("lab/spa3", encoder=folder.parent / "encoder")
    assert loaded.where == "lab/spa3" and loaded.hash == Spa3VLM.from_pretrained(folder).hash
    with pytest.raises(TeacherError, match=r"lab/absent: .*HF_HUB_OFFLINE"):
        Spa3VLM.from_pretrained("lab/absent")


def test_a_folder_behind_a_url(folder: Path, vlm: Spa3VLM):
    encoder = vlm.encoder
    assert encoder is not None
    vlm = Spa3VLM.from_pretrained(folder, encoder=encoder)
    copied = vlm.save_pretrained("memory://models/vlm")
    encoder.save_pretrained("memory://models/encoder")
    config = json.loads(storage.read_bytes("memory://models/vlm/config.json"))
    config["encoder"]["uri"] = "../encoder"  # as it says where the whole tree was copied there
    storage.write_json("memory://models/vlm/config.json", config)
    loaded = Spa3VLM.from_pretrained(copied)
    assert loaded.hash == vlm.hash
    assert loaded.ask(**SCAN, question=QUESTION).text == vlm.ask(**SCAN, question=QUESTION).text


def test_another_encoder_is_refused(copied: Path, tmp_path: Path):
    other = untrained_rgbd(seed=1)
    with pytest.raises(WeightsError) as caught:
        Spa3VLM.from_pretrained(copied, encoder=other)
    recorded = json.loads((copied / "config.json").read_text())["encoder"]["hash"]
    for part in (other.hash, recorded, str(copied), "../encoder", "give that one"):
        assert part in str(caught.value)
    save_untrained(copied.parent / "encoder", seed=1)  # put in its recorded place
    with pytest.raises(WeightsError, match="was tuned with"):
        Spa3VLM.from_pretrained(copied)
    shutil.rmtree(copied.parent / "encoder")
    with pytest.raises(TeacherError, match=r"encoder of .* cannot be had .* give another place"):
        Spa3VLM.from_pretrained(copied)


def test_another_base_is_refused(copied: Path, tmp_path: Path):
    other = build_tiny_base(tmp_path / "other", TEXTS * 3, seed=1)
    with pytest.raises(WeightsError, match="is not the base of this model: its hash is"):
        Spa3VLM.from_pretrained(copied, base=other)


def test_another_tokenizer_is_refused(copied: Path):
    """The same weights with other words would answer gibberish."""
    path = copied / "base" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(WeightsError, match="is not the base of this model"):
        Spa3VLM.from_pretrained(copied)


def test_tensors_that_do_not_fit_are_all_named(copied: Path):
    state = load_file(copied / "fusion.safetensors")
    name = next(iter(sorted(state)))
    wrong = {k: v for k, v in state.items() if k != name} | {"extra.weight": torch.zeros(1)}
    second = sorted(wrong)[1]
    wrong[second] = torch.zeros(3)
    save_file(wrong, copied / "fusion.safetensors")
    with pytest.raises(WeightsError) as caught:
        Spa3VLM.from_pretrained(copied)
    for part in ("missing", name, "unexpected extra.weight", f"{second} has shape (3,)"):
        assert part in str(caught.value)


def test_language_tensors_that_do_not_fit_are_named(copied: Path):
    state = load_file(copied / "language.safetensors")
    name = sorted(state)[0]
    save_file({k: v for k, v in state.items() if k != name}, copied / "language.safetensors")
    with pytest.raises(WeightsError, match=f"missing {name}"):
        Spa3VLM.from_pretrained(copied)
    (copied / "language.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"language\.safetensors is missing"):
        Spa3VLM.from_pretrained(copied)


def test_a_file_of_another_model_is_noticed(copied: Path):
    state = load_file(copied / "fusion.safetensors")
    save_file({k: v + 1 for k, v in state.items()}, copied / "fusion.safetensors")
    with pytest.raises(WeightsError, match=r"config\.json says .* it is of another model"):
        Spa3VLM.from_pretrained(copied)
    (copied / "fusion.safetensors").write_bytes(b"cut")
    with pytest.raises(WeightsError, match="damaged"):
        Spa3VLM.from_pretrained(copied)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "spa3-vlm-9"}, "this version reads 'spa3-vlm-1'"),
        ({"base": {}}, "base lacks hash, kind, uri"),
        ({"base": {"kind": "lost", "uri": "", "hash": ""}}, "base.kind is 'lost'"),
        ({"encoder": {"uri": "x"}}, "encoder lacks hash, version"),
        ({"vlm": {"language": "some"}}, "must be one of"),
        ({"vlm": 5}, "does not describe a Spa3-VLM"),
        ({"weights": {}}, "weights are of"),
        ({"geometry_width": -1}, "geometry_width -1"),
    ],
)
def test_a_config_that_is_none_is_one_line(copied: Path, changes: dict, said: str):
    damage(copied, **changes)
    with pytest.raises(WeightsError, match=said) as caught:
        Spa3VLM.from_pretrained(copied)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_config_is_no_model(tmp_path: Path, folder: Path):
    with pytest.raises(WeightsError, match=r"has no config\.json: it is not a Spa3-VLM"):
        Spa3VLM.from_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="does not describe a Spa3-VLM"):
        Spa3VLM.from_pretrained(folder.parent / "encoder")


def test_what_create_needs(tmp_path: Path):
    base = tiny_base(tmp_path)
    with pytest.raises(ConfigError, match="fusion cross_attention needs an encoder"):
        Spa3VLM.create(tiny_config(), encoder=None, base=base)
    with pytest.raises(ConfigError, match="give the folder that build_tiny_base wrote"):
        Spa3VLM.create(tiny_config(), encoder=untrained_rgbd())
    with pytest.raises(ConfigError, match="device 'cuda:99' cannot be used"):
        Spa3VLM.create(tiny_config(), encoder=untrained_rgbd(), base=base, device="cuda:99")


def test_a_registered_encoder_is_recorded_by_its_version(tmp_path: Path):
    """An alias moves on to the next version; the card must not."""
    encoder = untrained_rgbd()
    encoder.where = "models:/spa3r-encoder@champion"
    vlm = tiny_vlm(encoder=encoder, encoder_version="7", provenance={"recipe": "vlm-debug"})
    vlm.save_pretrained(tmp_path)
    recorded = json.loads((tmp_path / "config.json").read_text())
    assert recorded["encoder"] == {
        "uri": "models:/spa3r-encoder/7", "version": "7", "hash": encoder.hash,
    }  # fmt: skip
    assert "| recipe | `vlm-debug` |" in (tmp_path / "README.md").read_text()
    assert Spa3VLM.from_pretrained(tmp_path, encoder=encoder).hash == vlm.hash


def test_the_same_seed_gives_the_same_model(folder: Path):
    assert tiny_vlm(seed=3).hash == tiny_vlm(seed=3).hash != tiny_vlm(seed=4).hash
