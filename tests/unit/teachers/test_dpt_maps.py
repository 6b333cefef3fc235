"""Depth at the patches against the published way: the whole map first, then one pixel of each."""

import pytest
import torch
from torch.nn.functional import interpolate, pad

from spa3r.teachers.dpt_head import DptConfig, DptHead
from spa3r.teachers.dpt_maps import add_uv_embedding, enlarge_around_patches


@pytest.mark.parametrize("grid_hw", [(2, 3), (5, 4)])
def test_an_answer_at_patches_is_the_maps(grid_hw: tuple[int, int]) -> None:
    torch.manual_seed(0)
    config = DptConfig(features=8, out_channels=(4, 4, 8, 8), layers=(0, 1, 2, 3))
    head = DptHead(16, config, channels=3, activation="inv_log")
    image_hw = (14 * grid_hw[0], 14 * grid_hw[1])
    levels = [3 * torch.randn(1, 3, grid_hw[0] * grid_hw[1], 16) for _ in range(4)]
    with torch.no_grad():
        whole = head(levels, image_hw)[0][:, :, ::14, ::14].flatten(2, 3)
        torch.testing.assert_close(head.at_patches(levels, image_hw), whole, atol=1e-5, rtol=1e-5)
        chunked = head.at_patches(levels, image_hw, views_per_chunk=2)
    torch.testing.assert_close(chunked, whole, atol=1e-5, rtol=1e-5)


def test_neighbourhoods_are_cut_from_the_enlarged_map() -> None:
    small, image_hw = torch.rand(2, 4, 16, 24), (28, 42)
    enlarged = interpolate(small, size=image_hw, mode="bilinear", align_corners=True)
    framed = pad(add_uv_embedding(enlarged, 1.5), (1, 1, 1, 1))
    around = enlarge_around_patches(small, image_hw, 14)
    for row in range(2):
        for column in range(3):
            theirs = framed[:, :, 14 * row :, 14 * column :][:, :, :3, :3]
            ours = around[:, :, 3 * row :, 3 * column :][:, :, :3, :3]
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
