"""The encoding benchmark compares like with like: every side's latents are the same."""

from dataclasses import replace

import pytest
import torch

from benchmarks.encode import SIDES, SIZES, Encoding
from spa3r.teachers.chunks import VIEWS_PER_CHUNK
from tests.small_vggt import SMALL

# Views that change one another (init_values), and a student of a few thousand numbers.
TINY = replace(
    SIZES["small"],
    image_hw=(28, 42),
    vggt=SMALL,
    student=replace(
        SIZES["small"].student, geo_width=64, sem_width=16, width=48, num_latents=8,
        encoder_layers=1, decoder_layers=1,
    ),
)  # fmt: skip


@pytest.mark.parametrize("views", [1, VIEWS_PER_CHUNK + 1])
def test_all_sides_give_the_same_latents(views: int) -> None:
    """Up to the order of sums of chunks of other shapes; latents of standard deviation 1."""
    encoding = Encoding(TINY, VIEWS_PER_CHUNK + 1, "cpu")
    with torch.no_grad():
        for name, parameter in encoding.student.named_parameters():
            if parameter.ndim == 2 and "query" not in name:  # or every latent would be the same
                torch.nn.init.xavier_uniform_(parameter)
    runs: set[str] = set()
    for name in ("camera_head", "depth_head", "point_head"):
        head = encoding.vggt.get_submodule(name)
        head.register_forward_hook(lambda *_, name=name: runs.add(name))
    latents, heads = {}, {}
    for side in SIDES:
        runs.clear()
        latents[side] = encoding.run(side, views)
        heads[side] = sorted(runs)
    expected = latents["straightforward"]
    assert expected.shape == (1, 8, 48) and bool(expected.isfinite().all())
    for side in SIDES[1:]:
        torch.testing.assert_close(latents[side], expected, atol=1e-4, rtol=0)
    assert heads == {
        "straightforward": ["camera_head", "depth_head", "point_head"],
        "surface": ["camera_head", "depth_head"],
        "latents": ["camera_head"],
    }
    encoding.images_BV3HW[:, views - 1] = 1 - encoding.images_BV3HW[:, views - 1]
    assert (encoding.run("latents", views) - expected).abs().max() > 1e-2
