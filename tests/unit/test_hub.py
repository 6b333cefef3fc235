"""Save and load from anywhere, devices, dtypes; every way in which a teacher can be the wrong one.

What encoding promises is in test_encode.py.
"""

import json
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spa3r.camera import context_camera
from spa3r.config import TeacherSpec
from spa3r.device import chosen_precision
from spa3r.errors import ConfigError, ImageError, TeacherError, WeightsError
from spa3r.hub import PHOTOS_NEED_VGGT, EncoderCard, Spa3REncoder
from spa3r.latent import SceneLatent
from spa3r.models.spa3r import Spa3RModel
from spa3r.teachers.build import build_geometric
from tests.box_rooms import box_recipe
from tests.scan_arrays import scan_arrays
from tests.untrained import save_untrained

RECIPE = box_recipe()


@pytest.fixture
def encoder() -> Spa3REncoder:
    torch.manual_seed(3)
    card = EncoderCard(
        model=RECIPE.model,
        teacher=RECIPE.teacher,
        references={"geometric": build_geometric(RECIPE.teacher).reference()},
        image_width=224,
        image_multiple=28,
        provenance={"recipe": "boxes", "steps": 1, "data_hash": "d", "target_hash": "t"},
    )
    return Spa3REncoder(Spa3RModel(RECIPE.model), card)


def test_saved_and_loaded_it_gives_the_same_latents(encoder: Spa3REncoder, tmp_path: Path):
    encoder.save_pretrained(tmp_path / "a")
    loaded = Spa3REncoder.from_pretrained(tmp_path / "a")
    assert loaded.card == encoder.card and loaded.hash == encoder.hash
    ours, theirs = encoder.encode(**scan_arrays()), loaded.encode(**scan_arrays())
    assert torch.equal(ours.latents_LD, theirs.latents_LD)
    loaded.save_pretrained(tmp_path / "b")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert encoder.card.references["geometric"]["hash"] in (tmp_path / "a/README.md").read_text()


def test_a_scene_is_a_small_file_and_answers_queries(encoder: Spa3REncoder, tmp_path: Path):
    scene = encoder.encode(**scan_arrays(views=5))
    scene.save(tmp_path / "scene.safetensors")
    again = SceneLatent.load(tmp_path / "scene.safetensors")
    assert torch.equal(again.latents_LD, scene.latents_LD)
    assert again.provenance == scene.provenance and again.grid_hw == (6, 8)
    assert scene.latents_LD.shape == (RECIPE.model.num_latents, RECIPE.model.width)
    assert scene.latents_LD.dtype == torch.float16
    again.save(tmp_path / "twice.safetensors")
    assert (tmp_path / "twice.safetensors").read_bytes() == (
        tmp_path / "scene.safetensors"
    ).read_bytes()
    field = encoder.query(again, [context_camera(again, view) for view in (0, 1)])
    assert field.geometric is not None and field.geometric.shape == (2, 6, 8, 64)
    assert "5 views of 6 x 8 patches" in scene.summary()


def test_world_is_view_0_and_depth_may_be_metres_of_another_resolution(encoder: Spa3REncoder):
    arrays = scan_arrays()
    scene = encoder.encode(**arrays)
    assert torch.equal(scene.camera_from_world_C44[0], torch.eye(4))
    moved = arrays | {"world_from_camera": np.eye(4)[[1, 2, 0, 3]] @ arrays["world_from_camera"]}
    metres = moved | {"depth": arrays["depth"][:, ::2, ::2].astype(np.float32) / 1000}
    same = encoder.encode(**metres)
    torch.testing.assert_close(same.latents_LD, scene.latents_LD, atol=2e-2, rtol=0)
    assert same.metres_per_unit == pytest.approx(scene.metres_per_unit, rel=1e-3)
    double = encoder.encode(**scan_arrays(width=448, height=336))
    assert double.grid_hw == scene.grid_hw
    torch.testing.assert_close(double.K_C33, scene.K_C33)


def test_photos_without_depth_are_refused_in_these_words(encoder: Spa3REncoder):
    with pytest.raises(TeacherError) as caught:
        encoder.encode(scan_arrays()["images"])
    assert str(caught.value) == PHOTOS_NEED_VGGT


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", np.zeros((4, 168, 224), np.uint8)),
        ("images", np.zeros((4, 168, 224, 3), np.float32)),
        ("depth", np.zeros((3, 168, 224), np.uint16)),
        ("depth", np.zeros((4, 168, 224), np.int64)),
        ("K", np.eye(3)),
    ],
)
def test_arrays_of_the_wrong_kind_are_named(encoder: Spa3REncoder, name: str, value: np.ndarray):
    with pytest.raises(ImageError, match=f"{name} must be"):
        encoder.encode(**scan_arrays() | {name: value})


def test_another_teacher_is_refused_and_all_three_places_are_named(
    encoder: Spa3REncoder, monkeypatch: pytest.MonkeyPatch
):
    card = encoder.card
    other = replace(card, references={
        "geometric": card.references["geometric"] | {"hash": "0123456789abcdef"}
    })  # fmt: skip
    monkeypatch.setenv("SPA3R_TEACHER", "/from/environment")
    wrong = Spa3REncoder(encoder.model, other, teacher="/from/argument")
    with pytest.raises(TeacherError) as caught:
        wrong.encode(**scan_arrays())
    for part in ("/from/argument", "SPA3R_TEACHER='/from/environment'", "'builtin'", "0123456789"):
        assert part in str(caught.value)


def test_a_missing_teacher_names_all_three_places(
    encoder: Spa3REncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPA3R_TEACHER", str(tmp_path / "nowhere.safetensors"))
    reference = {"kind": "vggt", "uri": "facebook/VGGT-1B", "hash": "x", "variant": "layernorm"}
    card = replace(encoder.card, teacher=TeacherSpec(), references={"geometric": reference})
    photographer = Spa3REncoder(encoder.model, card)
    with pytest.raises(TeacherError) as caught:
        photographer.encode(scan_arrays()["images"])
    for part in ("teacher=None", "nowhere.safetensors", "recorded place 'facebook/VGGT-1B'"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tensors_that_do_not_fit_are_all_named(encoder: Spa3REncoder, tmp_path: Path):
    encoder.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["extra.weight"] = torch.zeros(1)
    state["projection.bias"] = torch.zeros(3)
    del state["query_embed.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        Spa3REncoder.from_pretrained(tmp_path)
    for name in ("extra.weight", "projection.bias", "query_embed.weight"):
        assert name in str(caught.value)


def test_a_folder_that_is_no_encoder_says_so(encoder: Spa3REncoder, tmp_path: Path):
    encoder.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for broken in ({}, config | {"format": "other"}, config | {"model": {"width": "wide"}}):
        (tmp_path / "config.json").write_text(json.dumps(broken))
        with pytest.raises(WeightsError, match="does not describe a Spa3R encoder"):
            Spa3REncoder.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"no config\.json"):
        Spa3REncoder.from_pretrained(tmp_path)


# --- places, devices, dtypes ----------------------------------------------------------------------


def test_it_knows_where_it_came_from(encoder: Spa3REncoder, tmp_path: Path):
    assert encoder.where == "memory"
    assert Spa3REncoder.from_pretrained(encoder.save_pretrained(tmp_path)).where == str(tmp_path)
    copied = encoder.save_pretrained("memory://encoders/boxes")
    assert Spa3REncoder.from_pretrained(copied).hash == encoder.hash


def test_a_folder_never_touches_the_network(
    encoder: Spa3REncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    monkeypatch.chdir(tmp_path)  # "lab/boxes" looks like a hub id too
    encoder.save_pretrained("lab/boxes")
    assert Spa3REncoder.from_pretrained("lab/boxes").hash == encoder.hash


def test_a_hub_id_is_read_from_the_cache_while_offline(
    encoder: Spa3REncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The hub's own cache layout; conftest sets HF_HUB_OFFLINE."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "models--lab--boxes"
    encoder.save_pretrained(repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    loaded = Spa3REncoder.from_pretrained("lab/boxes")
    assert (loaded.hash, loaded.where) == (encoder.hash, "lab/boxes")
    with pytest.raises(TeacherError, match=r"lab/absent: .*HF_HUB_OFFLINE"):
        Spa3REncoder.from_pretrained("lab/absent")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "", None])
def test_a_device_that_is_not_there_is_named(device: str, encoder: Spa3REncoder, tmp_path: Path):
    encoder.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used .*choose 'cpu'") as e:
        Spa3REncoder.from_pretrained(tmp_path, device=device)
    assert "\n" not in str(e.value)
    with pytest.raises(ConfigError, match="cannot be used"):
        encoder.to(device)
    assert encoder.device.type == "cpu"


def test_dtypes(encoder: Spa3REncoder, tmp_path: Path):
    encoder.save_pretrained(tmp_path)
    wanted = {"auto": "float32", "float32": "float32", "bfloat16": "bfloat16"}
    for dtype, precision in wanted.items():
        loaded = Spa3REncoder.from_pretrained(tmp_path, dtype=dtype)  # type: ignore[arg-type]
        assert loaded.precision == precision
        assert {x.dtype for x in loaded.model.parameters()} == {torch.float32}
    with pytest.raises(ConfigError, match="dtype 'float16' is unknown; choose one of float32"):
        Spa3REncoder.from_pretrained(tmp_path, dtype="float16")  # type: ignore[arg-type]


def test_auto_is_bfloat16_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch):
    gpu = torch.device("cuda")
    for has, auto in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has=has, **_: has)
        assert chosen_precision("auto", gpu) == auto
        assert chosen_precision("float32", gpu) == "float32"
    with pytest.raises(ConfigError, match="no bfloat16; choose dtype='float32'"):
        chosen_precision("bfloat16", gpu)


def test_moving_keeps_the_answer_and_looks_for_the_teacher_anew(encoder: Spa3REncoder):
    scene, teacher = encoder.encode(**scan_arrays()), encoder.teacher
    moved = encoder.to("cpu")
    assert moved is encoder and encoder.teacher is not teacher
    assert torch.equal(encoder.encode(**scan_arrays()).latents_LD, scene.latents_LD)


def test_a_scene_of_another_encoder_is_refused(encoder: Spa3REncoder, tmp_path: Path):
    encoder.encode(**scan_arrays()).save(tmp_path / "scene.safetensors")
    other = Spa3REncoder(Spa3RModel(RECIPE.model), encoder.card, where="elsewhere")
    with pytest.raises(WeightsError) as caught:
        other.load_scene(tmp_path / "scene.safetensors")
    for part in (encoder.hash, other.hash, "elsewhere", "encode the views again"):
        assert part in str(caught.value)
    with pytest.raises(WeightsError, match="made by encoder"):
        other.query(SceneLatent.load(tmp_path / "scene.safetensors"), 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"references": {}}, "geometric"),
        ({"references": {"geometric": {"kind": "rgbd"}}}, "lacks hash, uri, variant"),
        ({"image_multiple": 0}, "in multiples of 0"),
        ({"image_width": -5}, "width -5"),
        ({"provenance": {"settings": 5}}, "settings is not a table"),
        ({"image_width": float("inf")}, "OverflowError"),
    ],
)
def test_an_encoders_config_is_checked_before_use(change: dict, said: str, tmp_path: Path):
    save_untrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(WeightsError, match=said):
        Spa3REncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("change", [{"width": 8 * 10**8}, {"encoder_layers": 10**6}])
def test_an_absurd_size_is_refused_before_anything_is_allocated(change: dict, tmp_path: Path):
    save_untrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="too large to be meant"):
        Spa3REncoder.from_pretrained(tmp_path)
