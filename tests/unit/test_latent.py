"""Scene files: there and back, and every file that is none."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spa3r.errors import FormatError, SceneError, WeightsError
from spa3r.latent import FORMAT, SceneLatent
from tests.scene_maker import box_scene, untrained

SCENE = replace(
    box_scene(views=3),
    metres_per_unit=1.25,
    names=("a.jpg", "b.jpg", "Küche 3.jpg"),
    source_sizes=((640, 480), (320, 240), (640, 481)),
)


def assert_same(found: SceneLatent, expected: SceneLatent) -> None:
    for field in fields(SceneLatent):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(theirs, torch.Tensor):
            assert torch.equal(ours, theirs) and ours.dtype == theirs.dtype, field.name
        elif field.name == "surface" and theirs is not None:
            for part in fields(theirs):
                assert torch.equal(getattr(ours, part.name), getattr(theirs, part.name))
        elif field.name != "encoder":
            assert ours == theirs, field.name


@pytest.mark.parametrize("scene", [SCENE, replace(SCENE, surface=None, names=(), source_sizes=())])
def test_a_file_holds_all_of_a_scene_in_the_same_bytes(scene: SceneLatent, tmp_path: Path):
    scene.save(tmp_path / "a.safetensors")
    again = SceneLatent.load(tmp_path / "a.safetensors")
    assert_same(again, scene)
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def rewritten(path: Path, **about: Any) -> None:
    """The file with entries of its description replaced."""
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    old = json.loads(header["__metadata__"]["spa3r"])
    save_file(load_file(path), path, metadata={"spa3r": json.dumps(old | about)})


@pytest.mark.parametrize(
    ("version", "cure"),
    [("spa3r-scene-1", "earlier version .* encode its views again"),
     ("spa3r-scene-3", f"reads {FORMAT}; upgrade this package")],
)  # fmt: skip
def test_a_file_of_another_version_says_what_to_do(version: str, cure: str, tmp_path: Path):
    SCENE.save(tmp_path / "a.safetensors")
    rewritten(tmp_path / "a.safetensors", format=version)
    with pytest.raises(FormatError, match=cure) as caught:
        SceneLatent.load(tmp_path / "a.safetensors")
    assert "a.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_as_version_1_wrote_it_says_what_to_do(tmp_path: Path):
    tensors = {"latents": SCENE.latents_LD, "camera_from_world": SCENE.camera_from_world_C44,
               "K": SCENE.K_C33, "grid_hw": torch.tensor(SCENE.grid_hw, dtype=torch.int32),
               "metres_per_unit": torch.tensor(1.0)}  # fmt: skip
    about = json.dumps({"format": "spa3r-scene-1", "provenance": {}}, sort_keys=True)
    save_file(tensors, tmp_path / "old.safetensors", metadata={"spa3r": about})
    with pytest.raises(FormatError, match="encode its views again with `spa3r encode`"):
        SceneLatent.load(tmp_path / "old.safetensors")


def test_scenes_and_surfaces_are_compared_as_things():
    """Tensors have no truth value: comparing field by field would raise."""
    other, same = replace(SCENE), SCENE
    assert same == SCENE and other != SCENE and SCENE in [other, SCENE]
    assert len({SCENE, other, same}) == 2
    assert SCENE.surface is not None and SCENE.surface != replace(SCENE.surface)


def test_a_missing_file_is_no_traceback(tmp_path: Path):
    with pytest.raises(SceneError, match=r"no such file; `spa3r encode VIEWS -o .*no\.safetensors"):
        SceneLatent.load(tmp_path / "no.safetensors")


@pytest.mark.parametrize(
    "about",
    [{"names": ["a"]}, {"grid_hw": [0, 4]}, {"grid_hw": 3}, {"patch_size": "wide"},
     {"source_sizes": [[1, 2]]}, {"provenance": 3}],
)  # fmt: skip
def test_a_description_that_does_not_fit_is_refused(about: dict[str, Any], tmp_path: Path):
    SCENE.save(tmp_path / "a.safetensors")
    rewritten(tmp_path / "a.safetensors", **about)
    with pytest.raises(FormatError, match="not a scene latent"):
        SceneLatent.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("latents", torch.zeros(3)), ("latents", torch.zeros(8, 32, dtype=torch.int8)),
     ("K", torch.zeros(2, 3, 3)), ("camera_from_world", torch.zeros(3, 3, 4)),
     ("surface.rgb", torch.zeros(3, 2, 2, dtype=torch.uint8)), ("metres_per_unit", torch.ones(2)),
     ("surface.depth", torch.zeros(2, 24, 32)), ("surface.confidence", None)],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(name: str, tensor: Any, tmp_path: Path):
    path = tmp_path / "a.safetensors"
    SCENE.save(path)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors = load_file(path)
    tensors.pop(name)
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, path, metadata=header["__metadata__"])
    with pytest.raises(FormatError, match="not a scene latent"):
        SceneLatent.load(path)


def test_a_damaged_file_is_a_named_error(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    SCENE.save(path)
    whole = path.read_bytes()
    for damaged in (
        b"",
        whole[:40],
        whole[:-5],
        b"\xff" * 64,
        whole.replace(b"grid_hw", b"grid_xx"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match="not a scene latent"):
            SceneLatent.load(path)


def test_asking_takes_the_encoder_that_made_it():
    with pytest.raises(WeightsError, match=r"no encoder .* encoder\.load_scene"):
        SCENE.query(0)
    encoder = untrained()
    assert SCENE.attach(encoder).query(0).depth.shape == SCENE.grid_hw
    encoder.hash = "another"
    with pytest.raises(WeightsError, match="made by encoder untrained, this is another"):
        SCENE.attach(encoder)


def test_the_summary_is_one_line_of_facts():
    assert SCENE.summary() == (
        "8 latents x 32 (1 kB) from 3 views of 6 x 8 patches, 2304 surface points, unit of length"
        " 1.250 m"
    )
    assert "unit of length unknown" in replace(SCENE, metres_per_unit=float("nan")).summary()


SURFACE = SCENE.surface
assert SURFACE is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"latents_LD": torch.full((4, 8), torch.nan)},
        {"camera_from_world_C44": 2 * SCENE.camera_from_world_C44},
        {"K_C33": -SCENE.K_C33},
        {"source_sizes": ((0, 480),) * 3},
        {"surface": replace(SURFACE, rgb_Chw3=SURFACE.rgb_Chw3.float())},
        {"surface": replace(SURFACE, confidence_Chw=SURFACE.confidence_Chw.bfloat16())},
        {"surface": replace(SURFACE, depth_Chw=SURFACE.depth_Chw * torch.inf)},
    ],
)
def test_values_that_no_encoder_writes_are_refused_by_name(wrong: dict[str, Any], tmp_path: Path):
    replace(SCENE, **wrong).save(tmp_path / "odd.safetensors")
    with pytest.raises(FormatError, match=r"odd\.safetensors: not a scene latent"):
        SceneLatent.load(tmp_path / "odd.safetensors")


def test_a_folder_is_no_scene(tmp_path: Path):
    with pytest.raises(FormatError, match="cannot be read"):
        SceneLatent.load(tmp_path)
