"""`convert` destroys nothing, takes no damaged weights, and keeps terms and places right."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from spa3r.convert.checkpoint import convert
from spa3r.convert.places import check_places, recorded_place
from spa3r.errors import ConfigError, WeightsError
from spa3r.hub import Spa3REncoder
from spa3r.teachers.vggt_teacher import VggtTeacher
from spa3r.train.provenance import provenance_tags
from tests.authors_files import RMS, Authors, lightning_file, small_authors, vlm_folder
from tests.small_vggt import small_vggt

HUB = "facebook/VGGT-1B"


@pytest.fixture(scope="module")
def authors() -> Authors:
    return small_authors()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(x.relative_to(folder)): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


# --- places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "teacher"),
    [
        ("out", "out"),
        ("out", "out/encoder"),
        ("out", "out/adapter"),
        ("out", "./other/../out/"),
        ("out", "link"),
        ("out", "src"),
        ("src", None),
        ("src/../src", None),
        ("link-src", None),
    ],
)
def test_two_things_in_one_folder_are_refused_before_any_work(
    out: str, teacher: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("src").mkdir()
    Path("src/model.safetensors").write_bytes(b"not even opened")
    Path("link-src").symlink_to("src")
    Path("link").symlink_to("out")
    before = tree(tmp_path)
    for source in ("src", "src/model.safetensors", str(tmp_path / "src")):
        with pytest.raises(ConfigError, match="overwrit") as caught:
            convert(source, out, teacher_out=teacher)
        assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


def test_a_source_inside_the_output_is_refused(tmp_path: Path):
    for name in ("encoder", "adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.ckpt").write_bytes(b"")
        with pytest.raises(ConfigError, match="folder of the source"):
            check_places(tmp_path / name / "x.ckpt", tmp_path, None)


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors", "a.txt", "src/"])
def test_a_folder_of_somebody_else_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """`-o .` in a checkout would replace its README.md."""
    place = tmp_path / "mine"
    place.mkdir()
    if name.endswith("/"):
        (place / name).mkdir()
    else:
        (place / name).write_text("{}")
    monkeypatch.chdir(place)
    before = tree(tmp_path)
    for out, teacher in ((".", None), (tmp_path / "new", "."), (str(place), tmp_path / "vggt")):
        with pytest.raises(ConfigError, match="choose another or an empty folder") as caught:
            convert("nobody/nothing", out, teacher_out=teacher)
        assert name.rstrip("/") in str(caught.value)
    assert tree(tmp_path) == before and not (tmp_path / "new").exists()


def test_an_earlier_conversion_may_be_replaced_but_no_trained_encoder(
    authors: Authors, tmp_path: Path
):
    source = vlm_folder(tmp_path / "vlm", authors, torch.float32)
    out, vggt = tmp_path / "out", tmp_path / "out/vggt"
    convert(source, out, teacher_out=vggt, vggt=RMS)
    first = tree(out)
    convert(source, out, teacher_out=vggt, vggt=RMS)
    assert tree(out) == first
    config = out / "encoder/config.json"
    values = json.loads(config.read_text())
    del values["provenance"]["converted_from"]  # as training writes it
    config.write_text(json.dumps(values))
    for place, teacher in ((out, vggt), (out / "encoder", None), (tmp_path / "b", out / "encoder")):
        with pytest.raises(ConfigError, match="not of an earlier conversion"):
            convert(source, place, teacher_out=teacher, vggt=RMS)


def test_no_place_of_this_machine_is_recorded(authors: Authors, tmp_path: Path):
    trees = []
    for name in ("one", "two/deep"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        source = vlm_folder(folder / "vlm", authors, torch.float32)
        done = convert(source, folder / "out", teacher_out=folder / "vggt", vggt=RMS)
        assert done.teacher["uri"] == "../../vggt" and str(folder / "vggt") in done.line
        trees.append(tree(folder))
        assert not any(str(tmp_path).encode() in content for content in trees[-1].values())
    assert trees[0] == trees[1]
    # Encoder and teacher are moved together, and used from any folder.
    shutil.move(tmp_path / "one", tmp_path / "moved")
    assert Spa3REncoder.from_pretrained(tmp_path / "moved/out/encoder").teacher.hash


def test_places_as_they_are_recorded(tmp_path: Path):
    def place(encoder: str, teacher: str) -> str:
        return recorded_place(str(tmp_path / encoder), tmp_path / teacher, otherwise=HUB)

    assert place("out", "vggt") == "../vggt"
    assert place("out", "out/vggt") == "./vggt"
    assert place("out", "a/b/vggt") == "../a/b/vggt"
    assert place("out/encoder", "out/vggt") == "../vggt"
    assert place("a/out", "vggt") == HUB
    assert recorded_place("out", "memory://x/vggt", otherwise=HUB) == "memory://x/vggt"
    assert recorded_place("memory://x/out", tmp_path / "vggt", otherwise=HUB) == HUB


# --- terms ----------------------------------------------------------------------------------------


def test_written_vggt_keeps_its_terms(authors: Authors, tmp_path: Path):
    source = lightning_file(tmp_path, authors.state("model."))
    done = convert(source, tmp_path / "out", teacher_out=tmp_path / "vggt", vggt=RMS)
    assert done.teacher["licence"] == "vggt-1b-non-commercial"
    tags = provenance_tags(tmp_path / "out")
    assert tags["licence_geometric"] == "vggt-1b-non-commercial"
    assert "vggt-1b-non-commercial" in tags["licences"].split(",")
    readme = (tmp_path / "out/README.md").read_text()
    assert "| geometric | vggt | [vggt-1b-non-commercial](" in readme
    front = readme.split("---")[1]
    assert "vggt-1b-non-commercial" in front and "-and-vggt-and-" not in front


def test_a_teacher_from_the_hub_records_its_terms():
    terms = {HUB: "vggt-1b-non-commercial", f"{HUB}-Commercial": "vggt-1b-commercial", "x": None}
    for uri, licence in terms.items():
        assert VggtTeacher(small_vggt(), uri=uri).reference().get("licence") == licence


# --- tensors --------------------------------------------------------------------------------------


def test_tensors_that_are_no_weights_are_named(authors: Authors, tmp_path: Path):
    state = authors.state("model.")
    changes = {
        "model.projection.weight": ("holds int64", lambda x: x.long()),
        "model.encoder.norm.weight": ("holds complex64", lambda x: x.to(torch.complex64)),
        "model.heads.sem.fc2.weight": ("is sparse (sparse_coo)", lambda x: x.to_sparse()),
        "model.decoder.norm.weight": ("is not finite", lambda x: x / 0),
        "model.camera_head.token_norm.weight": ("is not finite", lambda x: x * torch.nan),
        "model.dino.norm.bias": ("holds bool", lambda x: x.bool()),
    }
    for name, (_, change) in changes.items():
        state[name] = change(state[name])
    masks = [name for name in state if name.endswith("bias_mask")]
    state |= {name: state[name] * torch.nan for name in masks}  # as Meta's own code starts
    with pytest.raises(WeightsError) as caught:
        convert(lightning_file(tmp_path, state), tmp_path / "out", vggt=RMS)
    said = str(caught.value)
    assert f"{len(changes)} tensors that are no weights" in said and "\n" not in said
    for name, (why, _) in changes.items():
        assert f"{name} {why}" in said
    assert not (tmp_path / "out").exists()


def test_names_of_a_compiled_module(
    authors: Authors, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    plain = authors.state("model.")
    state = {
        name.replace("model.", "_orig_mod.model.", 1).replace(".encoder.", ".encoder._orig_mod.")
        : x for name, x in plain.items()
    }  # fmt: skip
    assert all("_orig_mod." in name for name in state)
    with caplog.at_level(logging.INFO):
        done = convert(lightning_file(tmp_path, state), tmp_path / "out", vggt=RMS)
    assert sum(f"out of {len(plain)} names" in r.getMessage() for r in caplog.records) == 1
    encoder = Spa3REncoder.from_pretrained(done.encoder)
    for name, x in authors.student.state_dict().items():
        assert torch.equal(encoder.model.state_dict()[name], x), name
    with pytest.raises(WeightsError, match="with and without _orig_mod"):
        convert(lightning_file(tmp_path, state | plain), tmp_path / "out", vggt=RMS)
