"""Encoding and asking on a CUDA device, against the CPU in float32. Skipped where there is none.

Tolerances are of latents of standard deviation 1. In float32 they leave room for convolutions in
TF32, which torch allows by default; in bfloat16 they are those of tests/unit/test_encode.py, where
the CPU's own bfloat16 is 0.03 away.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spa3r.hub import Spa3REncoder
from tests.scan_arrays import scan_arrays
from tests.untrained import untrained_photographer, untrained_rgbd

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
LATENTS = {"float32": 0.02, "bfloat16": 0.2}
"""Largest difference allowed."""
RELATIVE = {"float32": 0.01, "bfloat16": 0.1}
"""Largest norm of the difference of depth, cameras and features, as a share of their norm."""
KIB_PER_VIEW = 512
"""Of a view of 84 x 56 pixels, surface included. Live tensors, counted on the CPU, grow by 121 a
view, and by 1426 were the views not worked on in chunks."""

Make = Callable[..., Spa3REncoder]


@pytest.fixture(params=["rgbd", "vggt"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes the same encoder anew each time, for no two may share a model that is moved."""
    if request.param == "rgbd":
        return untrained_rgbd
    return lambda **options: untrained_photographer(tmp_path, **options)


def views_for(encoder: Spa3REncoder, views: int = 4) -> dict[str, Any]:
    arrays = scan_arrays(views=views)
    by_sensor = encoder.card.teacher.geometric == "rgbd"
    return arrays if by_sensor else {"images": arrays["images"]}


def near(found: Any, expected: Any, share: float) -> None:
    found, expected = (torch.as_tensor(x).double().cpu() for x in (found, expected))
    assert found.shape == expected.shape and bool(found.isfinite().all())
    assert (found - expected).norm() <= share * expected.norm()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scenes_and_answers_agree_with_the_cpu(make: Make, dtype: Any):
    ours, theirs = make(device=DEVICE, dtype=dtype), make(dtype="float32")
    assert (ours.precision, theirs.precision) == (dtype, "float32")
    arrays = views_for(theirs)
    scene, expected = ours.encode(**arrays), theirs.encode(**arrays)
    torch.testing.assert_close(scene.latents_LD, expected.latents_LD, atol=LATENTS[dtype], rtol=0)
    assert (expected.latents_LD.float().std(0) > 0.05).any(), "latents that could be told apart"
    near(scene.camera_from_world_C44, expected.camera_from_world_C44, RELATIVE[dtype])
    near(scene.K_C33, expected.K_C33, RELATIVE[dtype])
    assert scene.surface is not None and expected.surface is not None
    near(scene.surface.depth_Chw, expected.surface.depth_Chw, RELATIVE[dtype])
    # The same scene is asked, so that only the decoder's own precision shows.
    for camera in (0, 1):
        view, other = ours.query(expected, camera), theirs.query(expected, camera)
        near(view.depth, other.depth, RELATIVE[dtype])
        assert view.geometric is not None and other.geometric is not None
        near(view.geometric, other.geometric, RELATIVE[dtype])


def test_moving_there_and_back(make: Make):
    encoder = make()
    arrays = views_for(encoder)
    before, known = encoder.encode(**arrays), encoder.hash
    precision = encoder.precision
    assert encoder.to(DEVICE) is encoder and encoder.device.type == torch.device(DEVICE).type
    assert {x.device.type for x in encoder.model.state_dict().values()} == {encoder.device.type}
    bfloat16 = encoder.device.type == "cuda" and torch.cuda.is_bf16_supported(
        including_emulation=False
    )
    assert encoder.precision == ("bfloat16" if bfloat16 else "float32"), "dtype='auto'"
    there = encoder.encode(**arrays)
    assert there.latents_LD.device.type == there.camera_from_world_C44.device.type == "cpu"
    torch.testing.assert_close(there.latents_LD, before.latents_LD, atol=0.2, rtol=0)
    near(encoder.query(before, 1).depth, before.query(1).depth, 0.1)
    back = encoder.to("cpu").encode(**arrays)
    assert (encoder.hash, encoder.precision) == (known, precision)
    assert torch.equal(back.latents_LD, before.latents_LD)


def peak_bytes(run: Callable[[], object]) -> int:
    """Most memory that tensors took on the device while something ran."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated()


def test_memory_grows_little_with_the_views(tmp_path: Path):
    """Chunks of views bound the teacher's intermediate results; what grows is what is kept."""
    encoder = untrained_photographer(tmp_path, device=DEVICE)
    peaks = {}
    for views in (16, 16, 48):  # the first is a warm-up
        images = scan_arrays(views=views)["images"]
        peaks[views] = peak_bytes(lambda images=images: encoder.encode(images))
    assert 0 < peaks[48] - peaks[16] < 32 * KIB_PER_VIEW * 1024
