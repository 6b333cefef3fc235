"""Encoded once: what is kept, what is found again, what is made again."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spa3r import storage
from spa3r.errors import ConfigError
from spa3r.hub import Spa3REncoder
from spa3r.latent import SceneLatent
from spa3r.latent_cache import LatentCache
from spa3r.models.spa3r import Spa3RModel
from spa3r.vision_input import SceneViews
from tests.scan_arrays import scan_arrays
from tests.untrained import untrained_rgbd

ARRAYS: dict[str, Any] = scan_arrays(views=2)


class Counting:
    """The encoder's teacher, counted."""

    def __init__(self, encoder: Spa3REncoder) -> None:
        self.calls, self._ask = 0, encoder.teacher.context
        encoder.teacher.context = self  # type: ignore[method-assign]

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        return self._ask(*args, **options)


@pytest.fixture
def encoder() -> Spa3REncoder:
    return untrained_rgbd()


def as_bytes(scene: SceneLatent, folder: Path) -> bytes:
    scene.save(folder / "scene.safetensors")
    return (folder / "scene.safetensors").read_bytes()


@pytest.mark.parametrize("url", [False, True])
def test_cached_equals_uncached_bit_for_bit(url: bool, encoder: Spa3REncoder, tmp_path: Path):
    cache = "memory://latents" if url else tmp_path / "cache"
    plain, teacher = encoder.encode(**ARRAYS), Counting(encoder)
    made = encoder.encode(**ARRAYS, cache=cache)
    found = encoder.encode(**ARRAYS, cache=cache)
    assert teacher.calls == 1 and len(storage.list_files(cache)) == 1
    assert as_bytes(plain, tmp_path) == as_bytes(made, tmp_path) == as_bytes(found, tmp_path)
    assert torch.equal(found.query(1).depth, plain.query(1).depth)


def test_a_hit_needs_no_teacher(
    encoder: Spa3REncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encoder.encode(**ARRAYS, cache=tmp_path)
    again = Spa3REncoder(encoder.model, encoder.card)

    def nowhere(_: Any) -> None:
        raise AssertionError("the teacher was looked for")

    monkeypatch.setattr(Spa3REncoder, "_find_teacher", nowhere)
    assert again.encode(**ARRAYS, cache=tmp_path).num_views == 2


def test_a_cache_that_cannot_be_written_is_said_before_the_work(
    encoder: Spa3REncoder, tmp_path: Path
):
    teacher = Counting(encoder)
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/x")):
        with pytest.raises(ConfigError, match=f"{place}: cannot be written") as caught:
            encoder.encode(**ARRAYS, cache=place)
        assert "\n" not in str(caught.value)
    assert teacher.calls == 0


def test_a_full_cache_need_not_be_writable(
    encoder: Spa3REncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = encoder.encode(**ARRAYS, cache=tmp_path)
    monkeypatch.setattr(storage, "check_writable", lambda *_, **__: 1 / 0)
    assert torch.equal(encoder.encode(**ARRAYS, cache=tmp_path).latents_LD, made.latents_LD)


def test_the_same_pixels_under_other_names_are_found(encoder: Spa3REncoder, tmp_path: Path):
    encoder.encode(**ARRAYS, cache=tmp_path / "cache")
    teacher = Counting(encoder)
    paths = []
    for i, image in enumerate(ARRAYS["images"]):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    named: dict[str, Any] = ARRAYS | {"images": paths}
    found = encoder.encode(**named, cache=tmp_path / "cache")
    assert found.names == ("0.png", "1.png") and teacher.calls == 0


def test_everything_that_matters_makes_another_entry(encoder: Spa3REncoder, tmp_path: Path):
    def changed(name: str, place: tuple[int, ...], by: float) -> dict[str, Any]:
        array = ARRAYS[name].copy()
        array[place] += array.dtype.type(by)
        return ARRAYS | {name: array}

    variants: list[dict[str, Any]] = [
        ARRAYS,
        changed("images", (0, 3, 4, 1), 1),
        changed("depth", (1, 5, 5), 1),
        changed("K", (1, 0, 2), 1e-9),
        changed("world_from_camera", (1, 0, 3), 1e-9),
        ARRAYS | {"surface_points": 100},
        ARRAYS | {"surface_points": 0},
    ]
    for count, arrays in enumerate(variants, start=1):
        encoder.encode(**arrays, cache=tmp_path)
        assert len(storage.list_files(tmp_path)) == count
    others = (untrained_rgbd(seed=1), untrained_rgbd(dtype="bfloat16"))
    for count, other in enumerate(others, start=len(variants) + 1):
        other.encode(**ARRAYS, cache=tmp_path)
        assert len(storage.list_files(tmp_path)) == count


def test_the_key_tells_apart_what_has_the_same_bytes(encoder: Spa3REncoder):
    """Shapes, dtypes, names of arrays, and the dtype of the tokens."""
    rgb = np.arange(2 * 28 * 56 * 3).astype(np.uint8).reshape(2, 28, 56, 3)
    depth, K = np.zeros((2, 3, 3), np.float32), np.zeros((2, 3, 3))
    alike = [
        {"rgb_VHW3": rgb},
        {"rgb_VHW3": rgb.reshape(2, 56, 28, 3)},
        {"rgb_VHW3": rgb.reshape(1, 56, 56, 3)},
        {"rgb_VHW3": rgb.view(np.int8)},
        {"rgb_VHW3": rgb, "K_V33": K},
        {"rgb_VHW3": rgb, "world_from_camera_V44": K},
        {"rgb_VHW3": rgb, "depth_VHW": depth},
        {"rgb_VHW3": rgb, "depth_VHW": depth.view(np.int32)},
    ]
    views = [SceneViews(**arrays, source_sizes=()) for arrays in alike]
    cache = LatentCache(encoder, "nowhere", 100)
    keys = [cache.key(one) for one in views]
    assert len(set(keys)) == len(keys)
    assert keys[0] == cache.key(replace(views[0], rgb_VHW3=np.asfortranarray(rgb)))
    card = replace(encoder.card, teacher=replace(encoder.card.teacher, dtype="bfloat16"))
    other = Spa3REncoder(encoder.model, card)
    assert other.hash == encoder.hash, "the student is the same, what it reads is not"
    assert LatentCache(other, "nowhere", 100).key(views[0]) != keys[0]


def test_equal_weights_of_another_configuration_are_another_encoder(encoder: Spa3REncoder):
    config = replace(encoder.card.model, rope_base=7.0)
    model = Spa3RModel(config)
    model.load_state_dict(encoder.model.state_dict())
    other = Spa3REncoder(model, replace(encoder.card, model=config))
    assert other.hash != encoder.hash
    assert not torch.equal(other.encode(**ARRAYS).latents_LD, encoder.encode(**ARRAYS).latents_LD)


@pytest.mark.parametrize("damage", ["cut", "another encoder's"])
def test_a_damaged_entry_is_made_again_and_the_log_says_why(
    damage: str, encoder: Spa3REncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    cache = tmp_path / "cache"
    plain = encoder.encode(**ARRAYS, cache=cache)
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    if damage == "cut":
        entry.write_bytes(whole[:-9])
    else:
        untrained_rgbd(seed=1).encode(**ARRAYS).save(entry)
    with caplog.at_level(logging.WARNING):
        again = encoder.encode(**ARRAYS, cache=cache)
    reason = "not a scene latent" if damage == "cut" else "made by encoder"
    assert reason in caplog.text and "made again" in caplog.text
    assert as_bytes(again, tmp_path) == as_bytes(plain, tmp_path) and entry.read_bytes() == whole


def test_of_several_scenes_only_the_unknown_are_encoded(encoder: Spa3REncoder, tmp_path: Path):
    other = ARRAYS | {"images": np.ascontiguousarray(ARRAYS["images"][:, ::-1])}
    known = encoder.encode(**ARRAYS, cache=tmp_path)
    teacher = Counting(encoder)
    scenes = encoder.encode_many([other, ARRAYS, other], cache=tmp_path)
    assert teacher.calls == 1 and len(storage.list_files(tmp_path)) == 2
    assert torch.equal(scenes[1].latents_LD, known.latents_LD)
    assert torch.equal(scenes[0].latents_LD, scenes[2].latents_LD)
    assert not torch.equal(scenes[0].latents_LD, known.latents_LD)
