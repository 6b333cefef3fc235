"""`spa3r convert` at small size, with numbers: there, used, and back."""

import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spa3r import convert_commands
from spa3r.convert.checkpoint import Converted, convert
from spa3r.errors import ConfigError, TeacherError, WeightsError
from spa3r.hub import Spa3REncoder
from spa3r.teachers.checkpoints import load_strict
from spa3r.teachers.dinov3 import DinoV3Teacher
from spa3r.teachers.vggt import Vggt, load_vggt, save_vggt
from spa3r.teachers.vggt_teacher import VggtTeacher
from tests.authors_files import (
    HEAD,
    HIDDEN,
    RMS,
    STUDENT,
    Authors,
    adapter,
    lightning_file,
    small_authors,
    vlm_folder,
)
from tests.commands import parser_of
from tests.scan_arrays import scan_arrays
from tests.small_vggt import SMALL


@pytest.fixture(scope="module")
def authors() -> Authors:
    return small_authors()


def same(ours: nn.Module, theirs: nn.Module) -> None:
    """Every tensor bit for bit."""
    one, other = ours.state_dict(), theirs.state_dict()
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


# --- the Lightning checkpoint ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def converted(authors: Authors, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("lightning")
    source = lightning_file(folder, authors.state("model."))
    return convert(source, folder / "out", teacher_out=folder / "vggt", vggt=RMS)


def test_the_student_comes_out_bit_for_bit_and_alone(authors: Authors, converted: Converted):
    encoder = Spa3REncoder.from_pretrained(converted.encoder)
    assert encoder.card.model == STUDENT
    same(encoder.model, authors.student)
    assert converted.encoder_hash == encoder.hash
    stored = load_file(Path(converted.encoder) / "model.safetensors")
    assert stored.keys() == authors.student.state_dict().keys()
    names = {path.name for path in Path(converted.encoder).iterdir()}
    assert names == {"model.safetensors", "config.json", "README.md"}


def test_the_card_says_what_the_release_was(authors: Authors, converted: Converted):
    card = Spa3REncoder.from_pretrained(converted.encoder).card
    spec = card.teacher
    assert (spec.geometric, spec.qk_norm, spec.passes) == ("vggt", "rms", "two_pass")
    assert (spec.semantic, spec.width, spec.semantic_width) == ("dinov3", 64, 32)
    assert (card.image_width, card.image_multiple) == (518, 14)
    assert card.provenance["steps"] == 12_345 and card.provenance["recipe"] == "release"
    assert card.provenance["converted_from"] == "last.ckpt"
    semantic = DinoV3Teacher(authors.dino, uri="facebook/dinov3-vitl16-pretrain-lvd1689m")
    assert card.references["semantic"] == semantic.reference()
    assert "rms" in converted.line and card.references["geometric"]["hash"] in converted.line


def test_the_hash_is_the_one_of_vggt_from_the_hub_in_the_rms_variant(
    authors: Authors, converted: Converted, tmp_path: Path
):
    # The hub's file has LayerNorm biases, which the variant drops; its weights are the same.
    generator = torch.Generator().manual_seed(1)
    hub = {**authors.vggt.state_dict()}
    for i in range(SMALL.aggregator.depth):
        for norm in ("q_norm", "k_norm"):
            weight = hub[f"aggregator.global_blocks.{i}.attn.{norm}.weight"]
            bias = torch.randn(weight.shape, generator=generator)
            hub[f"aggregator.global_blocks.{i}.attn.{norm}.bias"] = bias
    save_file(hub, tmp_path / "model.safetensors")
    hashes = {
        qk_norm: VggtTeacher(
            load_vggt(tmp_path, config=SMALL, qk_norm=qk_norm), uri="hub", passes="two_pass"
        ).hash
        for qk_norm in ("rms", "layernorm")
    }
    assert converted.teacher["hash"] == hashes["rms"] != hashes["layernorm"]
    # With its biases in place the teacher is the true VGGT, and recorded as that.
    state = authors.state("model.") | {f"model.{name}": x for name, x in hub.items()}
    again = convert(lightning_file(tmp_path, state), tmp_path / "out", vggt=SMALL)
    assert again.teacher["hash"] == hashes["layernorm"] and "layernorm" in again.line
    assert Spa3REncoder.from_pretrained(again.encoder).card.teacher.qk_norm == "layernorm"


def test_it_encodes_as_the_original_did(authors: Authors, converted: Converted, tmp_path: Path):
    images = scan_arrays(views=3)["images"]
    loaded = Spa3REncoder.from_pretrained(converted.encoder)
    small = replace(loaded.card, image_width=112)  # for speed alone
    save_vggt(tmp_path / "original", authors.vggt)
    save_vggt(tmp_path / "other", Vggt(RMS))
    ours = Spa3REncoder(loaded.model, small, where=converted.encoder).encode(images)
    theirs = Spa3REncoder(authors.student, small, teacher=tmp_path / "original").encode(images)
    assert torch.isfinite(ours.latents_LD).all() and ours.latents_LD.std() > 0
    assert torch.equal(ours.latents_LD, theirs.latents_LD)
    with pytest.raises(TeacherError, match="is not the teacher of this encoder"):
        Spa3REncoder(loaded.model, small, teacher=tmp_path / "other").encode(images)


def test_and_back(authors: Authors, converted: Converted):
    """From what was written, the authors' state dict again (of DINOv3 only the hash was)."""
    encoder = Spa3REncoder.from_pretrained(converted.encoder)
    vggt = load_vggt(str(converted.teacher_folder), qk_norm="rms")
    back = Authors(encoder.model, vggt, authors.dino).state("model.")
    forth = authors.state("model.")
    assert back.keys() == forth.keys()
    assert all(torch.equal(back[name], forth[name]) for name in forth)


def test_the_same_input_gives_the_same_bytes(authors: Authors, converted: Converted, tmp_path):
    source = lightning_file(tmp_path, authors.state("model."))
    files = sorted(Path(str(converted.teacher_folder)).iterdir())
    first = [path.read_bytes() for path in files]
    again = convert(source, tmp_path / "out", teacher_out=tmp_path / "vggt", vggt=RMS)
    for path in Path(converted.encoder).iterdir():
        assert path.read_bytes() == (Path(again.encoder) / path.name).read_bytes(), path.name
    assert first == [(tmp_path / "vggt" / p.name).read_bytes() for p in files]
    assert again.encoder_hash == converted.encoder_hash


def test_a_state_dict_without_prefix_and_without_steps(authors: Authors, tmp_path: Path):
    save_file(authors.state(""), tmp_path / "spa3r.safetensors")
    torch.save(authors.state(""), tmp_path / "spa3r.pt")
    for name in ("spa3r.safetensors", "spa3r.pt"):
        bare = convert(tmp_path / name, tmp_path / "out", vggt=RMS)
        encoder = Spa3REncoder.from_pretrained(bare.encoder)
        same(encoder.model, authors.student)
        assert bare.kind == "spa3r" and encoder.card.provenance["steps"] == "unknown"
        assert bare.teacher["uri"] == "facebook/VGGT-1B"


# --- Spa3-VLM -------------------------------------------------------------------------------------


def test_a_vlm_gives_an_encoder_and_an_adapter(authors: Authors, tmp_path: Path):
    source = vlm_folder(tmp_path / "Spa3-VLM", authors, torch.float32)
    done = convert(source, tmp_path / "out", vggt=RMS)
    encoder = Spa3REncoder.from_pretrained(tmp_path / "out/encoder")
    same(encoder.model, authors.student)
    stored = load_file(tmp_path / "out/adapter/model.safetensors")
    wanted = adapter()
    assert stored.keys() == wanted.keys()
    assert all(torch.equal(stored[name], wanted[name]) for name in wanted)
    assert json.loads((tmp_path / "out/adapter/config.json").read_text()) == {
        "format": "spa3r-adapter-1",
        "hidden_width": HIDDEN,
        "head_width": HEAD,
        "num_heads": 4,
        "latent_width": STUDENT.width,
        "bottleneck_width": HIDDEN // 4,
        "encoder_hash": encoder.hash,
        "base_model": "Spa3-VLM",
    }
    assert done.num_base == 4 and "4 tensors of the language model" in done.line


def test_half_precision_is_said_once_and_cured_by_writing_the_teacher(
    authors: Authors, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    source = vlm_folder(tmp_path / "vlm", authors, torch.bfloat16)
    with caplog.at_level(logging.WARNING):
        without = convert(source, tmp_path / "a", vggt=RMS)
        (warning,) = [r.getMessage() for r in caplog.records if "--teacher" in r.getMessage()]
        assert "bfloat16" in warning and "\n" not in warning
        caplog.clear()
        written = convert(source, tmp_path / "b", teacher_out=tmp_path / "vggt", vggt=RMS)
        assert not caplog.records
    rounded = Vggt(RMS)
    load_strict(rounded, {k: v.bfloat16().float() for k, v in authors.vggt.state_dict().items()})
    expected = VggtTeacher(rounded, uri="x", passes="two_pass").hash
    assert written.teacher["hash"] == without.teacher["hash"] == expected
    assert expected != VggtTeacher(authors.vggt, uri="x", passes="two_pass").hash
    encoder = Spa3REncoder.from_pretrained(written.encoder)
    assert encoder.teacher.hash == expected
    for name, x in authors.student.state_dict().items():
        assert torch.equal(encoder.model.state_dict()[name], x.bfloat16().float())
    assert load_file(tmp_path / "b/adapter/model.safetensors")["ln.weight"].dtype == torch.bfloat16


# --- refusals -------------------------------------------------------------------------------------


def drop(name: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(name)


def put(name: str, *shape: int) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.update({name: torch.zeros(shape)})


def test_all_misfits_of_all_groups_are_named_and_nothing_is_written(
    authors: Authors, tmp_path: Path
):
    changes = {
        "missing model.projection.weight": drop("model.projection.weight"),
        "missing model.heads.sem.fc2.bias": drop("model.heads.sem.fc2.bias"),
        "missing model.point_head.norm.bias": drop("model.point_head.norm.bias"),
        "missing model.dino.norm.bias": drop("model.dino.norm.bias"),
        "unexpected model.encoder.extra": put("model.encoder.extra", 1),
        "unexpected model.aggregator.extra": put("model.aggregator.extra", 1),
        "unexpected model.dino.extra": put("model.dino.extra", 1),
        "unexpected model.track_head.norm.weight": put("model.track_head.norm.weight", 1),
        "unexpected loss.weight": put("loss.weight", 1),
        "model.decoder.norm.weight has shape (47,)": put("model.decoder.norm.weight", 47),
        "model.aggregator.camera_token has shape (2,)": put("model.aggregator.camera_token", 2),
        "model.dino.cls_token has shape (1, 1, 9)": put("model.dino.cls_token", 1, 1, 9),
    }
    state = authors.state("model.")
    for change in changes.values():
        change(state)
    with pytest.raises(WeightsError) as caught:
        convert(lightning_file(tmp_path, state), tmp_path / "out", vggt=RMS,
                teacher_out=tmp_path / "vggt")  # fmt: skip
    text = str(caught.value)
    assert f"{len(changes)} misfits" in text and "\n" not in text and "last.ckpt" in text
    for said in changes:
        assert said in text, f"{said!r} not in {text}"
    assert not (tmp_path / "out").exists() and not (tmp_path / "vggt").exists()


@pytest.mark.parametrize("which", ["out", "teacher_out"])
def test_folders_that_cannot_be_written_are_said_before_the_source_is_read(
    which: str, tmp_path: Path
):
    (tmp_path / "file").write_bytes(b"")
    places: dict[str, Any] = {"out": tmp_path / "out", "teacher_out": tmp_path / "vggt"}
    for place in (tmp_path / "file", Path("/proc/x")):
        with pytest.raises(ConfigError, match=f"{place}: cannot be written") as caught:
            places[which] = place
            convert("no such source", **places)
        assert "\n" not in str(caught.value)


def test_a_teacher_that_fills_the_disk_is_one_line(
    authors: Authors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spa3r.convert.checkpoint.save_vggt", full)
    source = lightning_file(tmp_path, authors.state("model."))
    with pytest.raises(ConfigError, match=r"vggt: cannot be written \(No space left on device\);"):
        convert(source, tmp_path / "out", vggt=RMS, teacher_out=tmp_path / "vggt")


def test_a_network_of_another_width_is_named_in_a_readable_line(authors: Authors, tmp_path: Path):
    state = authors.state("model.")
    blocks = [name for name in state if ".global_blocks." in name]
    state |= {name: torch.zeros(3, 7) for name in blocks}
    with pytest.raises(WeightsError) as caught:
        convert(lightning_file(tmp_path, state), tmp_path / "out", vggt=RMS)
    said = str(caught.value)
    assert f"{len(blocks)} misfits" in said and len(blocks) > 40
    assert "model.aggregator.global_blocks.{0..3}.attn.qkv.weight has shape (3, 7)" in said
    assert said.count("global_blocks") <= len(blocks) / 4


def test_a_student_without_its_teachers_is_refused(authors: Authors, tmp_path: Path):
    save_file(authors.student.state_dict(), tmp_path / "student.safetensors")
    with pytest.raises(WeightsError) as caught:
        convert(tmp_path / "student.safetensors", tmp_path / "out", vggt=RMS)
    assert "missing aggregator.* (all" in str(caught.value)
    assert "missing dino.blocks.* (all" in str(caught.value)


def test_another_checkpoint_is_refused_by_its_groups(tmp_path: Path):
    save_file({"transformer.h.0.weight": torch.ones(2)}, tmp_path / "gpt.safetensors")
    with pytest.raises(WeightsError, match=r"no Spa3R inside \(groups of names: transformer\)"):
        convert(tmp_path / "gpt.safetensors", tmp_path / "out")
    with pytest.raises(TeacherError, match="no such file"):
        convert(tmp_path / "nowhere.ckpt", tmp_path / "out")


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (exec, (f"open({str(self.path)!r}, 'w').close()", ""))


def test_code_in_a_pickle_is_refused_and_never_run(authors: Authors, tmp_path: Path):
    mark = tmp_path / "ran"
    torch.save(
        {"state_dict": authors.state("model."), "hyper_parameters": Bomb(mark)},
        tmp_path / "bomb.ckpt",
    )
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps({"state_dict": Bomb(mark)}))
    for name in ("bomb.ckpt", "plain.ckpt"):
        with pytest.raises(WeightsError) as caught:
            convert(tmp_path / name, tmp_path / "out", vggt=RMS)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    assert not mark.exists() and not (tmp_path / "out").exists()


# --- the command ----------------------------------------------------------------------------------


def test_the_command_passes_its_arguments_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    parser = parser_of(convert_commands.register)
    asked = []

    def fake(*args: object, **kwargs: object) -> Converted:
        asked.append((args, kwargs))
        return Converted(
            kind="vlm", encoder="o/encoder", encoder_hash="e", adapter="o/adapter", num_base=825,
            teacher={"kind": "vggt", "uri": "t", "hash": "h", "variant": "rms/two_pass/teacher"},
            teacher_folder="t",
        )  # fmt: skip

    monkeypatch.setattr("spa3r.convert.checkpoint.convert", fake)
    arguments = parser.parse_args(["convert", "x.ckpt", "-o", "o", "--teacher", "t"])
    arguments.run(arguments)
    assert asked == [(("x.ckpt", "o"), {"teacher_out": "t"})]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and all(x in said for x in ("o/adapter", "825", "rms", "t"))
