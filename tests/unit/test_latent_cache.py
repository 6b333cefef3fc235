"""Encoded once: what is kept, what is found again, what is made again."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spa3r import storage
from spa3r.hub import Spa3REncoder
from spa3r.latent import SceneLatent
from tests.scan_arrays import scan_arrays
from tests.untrained import untrained_rgbd

ARRAYS = scan_arrays(views=2)


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


def test_the_same_pixels_under_other_names_are_found(encoder: Spa3REncoder, tmp_path: Path):
    encoder.encode(**ARRAYS, cache=tmp_path / "cache")
    teacher = Counting(encoder)
    paths = []
    for i, image in enumerate(ARRAYS["images"]):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(paths[-1])
    found = encoder.encode(**ARRAYS | {"images": paths}, cache=tmp_path / "cache")
    assert found.names == ("0.png", "1.png") and teacher.calls == 0


def test_everything_that_matters_makes_another_entry(encoder: Spa3REncoder, tmp_path: Path):
    def changed(name: str, place: tuple[int, ...], by: float) -> dict[str, np.ndarray]:
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
